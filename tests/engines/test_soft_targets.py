"""Controls of a teacher's probabilities: closed forms, what stays and goes, refusals, runs."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from pydantic import ValidationError
from test_training import batches
from tests_support import answer, first_fast, tiny_inputs, tiny_model, tiny_tokenizer
from torch.nn import functional
from training_support import toy_data, toy_rows

import bertcompress as bc
from bertcompress.data import load_data
from bertcompress.deployment import Product
from bertcompress.engines.distillation.objectives import Distillation
from bertcompress.engines.distillation.settings import WITHOUT_TEACHER, control_words
from bertcompress.engines.distillation.soft_targets import (
    CONTROLS,
    ShuffledTeacher,
    confidence_weights,
    permuted_logits,
    row_seeds,
    shuffled_rows,
    smoothed_logits,
)
from bertcompress.engines.distillation.teachers import CachedTeacher, LiveTeacher
from bertcompress.errors import DataError, InputError, RecipeError
from bertcompress.method import Context, Models
from bertcompress.methods.distillation.born_again import BornAgain
from bertcompress.methods.distillation.distill import Distill
from bertcompress.shapes import Layers, ShapeError, anatomy, apply_edit

pytestmark = pytest.mark.usefixtures("without_figures")

QUICK = {"epochs": 1, "batch_size": 8, "learning_rate": 2e-3, "precision": "fp32"}
KNOBS = {
    "smoothed": {"targets": "smoothed"},
    "shuffled": {"targets": "shuffled"},
    "permuted": {"targets": "permuted"},
    "confidence": {"label_weight": 1.0, "logit_weight": 0.0, "label_weighting": "confidence"},
}


def logits(seed, rows=6, classes=4, spread=3.0):
    return spread * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))


def entropy(p):
    return -(p * p.clamp_min(1e-300).log()).sum(-1)


def three_classes(rows=90):
    """Like `toy_data`, and every third text is of a class of its own."""
    sets = {"train": toy_rows(rows), "validation": toy_rows(30, seed=1)}
    for columns in sets.values():
        columns["label"] = [2 if i % 3 == 2 else y for i, y in enumerate(columns["label"])]
    data = DatasetDict({name: Dataset.from_dict(columns) for name, columns in sets.items()})
    return load_data(bc.Task.from_dataset(data, text="text", label="label"))


@pytest.fixture(scope="module")
def data():
    return three_classes()


# Smoothed labels. --------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 20])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_smoothed_labels_have_the_entropy_of_the_softened_answer(classes, temperature):
    teacher = logits(0, 40, classes).double()
    labels = torch.arange(40) % classes
    p = (smoothed_logits(teacher, labels, temperature) / temperature).softmax(-1)
    wanted = entropy((teacher / temperature).softmax(-1))
    torch.testing.assert_close(entropy(p), wanted, rtol=1e-9, atol=1e-12)
    assert (p.argmax(-1) == labels).all()
    others = p.clone().scatter_(-1, labels[:, None], math.nan)
    low, high = (each.nan_to_num(fill) for each, fill in ((others, 2.0), (others, -1.0)))
    torch.testing.assert_close(low.amin(-1), high.amax(-1), rtol=0, atol=1e-15)


def test_smoothed_labels_of_two_classes_by_the_closed_form():
    """Of a teacher that is right its own answer comes back; of one that is wrong, the other way."""
    teacher = torch.tensor([[2.0, 0.5], [2.0, 0.5]], dtype=torch.float64)
    p = smoothed_logits(teacher, torch.tensor([0, 1])).softmax(-1)
    torch.testing.assert_close(p[0], teacher[0].softmax(-1))
    torch.testing.assert_close(p[1], teacher[1].softmax(-1).flip(-1))


def test_the_ends_of_the_entropy():
    even, sure = torch.zeros(1, 5), torch.tensor([[900.0, 0, 0, 0, 0]])
    torch.testing.assert_close(
        smoothed_logits(even, torch.tensor([3])).softmax(-1), torch.full((1, 5), 0.2),
        rtol=0, atol=1e-6,
    )  # fmt: skip
    hard = smoothed_logits(sure, torch.tensor([3])).softmax(-1)
    assert torch.equal(hard, functional.one_hot(torch.tensor([3]), 5).float())
    broken = smoothed_logits(torch.full((1, 5), math.nan), torch.tensor([3]))
    assert broken[0, 3].isnan()  # never an even answer


# Permuted classes. -------------------------------------------------------------------------------


def test_permuted_rows_keep_their_top_and_the_set_of_the_others():
    teacher = logits(1, 200, 6)
    seeds = [(3, 0, i) for i in range(200)]
    out = permuted_logits(teacher, seeds)
    top = teacher.argmax(-1)
    assert torch.equal(out.argmax(-1), top)
    assert torch.equal(out.sort(-1).values, teacher.sort(-1).values)
    moved = (out != teacher).any(-1).double().mean()
    assert moved > 0.9  # one permutation of 120 moves nothing
    assert torch.equal(out, permuted_logits(teacher, seeds))
    assert not torch.equal(out, permuted_logits(teacher, [(4, 0, i) for i in range(200)]))
    # Where a class is not the top, each of the other places is as likely.
    places = torch.stack([(out[i] == teacher[i, 5]).double() for i in range(200) if top[i] != 5])
    assert (places.mean(0)[:5] > 0.05).all()


def test_two_classes_have_nothing_to_permute():
    teacher = logits(1, 30, 2)
    assert torch.equal(permuted_logits(teacher, [(0, i) for i in range(30)]), teacher)


def test_a_row_has_its_permutation_whenever_it_comes():
    assert row_seeds(torch.tensor([5, 9]), 1, 3) == row_seeds(torch.tensor([5, 9]), 1, 8)
    assert row_seeds(torch.tensor([9, 5]), 1, 3) == row_seeds(torch.tensor([5, 9]), 1, 3)[::-1]
    mine = row_seeds(torch.tensor([-1, -1]), 1, 3)  # a loader of one's own
    assert len({*mine, *row_seeds(torch.tensor([-1, -1]), 1, 4)}) == 4


# Shuffled answers. -------------------------------------------------------------------------------


def test_every_row_gets_the_answer_of_another_one_of_its_class():
    labels = np.array([0, 1, 0, 2, 1, 0, 0, 1])
    partner = shuffled_rows(labels, 5)
    assert sorted(partner) == list(range(8))
    assert (labels[partner] == labels).all()
    assert [i for i in range(8) if partner[i] == i] == [3]  # alone in its class
    assert np.array_equal(partner, shuffled_rows(labels, 5))
    assert any(not np.array_equal(partner, shuffled_rows(labels, seed)) for seed in range(5))


@pytest.mark.parametrize("cached", [False, True])
def test_a_shuffled_teacher_exchanges_logits_alone(data, tmp_path, cached):
    live = LiveTeacher(tiny_model(seed=4), tiny_tokenizer(), data)
    inner = CachedTeacher(live, tmp_path) if cached else live
    ids, labels = (np.asarray(data.train[name][:]) for name in ("row_id", "label"))
    teacher = ShuffledTeacher(inner, ids, labels, 0)
    asked = torch.as_tensor(ids[:7])
    partners = teacher.partners(asked)
    label_of = dict(zip(ids.tolist(), labels.tolist(), strict=True))
    assert [label_of[i] for i in partners.tolist()] == labels[:7].tolist()
    assert not (partners == asked).any()
    needs = frozenset({"hidden_states"})
    out, own, others = teacher(asked, needs), inner(asked, needs), inner(partners)
    torch.testing.assert_close(out.logits, others.logits)
    torch.testing.assert_close(teacher(asked).logits, others.logits)
    for mine, theirs in zip(out.hidden_states, own.hidden_states, strict=True):
        torch.testing.assert_close(mine, theirs)
    with pytest.raises(DataError, match="no training row with a label"):
        teacher(torch.as_tensor(data.selection["row_id"][:1]))


# The objective. ----------------------------------------------------------------------------------


def batch_of(model, labels):
    return {**tiny_inputs(), "row_id": torch.arange(3), "labels": labels}


def value(teacher, **knobs):
    student, labels = tiny_model(), torch.tensor([0, 2, 1])
    weights = {"label_weight": 0.0, "logit_weight": 1.0, "hidden_weight": 0.0} | knobs
    objective = Distillation(LiveTeacher(teacher), problem="single_label", **weights)
    batch = batch_of(student, labels)
    mine = student(**tiny_inputs())
    return objective(student, batch, mine, 0), mine.logits, labels


@pytest.mark.parametrize("targets", ["smoothed", "permuted"])
def test_the_loss_is_the_divergence_from_what_stands_for_the_answers(targets):
    teacher, t = tiny_model(seed=8), 2.0
    found, mine, labels = value(teacher, targets=targets, seed=6)
    theirs = teacher(**tiny_inputs()).logits.detach()
    made = {
        "smoothed": lambda: smoothed_logits(theirs, labels, t),
        "permuted": lambda: permuted_logits(theirs, [(6, 0, i) for i in range(3)]),
    }[targets]()
    p, q = (made / t).softmax(-1), (mine / t).softmax(-1)
    torch.testing.assert_close(found, t * t * (p * (p / q).log()).sum(-1).mean())
    plain, _, _ = value(teacher)
    assert (found - plain).abs() > 1e-3


def test_confidence_weights_by_hand():
    teacher = tiny_model(seed=8)
    knobs = {"label_weight": 1.0, "logit_weight": 0.0, "label_weighting": "confidence"}
    found, mine, labels = value(teacher, **knobs)
    largest = teacher(**tiny_inputs()).logits.detach().softmax(-1).amax(-1)
    weights = confidence_weights(teacher(**tiny_inputs()).logits)
    torch.testing.assert_close(weights, largest / largest.sum())
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
    each = functional.cross_entropy(mine, labels, reduction="none")
    torch.testing.assert_close(found, (largest * each).sum() / largest.sum())


def test_an_evenly_sure_teacher_weighs_all_labels_alike():
    assert torch.equal(confidence_weights(torch.zeros(4, 3)), torch.full((4,), 0.25))


# Settings and refusals. --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"targets": "smoothed", "logit_weight": 0}, "whose weight is 0"),
        ({"label_weighting": "confidence", "label_weight": 0}, "whose weight is 0"),
        ({"label_weighting": "confidence", "targets": "shuffled"}, "one of the two at a time"),
        ({"targets": "smoothed", "transfer": "more.txt"}, "these texts have no labels"),
        ({"targets": "shuffled", "transfer": "more.txt"}, "these texts have no labels"),
        ({"targets": "shuffled", "augment": 2}, "augment: these texts have no labels"),
        ({"targets": "smooth"}, "smoothed"),
        (
            {**KNOBS["confidence"], "hidden_weight": 0, "transfer": "more.txt"},
            "no weight of a teacher's answers is above 0",
        ),
    ],
)
def test_settings_that_contradict_themselves(knobs, words):
    with pytest.raises(ValidationError, match=words):
        Distill(**knobs)


def context(data, workdir, teacher=None):
    models = Models(teacher or LiveTeacher(tiny_model(seed=8), tiny_tokenizer(), data))
    return Context(data.task, data, models, torch.device("cpu"), 0, workdir)


@pytest.mark.parametrize("kind", ["regression", "multi_label", "unlabelled"])
@pytest.mark.parametrize("control", KNOBS)
def test_tasks_without_one_class_a_text_are_refused(tmp_path, kind, control):
    data = toy_data(kind, rows=40)
    width = 1 if kind == "regression" else 2
    live = LiveTeacher(tiny_model(seed=8, num_labels=width), tiny_tokenizer(), data)
    product = Product(tiny_model(num_labels=width), tiny_tokenizer())
    words = "the label of each row|of 2 classes" if kind == "unlabelled" else "one class a text"
    with pytest.raises(RecipeError, match=f"distill: .*({words})"):
        Distill(**QUICK, **KNOBS[control]).apply(product, context(data, tmp_path, live))


def test_permuting_two_classes_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    sets = {"train": toy_rows(40), "validation": toy_rows(20, seed=1)}
    task = bc.Task.from_dataset(
        DatasetDict({name: Dataset.from_dict(rows) for name, rows in sets.items()}),
        text="text", label="label",
    )  # fmt: skip
    tiny_model("bert", "Model").save_pretrained(tmp_path / "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    monkeypatch.setattr(bc.Finetune, "apply", lambda *_: pytest.fail("computed"))
    cut = {"prune_structured": {"keep_layers": 2, "keep": 1.0}}
    methods = ["finetune", cut, {"distill": KNOBS["permuted"]}]
    recipe = bc.Recipe.parse({"model": str(tmp_path / "bert"), "task": task, "methods": methods})
    with pytest.raises(RecipeError, match=r"methods\[2\].distill: targets: permuted .* 2 classes"):
        bc.run(recipe, tmp_path / "run")


def test_a_loader_of_ones_own():
    model, teacher = tiny_model(num_labels=2), tiny_model(seed=8, num_labels=2)
    for knobs in (KNOBS["smoothed"], KNOBS["confidence"]):
        before = answer(model, tiny_inputs())
        bc.distill(model, teacher, batches(16), **QUICK, hidden_weight=0.0, **knobs)
        assert not torch.equal(answer(model, tiny_inputs()), before)
    with pytest.raises(InputError, match="known to a recipe"):
        bc.distill(model, teacher, batches(16), **QUICK, **KNOBS["shuffled"])
    with pytest.raises(RecipeError, match="of 2 classes that is one"):
        bc.distill(model, teacher, batches(16), **QUICK, **KNOBS["permuted"])


def test_the_labels_alone_are_the_control_of_each():
    for knobs in KNOBS.values():
        control = Distill(**QUICK, **knobs).controls()[WITHOUT_TEACHER]
        assert control.labels_only and control.label_weighting == "equal"
        assert not Distill(**QUICK, **knobs).labels_only


# Trainings and runs. -----------------------------------------------------------------------------


def trained(data, workdir, **knobs):
    method = Distill(**QUICK, hidden_weight=0.0, **knobs)
    product = Product(tiny_model(), tiny_tokenizer())
    return answer(method.apply(product, context(data, workdir)).model, tiny_inputs())


@pytest.mark.parametrize("control", KNOBS)
def test_a_stage_learns_from_each_and_does_the_same_again(data, tmp_path, control):
    found = trained(data, tmp_path / "a", **KNOBS[control])
    assert torch.equal(found, trained(data, tmp_path / "b", **KNOBS[control]))
    weights = {name: value for name, value in KNOBS[control].items() if "weight" in name}
    plain = weights if weights.pop("label_weighting", None) else {}
    assert not torch.equal(found, trained(data, tmp_path / "c", **plain))


@pytest.mark.parametrize("control", first_fast(KNOBS))
def test_a_run_names_its_control_and_stands_beside_labels_alone(tmp_path, control):
    sets = {"train": toy_rows(90), "validation": toy_rows(30, seed=1)}
    for columns in sets.values():
        columns["label"] = [2 if i % 3 == 2 else y for i, y in enumerate(columns["label"])]
    task = bc.Task.from_dataset(
        DatasetDict({name: Dataset.from_dict(rows) for name, rows in sets.items()}),
        text="text", label="label",
    )  # fmt: skip
    tiny_model("bert", "Model").save_pretrained(tmp_path / "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    cut = {"prune_structured": {"keep_layers": 2, "keep": 1.0}}
    taught = {"distill": {**QUICK, "hidden_weight": 0.0, **KNOBS[control]}}
    content = {"model": str(tmp_path / "bert"), "task": task,
               "methods": [{"finetune": QUICK}, cut, taught]}  # fmt: skip
    said = []
    recipe = bc.Recipe.parse({"measure": {"latency": False}, **content})
    run = bc.run(recipe, tmp_path / "run", say=said.append)
    ((name, words),) = control_words(recipe.methods[-1]).items()
    assert name.endswith(control) and words == CONTROLS[control]
    assert f"{name}: {words}" in run.report.last.notes
    assert [each.name for each in run.report.last.controls] == [WITHOUT_TEACHER]
    assert any(line.strip().startswith(f"stage 3 of 3: distill, {name}") for line in said)


# A student that is its own teacher. --------------------------------------------------------------


def test_a_cut_model_is_taught_by_itself_trained_on_the_labels(data, tmp_path, monkeypatch):
    model = tiny_model(seed=8)
    apply_edit(model, Layers([0, 2]))
    begun = answer(copy.deepcopy(model), tiny_inputs())
    with pytest.raises(ShapeError, match="begins: here"):
        BornAgain(**QUICK).check(model)
    asked = []
    stage_objective = BornAgain.stage_objective

    def spied(self, product, ctx):
        asked.append((answer(product.model, tiny_inputs()), ctx.models.teacher.model))
        return stage_objective(self, product, ctx)

    monkeypatch.setattr(BornAgain, "stage_objective", spied)
    method = BornAgain(**QUICK, begins="here")
    ctx = context(data, tmp_path)
    done = method.apply(Product(model, tiny_tokenizer()), ctx)
    ((start, teacher),) = asked
    assert torch.equal(start, begun) and anatomy(done.model).depth == 2
    alone = Distill(**QUICK).controls()[WITHOUT_TEACHER]
    again = copy.deepcopy(model)
    itself = alone.apply(Product(again, tiny_tokenizer()), context(data, tmp_path / "alone"))
    assert torch.equal(answer(teacher, tiny_inputs()), answer(itself.model, tiny_inputs()))
    assert done.findings.steps == 2 * itself.findings.steps  # it paid for its teacher
    control = method.controls()[WITHOUT_TEACHER]
    assert control.begins == "here" and control.labels_only
