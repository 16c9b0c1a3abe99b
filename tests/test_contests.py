"""Tiny runs: the better of method and control goes on, one precision a run, scores that exist."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_runs import METHODS, TRAIN, recipe
from tests_support import WORDS, first_fast, tiny_model, tiny_tokenizer, write_rows
from typer.testing import CliRunner

import bertcompress as bc
from bertcompress.cli.main import app
from bertcompress.deployment import Findings, Trained
from bertcompress.runs.contests import Contest
from bertcompress.runs.store import StageStore
from bertcompress.training import fitting

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture(scope="module")
def made(tmp_path_factory, monkeypatch_module):
    """A folder with rows, a model that is fine-tuned for them, and a teacher that knows nothing."""
    place = tmp_path_factory.mktemp("contest")
    monkeypatch_module.setenv("BERTCOMPRESS_HOME", str(place / "home"))
    tiny_model("bert", "Model").save_pretrained(place / "bert")
    tiny_tokenizer().save_pretrained(place / "bert")
    for name, rows, seed in (("train", 240, 0), ("validation", 60, 1)):
        write_rows(place / f"{name}.csv", rows, seed, yes="yes", no="no")
    done = bc.run(recipe(place, [{"finetune": {**TRAIN, "epochs": 8}}]), place / "tuned")
    assert done.report.last.main.headline.value > 0.9
    names = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    tiny_model("bert", seed=9, num_labels=2, **names).save_pretrained(place / "teacher")
    tiny_tokenizer().save_pretrained(place / "teacher")
    return place


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


DISTIL = {"distill": {**TRAIN, "epochs": 1, "label_weight": 0.0}}
CUT = {"prune_structured": {"keep": 0.5, "rows": 32}}
INTEGERS = {"quantize_int8": {"runtimes": ["onnxruntime"], "max_drop": None}}


def _misled(place: Path, methods) -> bc.Recipe:
    """The recipe with a teacher that knows nothing: labels alone are better."""
    fields = {"model": str(place / "tuned" / "model"), "teacher": str(place / "teacher")}
    return recipe(place, methods, **fields)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return bc.load(folder).model.state_dict()


def test_a_control_that_is_better_goes_on_and_ships(made, tmp_path):
    store = StageStore(tmp_path / "store")
    said: list[str] = []
    wanted = _misled(made, [CUT, DISTIL, INTEGERS])
    run = bc.run(wanted, tmp_path / "run", store=store, say=said.append)
    stage = next(s for s in run.report.stages if s.method == "distill")
    (control,) = stage.controls
    assert control.goes_on and control.selection_score > control.method.selection_score
    assert stage.name == "02-distill" and stage.main.path == "stages/02-distill-control/model"
    assert stage.main.headline.value == control.score.value > control.method.score.value
    words = (
        "the control (labels alone, no teacher) was better on the selection split, "
        f"{control.selection_score:.3f} against {control.method.selection_score:.3f}: "
        "it goes on and ships"
    )
    assert stage.notes.count(words) == 1 and f"02-distill: {words}" in said
    for page in ("report.md", "report.html", "model/README.md"):
        assert words in (run.folder / page).read_text(encoding="utf-8"), page
    kept = json.loads((run.folder / "stages/02-distill/stage.json").read_text())
    assert stage.facts["steps"] == kept["findings"]["training"]["steps"]
    # What ships is the control's model, and so is what int8 was made of.
    shipped, theirs = _weights(run.model), _weights(run.folder / "stages/02-distill-control/model")
    assert all(torch.equal(shipped[name], theirs[name]) for name in theirs)
    full = next(d for d in run.report.last.deployments if d.path == "onnx/model.onnx")
    assert full.headline.value == control.score.value

    # Out of the store, and after an interruption, the same goes on.
    again = bc.run(wanted, tmp_path / "again", store=store)
    assert all(s.cost.reused for s in again.report.stages if s.name != "00-original")
    (again.folder / "report.json").unlink()
    again.folder.rename(tmp_path / ".third.partial")
    third = bc.run(wanted, tmp_path / "third", resume=True, store=StageStore(tmp_path / "empty"))
    assert third.report.stages[2].controls == (control,)
    assert all(torch.equal(_weights(third.model)[name], shipped[name]) for name in shipped)


@pytest.mark.parametrize(
    "method",
    [
        {"flop": {**TRAIN, "epochs": 1, "label_weight": 0.0, "keep": 0.6, "rows": 16}},
        pytest.param(
            {"q8bert": {**TRAIN, "epochs": 1, "label_weight": 0.0, "logit_weight": 1.0}},
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda method: next(iter(method)),
)
def test_every_method_with_a_control_may_lose_to_it(made, tmp_path, method):
    run = bc.run(_misled(made, [method]), tmp_path / "run")
    stage = run.report.last
    (control,) = stage.controls
    assert control.goes_on and stage.replaced_by == control
    assert stage.main.headline.value == control.score.value
    shipped = _weights(run.model)
    theirs = _weights(run.folder / "stages" / f"{stage.name}-control" / "model")
    assert all(torch.equal(shipped[name], theirs[name]) for name in theirs)


def test_only_selection_and_size_decide_a_contest():
    def finished(score: float, width: int):
        findings = Findings(training=Trained(selection_score=score))
        record = SimpleNamespace(findings=findings, name="x")
        product = SimpleNamespace(model=tiny_model(intermediate_size=width))
        return SimpleNamespace(record=record, product=product)

    stages = SimpleNamespace()

    def win(ours, *theirs):
        controls = {f"control {i}": finished(*each) for i, each in enumerate(theirs)}
        contests = Contest.of(finished(*ours), controls, stages)
        return [each.name for each in contests if each.goes_on]

    assert win((0.5, 24), (0.6, 24)) == ["control 0"]
    goal = {"control 0": finished(0.9, 24)}
    (dense,) = Contest.of(finished(0.5, 24), goal, stages, frozenset(goal))
    assert (dense.role, dense.goes_on, dense.words) == ("reference", False, "")
    assert win((0.6, 24), (0.6, 24)) == []
    assert win((0.6, 24), (0.5, 24)) == []
    assert win((0.5, 24), (0.6, 48)) == []
    assert win((0.5, 24), (0.6, 24), (0.7, 24), (0.8, 48)) == ["control 1"], "the best that fits"


# -- one precision


@pytest.mark.slow
def test_precision_is_decided_once_a_run_and_kept_on_resume(made, tmp_path, monkeypatch):
    found = iter(["bf16", "fp32", "fp32", "fp32", "fp32"])
    monkeypatch.setattr(fitting, "choose", lambda timed: next(found))
    auto = {**TRAIN, "precision": "auto"}
    methods = [
        {"finetune": {**auto, "epochs": 1}},
        CUT,
        {"distill": {**auto, "max_epochs": 4}},
    ]

    class Stopped(Exception):
        pass

    def stop(line: str) -> None:
        if line.startswith("stage 2 of"):
            raise Stopped

    store = StageStore(tmp_path / "store")
    with pytest.raises(Stopped):
        bc.run(recipe(made, methods), tmp_path / "run", store=store, say=stop)
    said: list[str] = []
    run = bc.run(recipe(made, methods), tmp_path / "run", resume=True, store=store, say=said.append)
    assert next(found) == "fp32"  # nothing but the first training has tried anything
    folders = ("01-finetune", "03-distill", "03-distill-control")
    records = [
        json.loads((run.folder / "stages" / name / "stage.json").read_text()) for name in folders
    ]
    assert [record["findings"]["training"]["precision"] for record in records] == ["bf16"] * 3
    method, control = (record["findings"]["training"] for record in records[1:])
    for each in ("steps", "learning_rate"):  # of an open end, too
        assert method[each] == control[each], each
    assert run.report.environment["training_precision"] == "bf16"
    assert any("precision auto: bf16" in line for line in said)
    assert any("precision auto: bf16" in note for note in run.report.stages[0].notes)


def test_a_precision_that_was_given_is_nobodys_else(made, tmp_path):
    run = bc.run(recipe(made, METHODS[:1]), tmp_path / "run")
    assert "training_precision" not in run.report.environment
    assert run.report.stages[0].facts["precision"] == "fp32"


# -- evaluate


def _evaluate(model: Path, folder: Path, *options: str):
    files = ["--train", str(folder / "train.csv"), "--validation", str(folder / "validation.csv")]
    fields = ["--text", "text", "--label", "label"]
    return CliRunner().invoke(app, ["evaluate", str(model), *files, *fields, *options])


def test_evaluate_names_a_wrong_order_of_classes(made, tmp_path):
    swapped = tmp_path / "swapped"
    shutil.copytree(made / "tuned" / "model", swapped)
    config = json.loads((swapped / "config.json").read_text())
    config["id2label"], config["label2id"] = {0: "yes", 1: "no"}, {"yes": 0, "no": 1}
    (swapped / "config.json").write_text(json.dumps(config))
    right, wrong = (_evaluate(m, made) for m in (made / "tuned" / "model", swapped))
    assert right.exit_code == wrong.exit_code == 0, wrong.output
    assert "chance" not in right.output
    said = " ".join(wrong.output.split())
    assert said.startswith("validation: significantly below chance:")
    assert "reading 'no' as 'yes', 'yes' as 'no' scores 0.9" in said or "scores 1.000" in said


def test_a_run_over_a_baseline_at_chance_ends_well_and_red(made, tmp_path):
    untaught = {"finetune": {**TRAIN, "epochs": 0.1, "learning_rate": 1e-7}}
    wanted = recipe(made, [untaught, CUT])
    (tmp_path / "recipe.yaml").write_text(wanted.to_yaml(), encoding="utf-8")
    done = CliRunner().invoke(
        app, ["run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")]
    )
    assert done.exit_code == 0, done.output
    verdict = bc.Report.load(tmp_path / "run").verdict
    assert "The baseline, 01-finetune, is" in verdict.red[0] and verdict.retention is None
    assert "it keeps" not in done.output
    assert done.output.index("! The baseline") < done.output.index("Stage by stage")


@pytest.mark.parametrize("option", first_fast([["--no-controls"], []]))
def test_controls_can_be_left_out(made, tmp_path, option):
    wanted = _misled(made, [CUT, DISTIL])
    (tmp_path / "recipe.yaml").write_text(wanted.to_yaml(), encoding="utf-8")
    words = ["run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run"), *option]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert (bc.Report.load(tmp_path / "run").last.controls == ()) == bool(option)
    assert ("its control" in done.output) != bool(option)


# -- numbers


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """Rows with a target far from zero, one validation row beside them, and a random model."""
    place = tmp_path_factory.mktemp("numbers")
    draw = np.random.default_rng(0)
    for name, rows in (("train", 40), ("validation", 40), ("single", 1)):
        lines = [
            f"{' '.join(draw.choice(WORDS[:-1], 6))} {name} {i},{20_000 + 250.5 * i}"
            for i in range(rows)
        ]
        (place / f"{name}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    (place / "one").mkdir()
    shutil.copy(place / "train.csv", place / "one" / "train.csv")
    shutil.copy(place / "single.csv", place / "one" / "validation.csv")
    tiny_model(num_labels=1, problem_type="regression").save_pretrained(place / "model")
    tiny_tokenizer().save_pretrained(place / "model")
    return place


def test_numbers_have_an_error_in_their_units_and_the_mean_to_beat(numbers):
    done = _evaluate(numbers / "model", numbers)
    assert done.exit_code == 0, done.output
    assert "mae" in done.output and "spearman *" in done.output
    said = " ".join(done.output.split())
    assert said.startswith("validation:") and "answering their mean is better" in said


def test_one_row_has_no_correlation_and_no_interval(numbers):
    done = _evaluate(numbers / "model", numbers / "one")
    assert done.exit_code == 0, done.output
    assert "spearman" not in done.output and "pearson" not in done.output
    assert "mae" in done.output and "nan" not in done.output.lower()


def contest(**changes):
    values = {"name": "dense", "method": None, "control": None, "goes_on": False}
    return Contest(**values | {"method_score": 0.8, "control_score": 0.9, "larger": True} | changes)


def test_a_larger_control_that_is_better_is_said_and_does_not_go_on():
    words = "the control (dense) was better on the selection split, 0.900 against 0.800: "
    assert contest().words == words + "it is larger, so the method goes on"
    assert contest(goes_on=True, larger=False).words == words + "it goes on and ships"
    assert contest(control_score=0.7).words == contest(larger=False).words == ""
