"""Nobody gets in by a file, a name or an answer, and no secret gets out with a message."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from report_support import sample_report
from tests_support import first_fast, tiny_model, tiny_tokenizer

import bertcompress as bc
from bertcompress.cli.main import main
from bertcompress.errors import Notice, OutputError
from bertcompress.measure.known_answers import (
    KNOWN_ANSWERS_FILE,
    read_known_answers,
    write_known_answers,
)
from bertcompress.publish.card import CardFacts, inherited, render
from bertcompress.report import Report, print_report
from bertcompress.support.terminal import Terminal
from bertcompress.wording import plain

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TOKEN = "hf_" + "Secret0123456789abcdef"
ESCAPES = "\x1b]0;owned\x07\x1b[31mred\x1b[2J\r\u202e"
MARKUP = (
    "[/red][link=file:///etc]<script>alert(1)</script><img src=x onerror=y>](http://evil)|`$\\x$"
)


def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str]:
    """Run the command line in this process; return status and all that it wrote."""
    monkeypatch.setattr(sys, "argv", ["bertcompress", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out + said.err


def one_error(code: int, said: str) -> str:
    """Return the one line of an error; there is nothing else, and no traceback."""
    assert code == 2, said
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, said
    assert said.splitlines()[-1] == lines[0]
    assert len(lines[0]) < 5_000
    return lines[0]


# -- names and messages


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", TOKEN),
        ("check", TOKEN),
        ("run", TOKEN, "--out", "x"),
        ("run", "small", "--out", "x", "--model", TOKEN, "--set", f"{TOKEN}=1"),
        ("run", "small", "--out", "x", "--seed", TOKEN),
        ("evaluate", f"./{TOKEN}", "--task", "glue/mrpc"),
        ("evaluate", f"https://me:{TOKEN}@hub/x", "--task", TOKEN),
        ("evaluate", "./x", "--task", f"https://hub/t.yaml?access_token={TOKEN}"),
        ("push", TOKEN, TOKEN),
        ("pull", f"me/{TOKEN}/x", "y"),
        ("list", TOKEN),
        (TOKEN,),
        ("show", f"--{TOKEN}"),
    ],
    ids=lambda words: "-".join(words).replace(TOKEN, "TOKEN").replace("/", "_")[:40],
)
def test_a_token_is_never_echoed(
    arguments: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = command(monkeypatch, capsys, *arguments)
    one_error(code, said)
    assert TOKEN not in said
    assert TOKEN[3:] not in said


def test_errors_and_notices_of_python_are_masked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "looks-like-nothing")
    for kind in (OutputError, Notice):
        words = str(kind(f"{ESCAPES} {TOKEN} looks-like-nothing http://me:word@h/"))
        assert "(token) (token) http://h/" in words
        assert words.isprintable()


@pytest.mark.parametrize("name", ["x" * 100_000, "a/" * 50_000, ESCAPES * 3_000, "a://" * 25_000])
@pytest.mark.parametrize("verb", ["show", "run", "evaluate"])
def test_a_name_of_any_length_is_cut(
    name: str,
    verb: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    more = {"show": (), "run": ("--out", "x"), "evaluate": ("--task", name)}[verb]
    error = one_error(*command(monkeypatch, capsys, verb, name, *more))
    assert error.isprintable()


def test_what_is_printed_is_text_and_no_markup() -> None:
    from rich.table import Table
    from rich.text import Text

    screen = Terminal(file=io.StringIO(), force_terminal=True, width=200, color_system=None)
    table = Table(MARKUP, title=ESCAPES + MARKUP, caption=ESCAPES)
    table.add_row(ESCAPES + MARKUP + TOKEN)
    for each in (table, ESCAPES + MARKUP, Text(ESCAPES + TOKEN, "red"), f"{TOKEN} [/]"):
        screen.print(each)
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "\x07" not in shown
    assert "\x1b[2J" not in shown
    assert "\u202e" not in shown
    assert TOKEN not in shown
    assert "[/red]" in shown
    assert "\\x1b[31mred" in shown


def test_it_says_how_much_was_cut() -> None:
    assert plain("x" * 5_000, 10) == "xxxxxxxxxx... (5,000 characters)"
    assert plain("tab\tline\n", lines=True) == "tab\tline\n"
    assert TOKEN[:12] not in plain("x" * 190 + TOKEN, 200)


def hostile(name: str) -> Report:
    """A report in which everything that others may name has this name."""
    plain_report = sample_report().model_dump(mode="json")
    plain_report["recipe"] |= {"model": name, "task": name}
    plain_report["task"] |= {"name": name, "dataset": name, "labels": [name, f"{name}2"]}
    plain_report["environment"] |= {"processor": name}
    plain_report["verdict"]["red"] = [f"classes by order: {name}"]
    plain_report["verdict"]["warnings"] = [name]
    for stage in plain_report["stages"]:
        stage["notes"] = [name]
    return Report.model_validate(plain_report)


def html(report: Report) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fonts lack some characters
        return report.to_html()


@pytest.mark.parametrize(
    "name",
    first_fast(
        [
            ESCAPES + MARKUP,
            TOKEN,
            "x" * 100_000,
            "`" * 50 + "\n```\n---\n",
            "a\n\n# Title\n- [x](y)",
        ]
    ),
    ids=["markup", "token", "long", "fences", "lines"],
)
def test_no_name_gets_out_of_its_place(name: str, tmp_path: Path) -> None:
    report = hostile(name)
    screen = Terminal(file=io.StringIO(), width=120)
    print_report(report, screen)
    recipe = yaml.safe_dump({"model": name, "task": name, "methods": ["quantize_int8"]})
    pages = {
        "terminal": screen.file.getvalue(),  # type: ignore[attr-defined]
        "string": str(report),
        "markdown": report.to_markdown(),
        "html": html(report),
        "card": render(CardFacts(report, recipe, 2)),
        "json": report.model_dump_json(),
    }
    for where, page in pages.items():
        assert "\x1b" not in page, where
        assert TOKEN not in page, where
        assert len(page) < 3_000_000, where
    # The recipe of a card stands in a fence that nothing in it can close.
    before, _, after = pages["card"].partition("## Recipe\n\n")
    code = after[: after.index("## Citation")]
    fence = code[: code.index("yaml")]
    assert code.count(f"\n{fence}\n") == 1
    # What lies before is YAML, and data.
    body = before.split("\n---\n", 1)[1]
    for page in (pages["html"], pages["markdown"], body):
        assert "<script" not in page
        assert "<img src=x" not in page
        assert "\n# Title" not in page
        assert "](http://evil" not in page or page is pages["html"]
    front = yaml.safe_load(pages["card"].split("\n---\n")[0])
    assert front["library_name"] == "transformers"


@pytest.mark.parametrize(
    "front",
    [
        f"license: '{MARKUP}'\nlanguage: ['<b>', en, 7]\nbase_model: '../../x'",
        "license: [a, b]\nlanguage: {a: b}",
        "license: " + "x" * 100_000,
        "a: &a [1, 1]\n" + "\n".join(f"b{i}: &b{i} [*a, *a]" for i in range(5_000)),
        "a: " + "[" * 5_000,
        "license_link: javascript:alert(1)\nlicense: other",
        "? [a]\n: b",
        "\x00",
        "- a\n- b",
    ],
)
def test_of_another_card_only_what_looks_right_is_taken(front: str, tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text(f"---\n{front}\n---\n# x\n", encoding="utf-8")
    known = inherited(card, "base_model")
    assert set(known) <= {"license_id", "language"}
    assert known.get("license_id") in (None, "other")
    assert known.get("language") in (None, ("en",))
    card.write_bytes(b"---\nlicense: mit\n---\n" + b"x" * 6_000_000)
    assert inherited(card) == {}


# -- files


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\n" + "\n".join(f"b{i}: &b{i} [{'*a' if not i else f'*b{i - 1}'}, "
        f"{'*a' if not i else f'*b{i - 1}'}]" for i in range(60)),
        "a: &a [*a]",
        "a: " + "[" * 20_000,
        "a: |\n" + " x\n" * 4_000_000,
    ],
    ids=["laughs", "circle", "deep", "large"],
)  # fmt: skip
def test_yaml_that_unfolds_is_one_error(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    assert "x.yaml" in one_error(*command(monkeypatch, capsys, "check", tmp_path / "x.yaml"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and its ONNX files with their known."""
    place = tmp_path_factory.mktemp("gate")
    names = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    bc.save(tiny_model(num_labels=2, **names), place / "model", tiny_tokenizer())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bc.export(place / "model", place / "out")
    return place


def copy_of(folder: Path, target: Path) -> Path:
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).symlink_to(file)
    return target


def replace(file: Path, content: bytes | str) -> None:
    file.unlink(missing_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def header(shape: str, descr: str = "'<i8'") -> bytes:
    """An array that claims a shape, and has three numbers."""
    words = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    line = words.ljust(117).encode() + b"\n"
    npy = b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line + bytes(24)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inputs/input_ids.npy", npy)
    return stream.getvalue()


FACTS = {
    "format": 1,
    "environment": {},
    "latency_ms": {},
    "runs_as": {"model.onnx": ["onnxruntime", "fp32"]},
}
IDS = np.ones((64, 8), np.int64)
GOOD: dict[str, Any] = {
    "facts": json.dumps(FACTS),
    "inputs/input_ids": IDS,
    "inputs/attention_mask": IDS,
    "answers/model.onnx": np.ones((64, 2), np.float32),
}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != name}


def facts(**fields: Any) -> dict[str, Any]:
    return GOOD | {"facts": json.dumps(FACTS | fields)}


PROBES: dict[str, bytes] = {
    "empty": b"",
    "no zip": b"PK nothing",
    "cut": npz(**GOOD)[:-300],
    "flipped": npz(**GOOD).replace(b"NUMPY", b"NUMPX"),
    "nothing in it": npz(),
    "no facts": npz(**without("facts")),
    "facts are numbers": npz(**GOOD | {"facts": IDS}),
    "facts no json": npz(**GOOD | {"facts": "{"}),
    "facts a list": npz(**GOOD | {"facts": "[1]"}),
    "facts deep": npz(**GOOD | {"facts": "[" * 50_000}),
    "format a list": npz(**facts(format=[])),
    "format a word": npz(**facts(format="x")),
    "newer": npz(**facts(format=99)),
    "runs as what": npz(**facts(runs_as={"model.onnx": ["magic", "fp32"]})),
    "runs as one": npz(**facts(runs_as={"model.onnx": "onnxruntime"})),
    "runs as none": npz(**facts(runs_as={})),
    "environment": npz(**facts(environment=7)),
    "instruction sets": npz(**facts(environment={"instruction_sets": [[], {}]})),
    "versions": npz(**facts(environment={"versions": [1]})),
    "latency": npz(**facts(latency_ms={"model.onnx": "fast"})),
    "another part": npz(**GOOD | {"other/x": IDS}),
    "another input": npz(**GOOD | {"inputs/pixels": IDS}),
    "no mask": npz(**without("inputs/attention_mask")),
    "no answers": npz(**without("answers/model.onnx")),
    "floats as tokens": npz(**GOOD | {"inputs/input_ids": IDS / 2}),
    "negative tokens": npz(**GOOD | {"inputs/input_ids": -IDS}),
    "mask of tens": npz(**GOOD | {"inputs/attention_mask": 10 * IDS}),
    "mask of nothing": npz(**GOOD | {"inputs/attention_mask": 0 * IDS}),
    "one row": npz(**GOOD | {"inputs/input_ids": IDS[0]}),
    "other rows": npz(**GOOD | {"answers/model.onnx": np.ones((3, 2), np.float32)}),
    "answers of words": npz(**GOOD | {"answers/model.onnx": np.array(["x"] * 64)}),
    "outside": npz(**GOOD | {"answers/..\\..\\x": np.ones((64, 2), np.float32)}),
    "above": npz(**GOOD | {"answers/../x.onnx": np.ones((64, 2), np.float32)}),
    "claims a terabyte": header("(1000000, 1000000)"),
    "claims less than nothing": header("(-1,)"),
    "objects": header("(3,)", "'|O'"),
    "a header of code": header("__import__('os')"),
}


@pytest.mark.parametrize("what", PROBES)
def test_malformed_known_answers_are_one_error(
    what: str,
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = copy_of(made / "out" / "onnx", tmp_path / "onnx")
    replace(place / KNOWN_ANSWERS_FILE, PROBES[what])
    error = one_error(*command(monkeypatch, capsys, "verify", place, "--seconds", 0))
    assert KNOWN_ANSWERS_FILE in error


def test_good_known_answers_are_read_as_before(made: Path, tmp_path: Path) -> None:
    known = read_known_answers(made / "out" / "onnx")
    write_known_answers(tmp_path, known)
    again = read_known_answers(tmp_path)
    assert dict(known.runs_as) == dict(again.runs_as)
    assert all(np.array_equal(known.inputs[n], again.inputs[n]) for n in known.inputs)


BOMB = """
import resource, sys
from pathlib import Path
from bertcompress.errors import CheckpointError
from bertcompress.measure.known_answers import read_known_answers
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_known_answers(Path(sys.argv[1]))
except CheckpointError as error:
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(grown // 1024, error)
"""


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / KNOWN_ANSWERS_FILE, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("inputs/input_ids.npy", "w", force_zip64=True) as stream,
    ):
        for _ in range(600):
            stream.write(bytes(1_000_000))
    done = subprocess.run(
        [sys.executable, "-c", BOMB, str(tmp_path)], capture_output=True, text=True, check=True
    )
    grown_mb, _, words = done.stdout.partition(" ")
    assert "unpacks to 1 arrays of 600 MB" in words
    assert int(grown_mb) < 50


def wrong_field(**fields: Any) -> Callable[[dict[str, Any]], str]:
    return lambda good: json.dumps(good | fields)


CONFIGS: dict[str, Callable[[dict[str, Any]], str]] = {
    "empty": lambda _: "",
    "list": lambda _: "[]",
    "null": lambda _: "null",
    "word": lambda _: '"bert"',
    "cut": lambda good: json.dumps(good)[:-20],
    "deep": lambda _: '{"a":' * 5_000,
    "levels": lambda good: json.dumps(good | {"x": 0})[:-2] + "[" * 150 + "]" * 150 + "}",
    "large": lambda good: json.dumps(good) + " " * 17_000_000,
    "digits": lambda _: '{"vocab_size": ' + "9" * 10_000 + "}",
    "no classes": wrong_field(id2label=7, label2id=None),
    "classes of lists": wrong_field(id2label={"a": []}, label2id=None),
    "classes with gaps": wrong_field(id2label={"0": "a", "7": "b"}, label2id=None),
    "type a list": wrong_field(model_type=["bert"]),
    "type an object": wrong_field(model_type={}),
    "type long": wrong_field(model_type="x" * 100_000),
    "architectures": wrong_field(architectures="BertModel"),
    "architectures of numbers": wrong_field(architectures=[1]),
    "vocabulary a word": wrong_field(vocab_size="many"),
    "vocabulary huge": wrong_field(vocab_size=10**12),
    "vocabulary negative": wrong_field(vocab_size=-1),
    "positions a list": wrong_field(max_position_embeddings=[512]),
    "positions negative": wrong_field(max_position_embeddings=-5),
    "padding a word": wrong_field(pad_token_id="[PAD]"),
    "padding an object": wrong_field(pad_token_id={}),
    "layers endless": wrong_field(num_hidden_layers=10**9),
    "layers a word": wrong_field(num_hidden_layers="twelve"),
    "heads nothing": wrong_field(num_attention_heads=0),
    "record a word": wrong_field(bertcompress="yes"),
    "own code a word": wrong_field(auto_map="x.py"),
    "decoder a word": wrong_field(is_decoder="no"),
}


@pytest.mark.parametrize("what", CONFIGS)
@pytest.mark.parametrize("verb", ["evaluate", "bench", "evaluate model", "inspect"])
def test_a_malformed_config_is_one_error(
    what: str,
    verb: str,
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    of_onnx = verb in ("evaluate", "bench")
    place = copy_of(made / "out" / "onnx" if of_onnx else made / "model", tmp_path / "place")
    good = json.loads((place / "config.json").read_text(encoding="utf-8"))
    replace(place / "config.json", CONFIGS[what](good))
    target = place / "model.onnx" if of_onnx else place
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "the cat,yes\na dog,no\n" * 8, encoding="utf-8")
    given = ("--train", rows, "--validation", rows, "--text", "text", "--label", "label")
    more = given if verb.startswith("evaluate") else ()
    error = one_error(*command(monkeypatch, capsys, verb.split()[0], target, *more))
    assert "config.json" in error or "model family" in error


def graph(file: Path, nodes: list[Any], outputs: list[Any], inputs: str = "input_ids") -> None:
    helper, types = onnx.helper, onnx.TensorProto
    port = helper.make_tensor_value_info(inputs, types.INT64, ["batch", "sequence"])
    table = helper.make_tensor("c", types.FLOAT, [1, 2], [0.1, 0.2])
    body = helper.make_graph(nodes, "g", [port], outputs, [table])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    replace(file, model.SerializeToString())


def build(what: str, file: Path) -> None:
    """Write a graph that cannot be meant."""
    node, types = onnx.helper.make_node, onnx.TensorProto
    name = "pixels" if what == "another input" else "input_ids"
    first = node("Cast", [name], ["x"], to=types.FLOAT)
    mean = node("ReduceMean", ["x"], ["m"], axes=[0, 1], keepdims=1)
    rows = 1 if what == "says one row" else "batch"
    logits = onnx.helper.make_tensor_value_info("logits", types.FLOAT, [rows, 2])
    if what == "no outputs":
        graph(file, [first], [])
    elif what == "cycle":
        loop = [node("Add", ["x", "b"], ["a"]), node("Add", ["a", "x"], ["b"])]
        graph(file, [first, *loop, node("ReduceMean", ["b"], ["logits"], axes=[1])], [logits])
    elif what == "rows of tokens":  # nobody can tell before it runs
        turned = node("Transpose", ["x"], ["y"], perm=[1, 0])
        mean = node("ReduceMean", ["y"], ["m"], axes=[1], keepdims=1)
        graph(file, [first, turned, mean, node("Add", ["m", "c"], ["logits"])], [logits])
    else:
        graph(file, [first, mean, node("Add", ["m", "c"], ["logits"])], [logits], name)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("no outputs", "has no outputs"),
        ("cycle", "not readable by"),
        ("says one row", "a fixed number of answers"),
        ("one row", "a fixed number of answers"),
        ("rows of tokens", "one row each is needed"),
        ("another input", "takes pixels"),
    ],
)
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("verb", ["evaluate", "bench"])
def test_graphs_that_answer_nothing_are_refused(
    what: str,
    words: str,
    runtime: str,
    verb: str,
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip(runtime)
    place = copy_of(made / "out" / "onnx", tmp_path / "onnx")
    build(what, place / "model.onnx")
    train, rows = tmp_path / "train.csv", tmp_path / "rows.csv"
    train.write_text("text,label\n" + "the cat,yes\na dog,no\n" * 8, encoding="utf-8")
    rows.write_text("text,label\n" + "red bird,yes\nold house,no\n" * 8, encoding="utf-8")
    more: tuple[object, ...] = ("--batch", 4, "--length", 8, "--seconds", 0.1)
    if verb == "evaluate":
        more = ("--train", train, "--validation", rows, "--text", "text", "--label", "label")
    arguments = (verb, place / "model.onnx", "--runtime", runtime, *more)
    error = one_error(*command(monkeypatch, capsys, *arguments))
    assert words in error


def test_a_report_from_elsewhere_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = sample_report().model_dump(mode="json")
    wrong = ["", "[]", "7", "[" * 20_000, json.dumps(good | {"stages": []})]
    wrong.append(json.dumps(good | {"verdict": good["verdict"] | {"baseline": "nobody"}}))
    for text in wrong:
        (tmp_path / "report.json").write_text(text, encoding="utf-8")
        error = one_error(*command(monkeypatch, capsys, "plot", tmp_path, "--out", tmp_path / "f"))
        assert "report" in error
    good["stages"][-1]["deployments"][0]["path"] = "../../elsewhere"
    (tmp_path / "report.json").write_text(json.dumps(good), encoding="utf-8")
    error = one_error(*command(monkeypatch, capsys, "bench", tmp_path))
    assert "'../../elsewhere', which is no file of a run" in error


def test_a_saved_model_is_for_others_to_read(made: Path, tmp_path: Path) -> None:
    plain_file = tmp_path / "x"
    plain_file.touch()
    usual = plain_file.stat().st_mode & 0o777
    folder = bc.save(tiny_model(), tmp_path / "model", tiny_tokenizer())
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {usual}


def test_a_long_name_takes_no_longer_than_a_short_one() -> None:
    """No pattern looks at a text from each of its characters to its end."""
    from bertcompress.publish.scrubbing import scrub

    def took(length: int) -> float:
        begin = time.process_time()
        for part in ("a", "/", "a://", "hf_", "a?token=", "~/", "\\\\a", "\x1b["):
            scrub(plain(part * (length // len(part)), 10**6))
        return time.process_time() - begin

    took(1_000)
    assert took(400_000) < 60 * max(took(40_000), 1e-3)
