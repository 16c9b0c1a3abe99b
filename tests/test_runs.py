"""Whole runs on a tiny model: what is left behind, resume after a kill, the store."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import transformers
from report_support import deployment, scores
from tests_support import tiny_model, tiny_tokenizer, write_rows

import bertcompress as bc
from bertcompress.errors import ModelError, OutputError, RecipeError
from bertcompress.measure.timing.candidates import Latency
from bertcompress.measure.timing.claims import speed_claim
from bertcompress.report import VERSION, Report
from bertcompress.runs.report_rows import batch_note
from bertcompress.runs.ship import paid
from bertcompress.runs.stage import BATCHED
from bertcompress.runs.store import StageStore

pytestmark = pytest.mark.usefixtures("without_figures")

TRAIN = {"batch_size": 8, "learning_rate": 5e-3, "precision": "fp32"}
METHODS = [
    {"finetune": {**TRAIN, "epochs": 2}},
    {"prune_structured": {"keep": 0.5, "rows": 32}},
    {"distill": {**TRAIN, "epochs": 1}},
    {"quantize_int8": {"runtimes": ["onnxruntime"]}},
]

LONGER = [{"finetune": {**TRAIN, "epochs": 6}}, *METHODS[1:3]]
TO_INTEGERS = [*LONGER, {"q8bert": {**TRAIN, "epochs": 2, "learning_rate": 1e-4}}]


@pytest.fixture
def place(tmp_path):
    """A folder with a model without head, training rows and validation rows."""
    model = tiny_model("bert", "Model")
    model.save_pretrained(tmp_path / "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    write_rows(tmp_path / "train.csv", 240, 0, yes="yes", no="no")
    write_rows(tmp_path / "validation.csv", 60, 1, yes="yes", no="no")
    return tmp_path


def recipe(place: Path, methods=METHODS, **fields):
    task = bc.Task.from_files(
        place / "train.csv",
        place / "validation.csv",
        text="text",
        label="label",
        max_length=24,
    )
    quiet = {"latency": False}
    return bc.Recipe.parse(
        {"model": str(place / "bert"), "task": task, "methods": methods, "measure": quiet, **fields}
    )


def test_a_run_leaves_everything_that_the_design_names(place, with_figures):
    run = bc.run(recipe(place), place / "run")
    assert {path.name for path in run.folder.iterdir()} == {
        *("recipe.yaml", "report.json", "report.md", "report.html", "environment.json"),
        *("manifest.json", "model", "onnx", "baseline", "figures", "stages"),
    }
    assert [s.name for s in run.report.stages] == [
        "01-finetune",
        "02-prune_structured",
        "03-distill",
        "04-quantize_int8",
    ]
    last = run.report.last
    assert [(d.runtime, d.precision, d.path) for d in last.deployments] == [
        ("torch", "fp32", "model"),
        ("onnxruntime", "fp32", "onnx/model.onnx"),
        ("onnxruntime", "int8", "onnx/model_quantized.onnx"),
    ]
    for row in [d for stage in run.report.stages for d in stage.deployments]:
        assert (run.folder / row.path).exists()
        assert row.latency == ()
        assert (row.batch_flips is not None) == (row.precision == "int8")
    int8 = last.deployments[-1]
    batched = np.load(run.folder / "stages/04-quantize_int8/logits.npz")
    alone, together = (
        batched[f"onnxruntime-int8-{split}"].argmax(1) for split in ("validation", BATCHED)
    )
    assert int8.batch_flips == (alone != together).mean()
    assert 0 <= int8.batch_score <= 1
    for folder in ("onnx", "baseline/onnx"):  # padding is out of the ranges of both
        graph = onnx.load(run.folder / folder / "model_quantized.onnx").graph
        assert "attention_mask/column" in {name for node in graph.node for name in node.input}
    assert "MAX_LENGTH = 24  #" in (run.folder / "onnx" / "serve.py").read_text()
    # Of a training nobody expects a speed-up; when it was is said.
    assert not [note for note in run.report.notes if "no speed-up" in note and "finetune" in note]
    assert run.report.environment["date"]
    distilled = run.report.stages[2]
    (control,) = distilled.controls
    assert control.history and control.method.history
    assert distilled.cost is not None
    assert distilled.cost.steps
    assert [shape.heads for shape in last.edits] == [2, 2, 2]
    assert Report.load(run.folder).verdict.baseline == "01-finetune"
    assert (run.model / "README.md").read_text(encoding="utf-8").startswith("---")
    assert not list(place.glob(".run*"))


@pytest.mark.slow
def test_the_scores_are_those_of_the_shipped_files(place):
    from bertcompress.verbs.evaluate import evaluate

    run = bc.run(recipe(place), place / "run")
    task = recipe(place).resolved_task()
    for row in run.report.last.deployments:
        again = evaluate(run.folder / row.path, task)
        assert [s.value for s in again] == [s.value for s in row.scores]


def test_what_batches_change_is_a_note_of_the_stage():
    fields = {"size_mb": 1.0, "scores": scores(0.9), "batch_flips": 0.021, "batch_score": 0.89}
    row = deployment("onnxruntime", "int8", **fields)
    assert batch_note(row) == (
        "onnxruntime int8 is scored one text at a time; in batches of 32 of like length 2.1 % of "
        "the answers change and accuracy is 0.890 instead of 0.900"
    )
    numbers = row.model_copy(update={"batch_flips": None})
    assert "of like length accuracy is 0.890" in batch_note(numbers)
    same = row.model_copy(update={"batch_flips": 0.0, "batch_score": 0.9})
    assert batch_note(same) is None
    assert batch_note(row.model_copy(update={"batch_score": None})) is None


def test_training_taught_the_tiny_model_something(place):
    run = bc.run(recipe(place, [{"finetune": {**TRAIN, "epochs": 8}}]), place / "run")
    head = run.report.last.deployments[0].headline
    assert head is not None
    assert head.value > 0.8


@pytest.mark.slow
def test_a_second_run_takes_its_stages_from_the_store(place):
    store = StageStore(place / "store")
    first = bc.run(recipe(place), place / "first", store=store)
    second = bc.run(recipe(place), place / "second", store=store)
    costs = [stage.cost for stage in second.report.stages]
    assert all(cost is not None and cost.reused for cost in costs)
    assert [c.seconds for c in costs if c] == [
        s.cost.seconds for s in first.report.stages if s.cost
    ]
    other = bc.run(recipe(place, seed=1), place / "third", store=store)
    assert not any(stage.cost.reused for stage in other.report.stages if stage.cost)
    fresh = bc.run(recipe(place), place / "fourth", store=store, fresh=True)
    assert not any(stage.cost.reused for stage in fresh.report.stages if stage.cost)


def test_a_finetuned_model_skips_finetune_and_says_so(place):
    first = bc.run(recipe(place, METHODS[:1]), place / "first")
    again = recipe(place, METHODS[:2], model=str(first.model))
    run = bc.run(again, place / "second")
    assert [s.name for s in run.report.stages] == ["00-original", "01-prune_structured"]
    assert any("skipped" in note for note in run.report.stages[0].notes)
    base = first.report.last.deployments[0].scores[0].value
    assert run.report.stages[0].deployments[0].scores[0].value == base


def test_a_model_without_head_needs_finetune(place):
    with pytest.raises(RecipeError, match=r"no head for task .* put finetune first"):
        bc.run(recipe(place, METHODS[1:2]), place / "run")
    assert not (place / "run").exists()
    assert not list(place.glob(".run*"))


def test_a_run_says_nothing_and_leaves_the_settings_of_logging_alone(place, capfd):
    verbosity = transformers.utils.logging
    verbosity.set_verbosity_info()
    bc.run(recipe(place, METHODS[:1]), place / "run")
    assert verbosity.get_verbosity() == logging.INFO
    verbosity.set_verbosity_warning()
    assert not capfd.readouterr().out


def test_an_existing_folder_is_left_alone(place):
    (place / "run").mkdir()
    (place / "run" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        bc.run(recipe(place), place / "run")
    assert [p.name for p in (place / "run").iterdir()] == ["mine.txt"]


def test_without_labels_agreement_replaces_the_score(place):
    first = bc.run(recipe(place, METHODS[:1]), place / "first")
    files = (place / "train.csv", place / "validation.csv")
    task = bc.Task.from_files(*files, text="text", max_length=24)
    methods = [METHODS[1], METHODS[2], METHODS[3]]
    unlabelled = recipe(place, methods, model=str(first.model), task=task)
    run = bc.run(unlabelled, place / "second")
    names = {score.metric for score in run.report.last.deployments[0].scores}
    assert {"agreement", "kl"} <= names
    assert run.report.stages[0].deployments[0].scores[0].value == 1.0


@pytest.mark.slow
def test_the_recipe_albert_small_makes_a_stock_albert_with_labels_and_without(place):
    settings = [f"{name}={value}" for name, value in TRAIN.items()]
    overrides = [f"methods.{i}.{each}" for i in (0, 4) for each in [*settings, "epochs=2"]]
    overrides += ["methods.2.size=4", "methods.3.groups=1", "methods.5.runtimes=[onnxruntime]"]
    plain = recipe(place)
    fields = {"model": plain.model, "task": plain.task}
    whole = bc.Recipe.load("albert-small", [*overrides, "measure.latency=false"], **fields)
    run = bc.run(whole, place / "albert")
    assert json.loads((run.model / "config.json").read_text())["model_type"] == "albert"
    assert transformers.AutoModel.from_pretrained(run.model).config.embedding_size == 4
    trimmed, thin, shared, *_ = run.report.stages[1:]
    assert any("come as several shorter ones" in note for note in trimmed.notes)
    assert not thin.edits
    assert [each.attention_of for each in shared.edits] == [None, 0, 0]

    files = (place / "train.csv", place / "validation.csv")
    model = place / "albert" / "stages" / "01-finetune" / "model"
    task = bc.Task.from_files(*files, text="text", max_length=24)
    unlabelled = bc.Recipe.parse(
        {**fields, "model": str(model), "task": task, "methods": whole.methods[1:],
         "measure": {"latency": False}}
    )  # fmt: skip
    run = bc.run(unlabelled, place / "unlabelled")
    assert json.loads((run.model / "config.json").read_text())["model_type"] == "albert"
    assert run.report.stages[4].cost.steps > 0


PROGRAM = """
import sys; sys.path.insert(0, {tests!r})
from pathlib import Path
import bertcompress as bc
from test_runs import LONGER, TO_INTEGERS, recipe
place = Path({place!r})
bc.run(recipe(place, {methods}), place / {out!r}, resume={resume})
"""


def start(place: Path, out: str, resume: bool, home: str) -> subprocess.Popen[bytes]:
    tests = str(Path(__file__).parent)
    program = PROGRAM.format(
        tests=tests, place=str(place), methods="LONGER", out=out, resume=resume
    )
    environment = {**os.environ, "BERTCOMPRESS_HOME": str(place / home), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", program], env=environment)


def kill_when(process: subprocess.Popen[bytes], there: Path, pattern: str) -> None:
    deadline = time.monotonic() + 120
    while not list(there.glob(pattern)):
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_the_same(place):
    calm = bc.run(recipe(place, LONGER), place / "calm").report
    for number, pattern in enumerate(
        ("work/01-finetune-*/training/checkpoint-*", "stages/02-prune_structured/stage.json")
    ):
        out = f"killed-{number}"
        first = start(place, out, False, f"home-{number}")
        kill_when(first, place / f".{out}.partial", pattern)
        assert not (place / out).exists()
        # The store of the killed process is not the one of this: only `resume` can help it.
        store = StageStore(place / f"store-{number}")
        bc.run(recipe(place, LONGER), place / out, resume=True, store=store)
        assert all_scores(Report.load(place / out)) == all_scores(calm)
        answers = [np.load(place / n / "stages/03-distill/logits.npz") for n in ("calm", out)]
        for name in answers[0].files:
            np.testing.assert_allclose(answers[0][name], answers[1][name], atol=1e-6)


def all_scores(report: Report) -> list[float]:
    return [s.value for stage in report.stages for d in stage.deployments for s in d.scores]


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(place):
    tests = str(Path(__file__).parent)
    program = place / "go.py"
    fields = {"tests": tests, "place": str(place), "methods": "TO_INTEGERS", "out": "two"}
    program.write_text(PROGRAM.format(**fields, resume=False), encoding="utf-8")
    environment = {**os.environ, "BERTCOMPRESS_HOME": str(place / "home"), "OMP_NUM_THREADS": "1"}
    # `--cpu` would need mpirun; this launcher is torchrun, and without a GPU it speaks gloo.
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_machines", "1", "--num_processes", "2", "--main_process_port", "0"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    done = subprocess.run([*command, str(program)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-6000:]
    run = bc.run(recipe(place, TO_INTEGERS), place / "one")
    both = [Report.load(f).last.deployments for f in (place / "two", run.folder)]
    assert [(d.runtime, d.precision) for d in both[0]] == [
        (d.runtime, d.precision) for d in both[1]
    ]
    assert len(both[0]) >= 2  # torch, and a file of integers that one process wrote
    for two, one in zip(*both, strict=True):
        assert abs(two.headline.value - one.headline.value) < 0.15
    assert json.loads((place / "two" / "report.json").read_text())["version"] == VERSION


@pytest.mark.slow
def test_what_need_not_be_faster_is_timed_beside_the_stage_before_it(place):
    methods = [METHODS[0], {"factorize_linear": {"keep": 0.5, "rows": 32}}]
    timing = {"seconds": 0.1, "shapes": [[1, 8], [4, 8]], "task_lengths": False, "threads": 1}
    run = bc.run(recipe(place, methods, measure=timing), place / "run")
    (note,) = [n for n in run.report.last.notes if n.startswith("measured in torch fp32")]
    before, after = (stage.main.latency for stage in run.report.stages)
    for old, new in zip(before, after, strict=True):
        assert f"{speed_claim(old, new).words} at batch {new.batch} and length 8" in note
    quiet = bc.run(recipe(place, methods), place / "quiet")
    assert [n for n in quiet.report.last.notes if n.startswith("speed not measured")]


def test_paid_says_where_it_does_not_pay():
    def rows(*ms, spread=0.0):
        fields = {"length": "task", "threads": 2, "p95_ms": 9, "spread": spread}
        return [Latency(batch=1, p50_ms=m, throughput_per_s=1e3 / m, **fields) for m in ms]

    assert paid(rows(10.0), rows(5.0)).endswith("2.00x at batch 1 and the task's lengths")
    assert "it does not pay at batch 1" in paid(rows(10.0), rows(12.5))
    noisy = paid(rows(10.0, spread=0.3), rows(9.0))
    assert "not measurable here (spread 30 %) at batch 1" in noisy
    assert "it is not shown to pay at batch 1" in noisy
    assert "1.11x" not in noisy


def test_a_16_bit_checkpoint_is_not_flattered(place):
    tiny_model("bert", "Model").half().save_pretrained(place / "bert")
    report = bc.run(recipe(place, METHODS[:2]), place / "run").report
    first, last = report.stages[0], report.last
    # Without the head, which is new.
    assert 0.3 * first.main.size_mb < first.source_mb < 0.5 * first.main.size_mb
    assert last.source_mb is None
    ratio = first.source_mb / last.main.size_mb
    assert any(f"it is {ratio:.1f}x smaller" in words for words in report.verdict.sentences)


@pytest.mark.slow
def test_a_run_with_few_validation_rows_is_timed_on_what_there_is(place):
    write_rows(place / "validation.csv", 5, 1, yes="yes", no="no")
    timing = {"seconds": 0.1, "shapes": [[1, 8]], "threads": 1}
    run = bc.run(recipe(place, METHODS[:2], measure=timing), place / "run")
    shapes = {(t.batch, t.length) for s in run.report.stages for t in s.main.latency}
    assert shapes == {(1, 8), (1, "task")}


def test_an_opponent_that_cannot_be_made_is_a_note(place, monkeypatch):
    real = bc.QuantizeInt8.apply

    def apply(method, product, ctx):
        if ctx.workdir.name.startswith("baseline"):
            raise ModelError("nothing quantised it")
        return real(method, product, ctx)

    monkeypatch.setattr(bc.QuantizeInt8, "apply", apply)
    run = bc.run(recipe(place, [*METHODS[:2], METHODS[3]]), place / "run")
    assert [row.precision for row in run.report.last.deployments] == ["fp32", "fp32", "int8"]
    words = "no int8 of the uncompressed model to compare with: nothing quantised it"
    assert words in run.report.last.notes
    assert {path.name for path in (run.folder / "stages").iterdir()} == {
        *("01-finetune", "02-prune_structured", "02-prune_structured-control", "03-quantize_int8"),
    }
