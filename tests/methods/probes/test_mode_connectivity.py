"""Mode connectivity: the line between two models in closed form, and as a stage of a run."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
import torch
from test_runs import TRAIN, recipe
from tests_support import FAMILIES, answer, tiny_inputs, tiny_model, tiny_tokenizer, write_rows
from torch.nn import functional

import bertcompress as bc
from bertcompress.errors import ModelError
from bertcompress.methods.probes.mode_connectivity import barrier, line, mix, mode_connectivity
from bertcompress.report.alarms import red_lines
from bertcompress.report.plots import trainings
from bertcompress.shapes import ShapeError

pytestmark = pytest.mark.usefixtures("without_figures")


def batches():
    return [{**tiny_inputs(), "labels": torch.tensor([2, 0, 1])}]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_ends_are_the_models_to_the_bit(family):
    one, two = tiny_model(family, seed=0), tiny_model(family, seed=1)
    for share, end in ((0.0, one), (1.0, two)):
        mixed = mix(one, two, share, copy.deepcopy(one))
        assert torch.equal(answer(mixed, tiny_inputs()), answer(end, tiny_inputs()))


def test_the_middle_is_the_mean_of_every_weight():
    one, two = tiny_model(seed=0), tiny_model(seed=1)
    mixed = mix(one, two, 0.5, copy.deepcopy(one)).state_dict()
    for name, weight in one.state_dict().items():
        if weight.is_floating_point():
            torch.testing.assert_close(mixed[name], (weight + two.state_dict()[name]) / 2)


def test_a_model_and_itself_have_no_barrier_at_all():
    model = tiny_model()
    losses = mode_connectivity(model, copy.deepcopy(model), batches(), points=5)
    assert len(set(losses)) == 1
    assert barrier(losses) == 0.0


def test_the_line_is_the_same_from_both_ends():
    one, two = tiny_model(seed=0), tiny_model(seed=1)
    there = mode_connectivity(one, two, batches(), points=5)
    assert mode_connectivity(two, one, batches(), points=5) == pytest.approx(there[::-1], rel=1e-6)


def test_the_loss_of_an_end_is_that_of_the_model():
    one, two = tiny_model(seed=0), tiny_model(seed=1)
    (batch,) = batches()
    with torch.no_grad():
        logits = one(**{k: v for k, v in batch.items() if k != "labels"}).logits
    expected = float(functional.cross_entropy(logits, batch["labels"]))
    assert mode_connectivity(one, two, batches(), points=3)[0] == pytest.approx(expected)


def test_a_ridge_between_two_valleys_is_found():
    """Two trained classifiers whose mean answers everything alike: a barrier by construction."""
    assert barrier([0.1, 0.5, 0.1]) == pytest.approx(0.4)
    assert barrier([0.1, 0.2, 0.3]) == pytest.approx(0.1), "the worse end is above the mean"
    assert line(3) == [0.0, 0.5, 1.0]


def test_models_of_two_shapes_have_no_line():
    with pytest.raises(ShapeError, match="not of one shape in both models"):
        mode_connectivity(tiny_model(), tiny_model(intermediate_size=12), batches())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("line")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BERTCOMPRESS_HOME", str(place / "home"))
        tiny_model("bert", "Model").save_pretrained(place / "bert")
        tiny_tokenizer().save_pretrained(place / "bert")
        for name, rows, seed in (("train", 240, 0), ("validation", 60, 1)):
            write_rows(place / f"{name}.csv", rows, seed, yes="yes", no="no")
        yield place


TUNE = {"finetune": {**TRAIN, "epochs": 6}}
PROBE = {"mode_connectivity": {**TRAIN, "epochs": 1, "points": 3, "rows": 32}}
CUT = {"prune_structured": {"keep": 0.5, "rows": 32}}


@pytest.fixture(scope="module")
def runs(place):
    """The same recipe without and with a probe in the middle and at the end."""
    plain = bc.run(recipe(place, [TUNE, CUT]), place / "plain")
    probed = bc.run(recipe(place, [TUNE, PROBE, CUT, PROBE]), place / "probed")
    return plain, probed


@pytest.mark.slow
def test_a_probe_leaves_the_model_and_the_verdict_as_they_are(runs):
    plain, probed = (run.report for run in runs)
    assert plain.last.main.scores == probed.last.main.scores
    assert plain.verdict.retention == probed.verdict.retention
    assert probed.last.method == "prune_structured"
    one, two = (bc.load(run.model).model for run in runs)
    assert torch.equal(answer(one, tiny_inputs()), answer(two, tiny_inputs()))


@pytest.mark.slow
def test_a_probe_has_its_section_in_every_form_of_the_report(runs):
    report = runs[1].report
    probes = [stage for stage in report.stages if stage.measurement]
    assert [stage.method for stage in probes] == ["mode_connectivity"] * 2
    for stage in probes:
        assert stage.deployments == () and stage.cost.steps > 0
        for text in (report.to_markdown(), report.to_html(), str(report)):
            plain = " ".join(text.split())  # a terminal wraps
            assert stage.measurement.title in plain
            assert "barrier, selection rows" in plain


@pytest.mark.slow
def test_two_trainings_from_one_start_differ_and_score_as_their_ends(runs):
    found = next(s.measurement for s in runs[1].report.stages if s.measurement)
    selection = found.curves[0]
    assert selection.x == (0.0, 0.5, 1.0)
    assert found.figures["barrier, selection rows (accuracy)"] == pytest.approx(
        barrier(selection.y)
    )
    assert found.figures["error at the first end"] == selection.y[0]
    assert found.training.steps > 0


@pytest.mark.slow
def test_to_another_model(runs, place):
    other = str(runs[0].folder / "stages" / "01-finetune" / "model")
    same = {"mode_connectivity": {"other": other, "points": 3, "rows": 32}}
    report = bc.run(recipe(place, [TUNE, same]), place / "same").report
    found = report.stages[1].measurement
    assert found.figures["barrier, selection rows (accuracy)"] == 0.0
    assert found.training is None
    turned = bc.load(other)
    turned.model.config.id2label = {0: "yes", 1: "no"}
    bc.save(turned.model, place / "turned", turned.tokenizer)
    wrong = {"mode_connectivity": {"other": str(place / "turned"), "points": 3}}
    said = []
    with pytest.raises(ModelError, match="its classes are yes, no, those of this model no, yes"):
        bc.run(recipe(place, [TUNE, wrong]), place / "wrong", say=said.append)
    assert not any("stage 1" in line and "..." in line for line in said), "before any training"
    shutil.copytree(other, place / "reading")
    fields = json.loads((place / "reading" / "tokenizer.json").read_text())
    words = fields["model"]["vocab"]
    words["good"], words["bad"] = words["bad"], words["good"]
    (place / "reading" / "tokenizer.json").write_text(json.dumps(fields))
    another = {"mode_connectivity": {"other": str(place / "reading"), "points": 3}}
    with pytest.raises(ModelError, match="its tokens are others than those of this model"):
        bc.run(recipe(place, [TUNE, another]), place / "another")


@pytest.mark.slow
def test_another_model_under_the_same_name_is_measured_anew(runs, place):
    tuned = bc.load(str(runs[0].folder / "stages" / "01-finetune" / "model"))
    bc.save(tuned.model, place / "other", tuned.tokenizer)
    same = recipe(
        place, [TUNE, {"mode_connectivity": {"other": str(place / "other"), "points": 3}}]
    )
    first = bc.run(same, place / "first").report.stages[1].measurement
    with torch.no_grad():
        tuned.model.classifier.weight.neg_()
    bc.save(tuned.model, place / "moved", tuned.tokenizer)
    (place / "moved" / "model.safetensors").replace(place / "other" / "model.safetensors")
    second = bc.run(same, place / "second").report.stages[1].measurement
    assert first.curves[0].y[-1] != second.curves[0].y[-1]


def test_a_probe_that_was_still_improving_says_nothing_of_the_model(runs):
    report = runs[1].report
    probe = next(stage for stage in report.stages if stage.measurement)
    ended = {**(probe.facts["ended"] or {}), "improving": True, "reason": "max_epochs"}
    ended |= {"setting": "max_epochs", "learned": False}
    told = probe.model_copy(update={"facts": {**probe.facts, "ended": ended}})
    stages = [told if stage.name == probe.name else stage for stage in report.stages]
    assert red_lines(stages, stages[0], None, report.task, report.data) == []
    assert probe.name not in trainings(report.model_copy(update={"stages": tuple(stages)}))


def test_both_trainings_are_paid_for(runs):
    probe = next(stage for stage in runs[1].report.stages if stage.measurement)
    assert probe.cost.steps == probe.measurement.training.steps
    assert probe.cost.steps % 2 == 0 and probe.cost.samples > 240
