"""Bad input through the real command line: status 2, one line that helps, nothing left behind."""

from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from tests_support import WORDS, tiny_model, tiny_tokenizer

import bertcompress as bc
from bertcompress.cli.main import main

FINETUNE = {"finetune": {"epochs": 1, "batch_size": 8, "precision": "fp32"}}
HEADER = "sentence,verdict"


def rows(count, shift=0):
    texts = [
        f"{WORDS[i % 20 + shift // 2]} {WORDS[3 * i % 23]} {WORDS[i % 7]}" for i in range(count)
    ]
    return [f"{text},{'yes' if i % 2 else 'no'}" for i, text in enumerate(texts)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Saved once: a fine-tuned model and one without a head."""
    place = tmp_path_factory.mktemp("models")
    names = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    bc.save(tiny_model(num_labels=2, **names), place / "tuned", tiny_tokenizer())
    bc.save(tiny_model("bert", "Model"), place / "bare", tiny_tokenizer())
    return place


@pytest.fixture
def place(tmp_path, models, monkeypatch):
    """A working folder with a recipe, data, both models, and room for what a case breaks."""
    monkeypatch.chdir(tmp_path)
    for name in ("tuned", "bare"):
        Path(name).symlink_to(models / name)
    write("train.csv", [HEADER, *rows(40)])
    write("validation.csv", [HEADER, *rows(16, shift=5)])
    recipe([{"prune_structured": {"keep": 0.5, "rows": 8}}])
    task()
    return tmp_path


def write(name, lines):
    Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def recipe(methods, name="recipe.yaml", **fields):
    content = {"model": "tuned", "task": "task.yaml", "methods": methods} | fields
    content.setdefault("measure", {"latency": False})
    Path(name).write_text(yaml.safe_dump(content), encoding="utf-8")


def task(**fields):
    content = {
        "name": "mine",
        "dataset": "csv",
        "files": {"train": "train.csv", "validation": "validation.csv"},
        "text": "sentence",
        "label": "verdict",
        "max_length": 16,
    }
    Path("task.yaml").write_text(yaml.safe_dump(content | fields), encoding="utf-8")


def command(monkeypatch, capsys, *arguments):
    """Run the command line in this process; return status and standard error."""
    monkeypatch.setattr(sys, "argv", ["bertcompress", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code, capsys.readouterr().err


def own_model(name, **config):
    bc.save(tiny_model(num_labels=2), name, tiny_tokenizer())
    path = Path(name) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    recipe(["prune_structured"], model=name)


def gpt2():
    own_model("gpt", model_type="gpt2")


def decoder():
    own_model("decoder", is_decoder=True)


def pickled():
    own_model("pickled")
    Path("pickled/model.safetensors").unlink()
    torch.save({}, "pickled/pytorch_model.bin")


def truncated():
    own_model("truncated")
    path = Path("truncated/model.safetensors")
    path.write_bytes(path.read_bytes()[:200])


def swapped_tokenizer():
    bc.save(tiny_model(num_labels=2, vocab_size=9), "swapped", tiny_tokenizer())
    recipe(["prune_structured"], model="swapped")


def no_config():
    Path("empty").mkdir()
    recipe(["prune_structured"], model="empty")


def latin():
    Path("train.csv").write_bytes("sentence,verdict\ncafé,yes\n".encode("latin-1"))


def interrupted():
    Path(".out.partial/stages").mkdir(parents=True)
    Path(".out.partial/recipe.yaml").write_text("seed: 5\n")


def existing():
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")


RUN = ["run", "recipe.yaml", "--out", "out"]
MINE = ["run", "quickstart", "--model", "tuned", "--out", "out"]
FILES = ["--train", "train.csv", "--validation", "validation.csv"]

CASES = {
    # name: (what is broken first, arguments, what the line says)
    "unknown recipe": (
        None,
        ["run", "smal", "--out", "out"],
        "unknown recipe 'smal'; did you mean 'small'",
    ),
    "no such file": (None, ["run", "none.yaml", "--out", "out"], "none.yaml: no such file"),
    "unknown key": (
        lambda: recipe([FINETUNE], sede=1),
        RUN,
        "recipe.yaml: unknown field 'sede'; did you mean 'seed'",
    ),
    "unknown setting": (
        lambda: recipe([{"finetune": {"epoch": 1}}]),
        RUN,
        r"methods\[0\].finetune: unknown field 'epoch'; did you mean 'epochs'",
    ),
    "unknown method": (
        lambda: recipe(["prune_structure"]),
        RUN,
        r"methods\[0\]: unknown method .*did you mean 'prune_structured'",
    ),
    "no methods": (lambda: recipe([]), RUN, "methods: empty; allowed: finetune"),
    "not YAML": (lambda: write("recipe.yaml", ["methods: [", "x"]), RUN, r"recipe.yaml:\d+: "),
    "key twice": (
        lambda: write("recipe.yaml", ["seed: 1", "seed: 2"]),
        RUN,
        "recipe.yaml:2: key 'seed' is given twice",
    ),
    "bad order": (
        lambda: recipe(["quantize_int8", FINETUNE]),
        RUN,
        "comes after quantize_int8, .* put quantize_int8 last",
    ),
    "distil from itself": (
        lambda: recipe(["distill"]),
        RUN,
        r"methods\[0\].distill: nothing was cut before it",
    ),
    "keep nothing": (
        None,
        [*RUN, "--set", "methods.0.keep=0"],
        r"keep: .*greater than 0 \(got 0\)",
    ),
    "keep more than all": (
        None,
        [*RUN, "--set", "methods.0.keep=2"],
        r"keep: .*less than or equal to 1 \(got 2\)",
    ),
    "nonsense override": (None, [*RUN, "--set", "nonsense"], "--set nonsense: must look like"),
    "override of no method": (
        None,
        [*RUN, "--set", "methods.5.keep=1"],
        "no entry '5'; allowed: 0 to 0",
    ),
    "negative seed": (None, [*RUN, "--seed", "-1"], "seed: .*greater than or equal to 0"),
    "unsupported family": (gpt2, RUN, "the model family 'gpt2' is not supported; supported: bert"),
    "decoder": (decoder, RUN, "a decoder; only encoders"),
    "pickle": (pickled, RUN, "pytorch_model.bin is a pickle.*save_pretrained"),
    "truncated weights": (truncated, RUN, "model.safetensors is damaged"),
    "tokenizer of another model": (
        swapped_tokenizer,
        RUN,
        "tokenizer has 29 tokens, the embedding table 9",
    ),
    "folder without a model": (no_config, RUN, "model 'empty': no config.json"),
    "no network": (
        None,
        [*RUN, "--model", "me/not-here"],
        "model 'me/not-here': .*Hub cannot be reached",
    ),
    "no such folder": (None, [*RUN, "--model", "./not-here"], "model './not-here': not a folder"),
    "unknown embedded model": (
        None,
        [*RUN, "--model", "embedded:minilm"],
        "did you mean 'embedded:minilm-l6'",
    ),
    "no head": (None, [*RUN, "--model", "bare"], "no head for task 'mine'; put finetune first"),
    "too long": (
        lambda: task(max_length=64),
        RUN,
        "max_length 64 is beyond .* table of .*, 40 tokens; set max_length to at most 40",
    ),
    "unknown task": (
        None,
        [*RUN, "--task", "glue/mrcp"],
        "unknown task 'glue/mrcp'; did you mean 'glue/mrpc'",
    ),
    "unknown field of a task": (
        lambda: task(lable="x"),
        RUN,
        "unknown field 'lable'; did you mean 'label'",
    ),
    "missing column": (lambda: task(text="sentance"), RUN, "'sentance'.*did you mean 'sentence'"),
    "missing label column": (
        lambda: task(label="verdicts"),
        RUN,
        "'verdicts'.*did you mean 'verdict'",
    ),
    "labels out of range": (lambda: task(labels=["no", "maybe"]), RUN, "yes"),
    "empty split": (lambda: write("validation.csv", [HEADER]), RUN, "validation"),
    "no such data file": (lambda: Path("train.csv").unlink(), RUN, "train.csv"),
    "not UTF-8": (latin, RUN, r"train.csv.*UTF-8"),
    "validation is training": (
        lambda: write("validation.csv", [HEADER, *rows(40)[:9]]),
        RUN,
        "is in 'train' too",
    ),
    "data without text column": (None, [*MINE, *FILES], "--text: which column"),
    "text without data": (None, [*MINE, "--text", "sentence"], "--text: goes with --train"),
    "task and data": (
        None,
        [*MINE, *FILES, "--text", "sentence", "--task", "embedded"],
        "--task and --train: give one",
    ),
    "training file of another format": (
        None,
        [*MINE, "--train", "rows.xlsx", "--text", "sentence"],
        "'.xlsx' is not a format that is read; those are .csv",
    ),
    "existing folder": (existing, RUN, "out: exists already; choose another --out"),
    "below a file": (
        None,
        [*RUN[:3], "train.csv/out"],
        "train.csv/out: cannot be written: train.csv is a file",
    ),
    "interrupted": (interrupted, RUN, "an interrupted run is there; --resume goes on"),
    "other recipe": (interrupted, [*RUN, "--resume"], "the interrupted run had another recipe"),
    "unknown option": (None, [*RUN, "--sede", "3"], "No such option"),
    "no number": (None, [*RUN, "--seed", "three"], "--seed.*valid integer"),
    "missing argument": (None, ["run", "--out", "out"], "Missing argument"),
    "unknown command": (None, ["runn"], "No such command 'runn'"),
    "no command of the store": (None, ["store"], "Missing command"),
    "unknown list": (None, ["list", "recepies"], "unknown kind 'recepies'; did you mean 'recipes'"),
    "unknown name": (None, ["show", "distil"], "unknown name 'distil'; did you mean 'distill'"),
    "bad recipe to check": (
        lambda: recipe(["distil"]),
        ["check", "recipe.yaml"],
        "did you mean 'distill'",
    ),
    "recipe with unknown task to check": (
        lambda: recipe([FINETUNE], task="glue/colla"),
        ["check", "recipe.yaml"],
        "did you mean 'glue/cola'",
    ),
    "copy onto a file": (None, ["copy", "small", "train.csv"], "train.csv: exists already"),
    "copy to nowhere": (None, ["copy", "small", "no/where.yaml"], "no: no such folder"),
    "copy of nothing": (None, ["copy", "smal", "new.yaml"], "did you mean 'small'"),
    "evaluate on no task": (None, ["evaluate", "tuned"], "--task: on which task"),
    "evaluate nothing": (None, ["evaluate", "./none", "--task", "task.yaml"], "none"),
    "unknown runtime": (
        None,
        ["evaluate", "tuned", "--task", "task.yaml", "--runtime", "onxruntime"],
        "unknown runtime 'onxruntime'; did you mean 'onnxruntime'",
    ),
    "runtime without files": (
        None,
        ["evaluate", "tuned", "--task", "task.yaml", "--runtime", "openvino"],
        "openvino",
    ),
    "evaluate a bare model": (
        None,
        ["evaluate", "bare", "--task", "task.yaml"],
        "one with a trained head",
    ),
    "precision that is not there": (
        None,
        ["evaluate", "tuned", "--task", "task.yaml", "--precision", "int8"],
        "no int8 model in this folder; it holds torch fp32",
    ),
    "bench nothing": (None, ["bench", "./none"], "none"),
    "export onto a file": (None, ["export", "tuned", "--out", "train.csv"], "train.csv"),
    "inspect nothing": (None, ["inspect", "me/not-here"], "Hub cannot be reached"),
}


@pytest.mark.parametrize("name", CASES)
def test_an_error_is_one_line_that_helps(name, place, monkeypatch, capsys):
    prepare, arguments, says = CASES[name]
    if prepare is not None:
        prepare()
    before = snapshot(place)
    status, text = command(monkeypatch, capsys, *arguments)
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    told = [line for line in text.splitlines() if not line.startswith(("model ", "task "))]
    assert status == 2, text
    assert told == lines, f"more than the error: {text}"
    assert len(lines) == 1
    assert re.search(says, lines[0]), lines[0]
    assert len(lines[0]) > len("error: ") + 10
    assert snapshot(place) == before


def snapshot(place):
    return {
        str(path.relative_to(place)): path.read_bytes() if path.is_file() else None
        for path in sorted(place.rglob("*"))
    }


def test_the_same_recipe_works_when_nothing_is_wrong(place, monkeypatch, capsys):
    """So that the cases above fail for what they say."""
    status, text = command(monkeypatch, capsys, *RUN)
    assert status == 0
    assert (place / "out" / "report.json").is_file()
    assert "error" not in text
    assert command(monkeypatch, capsys, "evaluate", "out", "--task", "task.yaml") == (
        0,
        "out: torch fp32, which its verdict is about; --runtime and --precision choose another\n",
    )
    given = ["--runtime", "torch", "--precision", "bf16"]
    assert command(monkeypatch, capsys, "evaluate", "out", "--task", "task.yaml", *given) == (0, "")


def test_what_only_the_user_can_know_is_said(place, monkeypatch, capsys):
    """The names of a model's classes are not those of the data: their order is taken, and told."""
    own_model("nameless")
    status, text = command(monkeypatch, capsys, "evaluate", "nameless", "--task", "task.yaml")
    assert status == 0
    assert text.startswith("note: the model's classes (LABEL_0, LABEL_1) are not named as")
    assert len(text.splitlines()) == 1


def test_a_shape_that_the_model_has_not(place, monkeypatch, capsys):
    recipe([{"prune_structured": {"keep_layers": 9}}])
    status, text = command(monkeypatch, capsys, *RUN)
    assert status == 2
    assert text.splitlines()[-1] == "error: prune_structured: keep_layers 9 of 3 layers"
    assert not (place / "out").exists()
    assert not list(place.glob(".out*"))


def test_without_arguments_it_shows_help(place, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bertcompress"])
    with pytest.raises(SystemExit) as end:
        main()
    shown = capsys.readouterr()
    assert (end.value.code, shown.err) == (0, "")
    assert "Compress a model as a recipe says" in shown.out


def test_an_interrupt_says_how_to_go_on(place, monkeypatch, capsys):
    import bertcompress.runs.run

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(bertcompress.runs.run, "run", stop)
    status, text = command(monkeypatch, capsys, *RUN)
    assert status == 130
    assert "error: interrupted; add --resume to go on" in text


def test_only_what_can_be_resumed_is_said_to_be(place, monkeypatch, capsys):
    import bertcompress.verbs.inspect

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(bertcompress.verbs.inspect, "inspect", stop)
    status, text = command(monkeypatch, capsys, "inspect", "tuned")
    assert (status, text) == (130, "error: interrupted\n")


def test_what_is_shown_of_a_method_keeps_its_lines(place, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys, "argv", ["bertcompress", "show", "prune_structured"])
    with pytest.raises(SystemExit):
        main()
    import bertcompress.methods.pruning.structured as module

    shown = capsys.readouterr().out
    assert inspect.cleandoc(module.__doc__) in shown


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "out of memory; try a smaller batch_size"),
        (RuntimeError("CUDA out of memory"), "out of memory; try a smaller batch_size"),
        (OSError(28, "No space left on device", "out/x"), "out/x: No space left on device"),
    ],
)
def test_what_the_machine_runs_out_of(place, monkeypatch, capsys, error, says):
    import bertcompress.runs.run

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(bertcompress.runs.run, "run", fail)
    status, text = command(monkeypatch, capsys, *RUN)
    assert status == 2
    assert text.count("error: ") == 1
    assert says in text


def test_a_bug_is_not_dressed_up(place, monkeypatch):
    import bertcompress.runs.run

    def fail(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(bertcompress.runs.run, "run", fail)
    monkeypatch.setattr(sys, "argv", ["bertcompress", *RUN])
    with pytest.raises(RuntimeError, match="a bug"):
        main()


@pytest.fixture(autouse=True)
def _verbosity():
    """The command line quietens libraries for good; other tests are not to notice."""
    import datasets

    before = transformers.utils.logging.get_verbosity(), datasets.utils.logging.get_verbosity()
    yield
    transformers.utils.logging.set_verbosity(before[0])
    datasets.utils.logging.set_verbosity(before[1])
    datasets.enable_progress_bars()
