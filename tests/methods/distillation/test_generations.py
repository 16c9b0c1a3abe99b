"""`born_again` and `snapshot`: who teaches whom, from which weights, and at what cost."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from test_training import batches
from tests_support import answer, first_fast, tiny_inputs, tiny_model, tiny_tokenizer, write_rows
from training_support import toy_data

import bertcompress as bc
from bertcompress.deployment import Product
from bertcompress.engines.distillation.settings import WITHOUT_TEACHER
from bertcompress.errors import DataError
from bertcompress.heads import HEADS
from bertcompress.method import Context, Models
from bertcompress.methods.distillation.born_again import BornAgain
from bertcompress.methods.distillation.snapshot import Snapshot, SnapshotLoss
from bertcompress.shapes import Heads, ShapeError, anatomy, apply_edit
from bertcompress.training.schedule import Horizon, rate_factor

pytestmark = pytest.mark.usefixtures("without_figures")

QUICK = {"epochs": 1, "batch_size": 8, "learning_rate": 2e-3, "precision": "fp32"}


@pytest.fixture(scope="module")
def data():
    return toy_data()


def context(data, workdir):
    def original():
        return Product(tiny_model(seed=3, num_labels=2), tiny_tokenizer())

    models = Models(None, original)
    return Context(data.task, data, models, torch.device("cpu"), 0, workdir)


def born(data, workdir, model=None, **knobs):
    model = model or tiny_model(seed=8, num_labels=2)
    method = BornAgain(**QUICK | knobs)
    return method.apply(Product(model, tiny_tokenizer()), context(data, workdir))


@pytest.mark.slow
def test_each_generation_is_taught_by_the_one_before(data, tmp_path, monkeypatch):
    asked = []
    stage_objective = BornAgain.stage_objective

    def spied(self, product, ctx):
        asked.append((copy.deepcopy(product.model), ctx.models.teacher.model, ctx.seed))
        return stage_objective(self, product, ctx)

    monkeypatch.setattr(BornAgain, "stage_objective", spied)
    first = tiny_model(seed=8, num_labels=2)
    held = answer(copy.deepcopy(first), tiny_inputs())
    done = born(data, tmp_path, first, generations=3)
    assert asked[0][1] is first and torch.equal(answer(first, tiny_inputs()), held)
    begun = [answer(model, tiny_inputs()) for model, _, _ in asked]
    assert all(torch.equal(each, begun[0]) for each in begun)  # as the model came
    assert len({id(teacher) for _, teacher, _ in asked}) == 3
    assert [seed for _, _, seed in asked] == [1, 2, 3]
    assert not torch.equal(answer(done.model, tiny_inputs()), begun[0])


def test_generations_are_paid_for_and_scored_together(data, tmp_path):
    one = born(data, tmp_path / "a")
    two = born(data, tmp_path / "b", generations=2)
    assert two.findings.steps == 2 * one.findings.steps
    told = two.findings.facts
    assert (
        len(told["generations"]) == 2 and told["generations"][0] == one.findings.facts["ensemble"]
    )
    assert "together" in two.findings.notes[0] and "together" not in one.findings.notes[0]


def test_the_ensemble_is_the_score_of_the_mean_answers(data, tmp_path):
    from bertcompress.heads.scoring import compute
    from bertcompress.measure.scores import predict
    from bertcompress.runtimes.torch import TorchPredictor

    method, ctx = BornAgain(**QUICK), context(data, tmp_path)
    models = [Product(tiny_model(seed=s, num_labels=2), tiny_tokenizer()) for s in (1, 2)]
    found = method._findings(models, None, ctx).facts
    answers = [
        predict(TorchPredictor(each.model), data, "selection", each.tokenizer) for each in models
    ]
    metric = data.task.headline
    wanted = compute(HEADS["single_label"], [metric], np.mean(answers, axis=0),
                     data.references("selection"))  # fmt: skip
    assert found["ensemble"] == wanted[metric]


def test_places_in_a_text_have_no_mean():
    """Two generations that found the right word at two places were wrong together."""
    assert {key for key, head in HEADS.items() if not head.averages} == {"spans"}


def test_born_again_comes_before_cuts(data, tmp_path):
    model = tiny_model(num_labels=2)
    apply_edit(model, Heads([[0]] * anatomy(model).depth))
    with pytest.raises(ShapeError, match="put it before what changes the shape"):
        born(data, tmp_path, model)


def test_the_control_of_born_again_learns_the_labels_once():
    (name, control), *others = BornAgain(generations=3).controls().items()
    assert (name, others, control.generations) == (WITHOUT_TEACHER, [], 1)
    assert control.labels_only and control.label_weight == 1 and control.controls() == {}


def test_born_again_as_a_function():
    model, teacher = tiny_model(num_labels=2), tiny_model(seed=8, num_labels=2)
    held = answer(teacher, tiny_inputs())
    assert bc.born_again(model, teacher, batches(16), generations=2, **QUICK) is model
    assert torch.equal(answer(teacher, tiny_inputs()), held)


@pytest.mark.parametrize(("most", "cycles"), [(30, 3), (31, 4), (12, 12), (7, 2)])
def test_a_cycle_ends_where_the_rate_rises_again(most, cycles):
    settings = Snapshot(max_steps=most, epochs=None, cycles=cycles, warmup=0)
    horizon = Horizon.of(settings, most, most)
    rates = [rate_factor(horizon, step, 0, 1) for step in range(most)]
    wanted = [step for step in range(1, most) if rates[step] == 1.0]
    assert list(horizon.restarts) == wanted and len(wanted) == cycles - 1


def labelled():
    return {**tiny_inputs(), "labels": torch.tensor([0, 1, 0])}


def loss_of(objective, model, training=True):
    model.train(training)
    torch.manual_seed(0)
    outputs = model(**tiny_inputs())
    return objective(model, labelled(), outputs, 0), outputs.logits


def test_the_first_cycle_is_the_labels_and_later_ones_have_a_teacher():
    model = tiny_model(num_labels=2)
    objective = SnapshotLoss(None, (4,), 2.0, 3.0)
    for step in range(1, 4):
        objective.on_step_end(model, None, step)
        assert objective.kept is None
    value, logits = loss_of(objective, model)
    labels = torch.nn.functional.cross_entropy(logits, labelled()["labels"])
    assert torch.equal(value, labels)
    objective.on_step_end(model, None, 4)
    held = {name: t.clone() for name, t in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1
    assert all(torch.equal(held[name], t) for name, t in objective.kept.state_dict().items())
    value, logits = loss_of(objective, model)
    labels = torch.nn.functional.cross_entropy(logits, labelled()["labels"])
    theirs = (objective.kept(**tiny_inputs()).logits / 3).log_softmax(-1)
    apart = (theirs.exp() * (theirs - logits.log_softmax(-1))).sum(-1).mean()
    torch.testing.assert_close(value, (1 + 1 / 3) * labels + 2 * apart)
    value.backward()
    assert all(p.grad is None for p in objective.kept.parameters())
    value, logits = loss_of(objective, model, training=False)  # judged by the labels
    labels = torch.nn.functional.cross_entropy(logits, labelled()["labels"])
    assert torch.equal(value, labels)


def test_a_snapshot_survives_a_break():
    model = tiny_model(num_labels=2)
    objective = SnapshotLoss(None, (1,), 1.0, 2.0)
    objective.on_step_end(model, None, 1)
    again = SnapshotLoss(None, (1,), 1.0, 2.0)
    again.load_state_dict(objective.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1
    one, two = (loss_of(each, model)[0] for each in (objective, again))
    assert torch.equal(one, two)
    empty = SnapshotLoss(None, (1,), 1.0, 2.0)
    empty.load_state_dict(SnapshotLoss(None, (1,), 1.0, 2.0).state_dict())
    assert empty.kept is None


def test_snapshot_trains_beside_the_same_cycles(data, tmp_path):
    method = Snapshot(**QUICK | {"epochs": 3})
    (control,) = method.controls().values()
    assert control == method.model_copy(update={"snapshot_weight": 0.0})
    done = [
        each.apply(Product(tiny_model(num_labels=2), tiny_tokenizer()), context(data, tmp_path / n))
        for each, n in ((method, "a"), (control, "b"))
    ]
    assert done[0].findings.steps == done[1].findings.steps
    assert not torch.equal(*(answer(each.model, tiny_inputs()) for each in done))


def test_snapshot_refuses_what_it_cannot_learn_from():
    with pytest.raises(ValidationError, match="cycles"):
        Snapshot(cycles=1)
    for odd in ({"schedule": "linear", "cycles": None}, {"cycles": None}):
        with pytest.raises(ValidationError, match="cycl"):
            Snapshot(**odd)
    with pytest.raises(DataError, match="no labels"):
        rows = [{k: v for k, v in each.items() if k != "labels"} for each in batches(64)]
        bc.snapshot(tiny_model(num_labels=2), rows, **QUICK | {"epochs": 4})


@pytest.mark.parametrize("key", first_fast(["born_again", "snapshot"]))
def test_a_run_has_the_row_beside_its_control(tmp_path, key):
    tiny_model("bert", "Model").save_pretrained(tmp_path / "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    for name, rows, seed in (("train", 120, 0), ("validation", 40, 1)):
        write_rows(tmp_path / f"{name}.csv", rows, seed, yes="yes", no="no")
    files = tmp_path / "train.csv", tmp_path / "validation.csv"
    recipe = bc.Recipe.parse(
        {
            "model": str(tmp_path / "bert"),
            "task": bc.Task.from_files(*files, text="text", label="label"),
            "methods": [{"finetune": QUICK}, {key: QUICK | {"epochs": 2}}],
            "measure": {"latency": False},
        }
    )
    run = bc.run(recipe, tmp_path / "run")
    assert len(run.report.last.controls) == 1
