"""`ted`: filters learn while models stand still, and students follow behind them; its controls."""

from __future__ import annotations

import copy

import pytest
import torch
from test_training import batches
from tests_support import answer, tiny_inputs, tiny_model, tiny_tokenizer
from training_support import toy_data

import bertcompress as bc
from bertcompress.deployment import Product
from bertcompress.engines.distillation.filters import FilteredStates, FilterLoss, TaskFilters
from bertcompress.engines.distillation.objectives import Distillation, hidden_loss
from bertcompress.engines.distillation.settings import WITHOUT_TEACHER
from bertcompress.engines.distillation.teachers import LiveTeacher
from bertcompress.errors import DataError, RecipeError, TaskError
from bertcompress.heads import HEADS
from bertcompress.method import Context, Models, Need
from bertcompress.methods.distillation.ted import Ted
from bertcompress.shapes import Layers, apply_edit
from bertcompress.training import forward

pytestmark = pytest.mark.usefixtures("without_figures")

QUICK = {"epochs": 1, "batch_size": 8, "learning_rate": 2e-3, "precision": "fp32"}


@pytest.fixture(scope="module")
def data():
    return toy_data(rows=80)


def states(seed, width=6, layers=4, rows=3, tokens=5):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, tokens, width, generator=generator) for _ in range(layers)]


MASK = (torch.arange(5)[None] < torch.tensor([5, 3, 1])[:, None]).long()


def test_filtered_states_are_compared_by_hand_at_unequal_widths():
    mine, theirs = TaskFilters((1, 2), 6, 7, 2, seed=0), TaskFilters((2, 3), 9, 7, 2, seed=1)
    student, teacher = states(0, 6), states(1, 9)
    total = 0.0
    for place, (i, j) in enumerate(((1, 2), (2, 3))):
        a, b = mine.maps[place](student[i]), theirs.maps[place](teacher[j])
        apart = (a - b).pow(2) * MASK[..., None]
        total = total + apart.sum() / (MASK.sum() * 7)
    loss = FilteredStates(mine, theirs)
    torch.testing.assert_close(loss(student, teacher, MASK), total / 2)
    for each in (*student, *teacher):
        each[1, 3:] = 1e9  # padding
    torch.testing.assert_close(loss(student, teacher, MASK), total / 2)


def test_filters_that_pass_everything_are_plain_hidden_states():
    mine, theirs = (TaskFilters((1, 2, 3), 6, 6, 2) for _ in range(2))
    for each in (*mine.maps, *theirs.maps):
        torch.nn.init.eye_(each.weight)
        torch.nn.init.zeros_(each.bias)
    student, teacher = states(0), states(1)
    plain = hidden_loss(student[1:], teacher, MASK, (1, 2, 3))
    torch.testing.assert_close(FilteredStates(mine, theirs)(student, teacher, MASK), plain)
    assert FilteredStates(mine, theirs)(student, student, MASK) == 0


def test_only_the_students_filters_are_trained_and_restored():
    mine, theirs = TaskFilters((1,), 6, 4, 2, seed=0), TaskFilters((3,), 6, 4, 2, seed=1)
    objective = Distillation(LiveTeacher(tiny_model()))
    objective.filters = FilteredStates(mine, theirs)
    (group,) = objective.parameter_groups()
    assert group["params"] == list(mine.maps.parameters())
    objective.filters(states(0), states(1), MASK).backward()
    assert mine.maps[0].weight.grad.abs().sum() > 0 and theirs.maps[0].weight.grad is None
    kept = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    torch.nn.init.zeros_(mine.maps[0].weight)
    objective.load_state_dict(kept)
    objective.project = torch.nn.Linear(3, 2)  # of another term
    (group,) = objective.parameter_groups()
    assert len(group["params"]) == 4 and len(objective.state_dict()) == 4
    again = TaskFilters((1,), 6, 4, 2, seed=0)
    assert torch.equal(mine.maps[0].weight, again.maps[0].weight)  # the seed decides


@pytest.mark.parametrize(("problem", "width"), [("single_label", 3), ("regression", 1)])
def test_filters_are_learned_by_the_loss_of_the_labels(problem, width):
    model, head = tiny_model(num_labels=width), HEADS[problem]
    filters = TaskFilters((1, 3), 16, 5, width)
    labels = torch.tensor([0, 2, 1]) if width > 1 else torch.tensor([0.5, -1.0, 2.0])
    batch = {**tiny_inputs(), "labels": labels}
    loss = FilterLoss(filters, head)
    outputs = forward(model, batch, loss.needs)
    by_hand = [
        head.loss(filters.heads[place](filters.maps[place](outputs.hidden_states[n][:, 0])), batch)
        for place, n in enumerate((1, 3))
    ]
    torch.testing.assert_close(loss(model, batch, outputs, 0), sum(by_hand) / 2)
    with pytest.raises(DataError, match="learned on labels"):
        loss(model, tiny_inputs(), outputs, 0)


def stage(method, data, workdir, student=None, teacher=None):
    teacher = teacher or tiny_model(seed=8, num_labels=2)
    if student is None:
        student = copy.deepcopy(teacher)
        apply_edit(student, Layers([0, 2]))
    live = LiveTeacher(teacher, tiny_tokenizer(), data)
    ctx = Context(data.task, data, Models(live), torch.device("cpu"), 3, workdir)
    return method.apply(Product(student, tiny_tokenizer()), ctx)


def test_a_stage_learns_filters_first_and_leaves_the_teacher(data, tmp_path, monkeypatch):
    begun = []
    put = FilteredStates.__init__

    def spied(self, student, teacher):
        begun.append((copy.deepcopy(student), copy.deepcopy(teacher)))
        put(self, student, teacher)

    monkeypatch.setattr(FilteredStates, "__init__", spied)
    teacher = tiny_model(seed=8, num_labels=2)
    held = copy.deepcopy(teacher.state_dict())
    one = stage(Ted(**QUICK), data, tmp_path / "a", teacher=teacher)
    assert all(torch.equal(held[name], t) for name, t in teacher.state_dict().items())
    assert all(p.requires_grad for p in one.model.parameters())
    ((student_filters, teacher_filters),) = begun
    assert (student_filters.states, teacher_filters.states) == ((1, 2), (2, 3))
    drawn = TaskFilters((2, 3), 16, 16, 2, seed=3)
    assert not torch.equal(drawn.maps[0].weight, teacher_filters.maps[0].weight)  # it learned
    steps = -(-len(data.train) // 8)
    assert one.findings.steps == 3 * steps  # both filters, then the student
    plain = stage(Ted(**QUICK, filter_epochs=0), data, tmp_path / "b", teacher=teacher)
    assert plain.findings.steps == steps and len(begun) == 1
    assert not torch.equal(answer(one.model, tiny_inputs()), answer(plain.model, tiny_inputs()))


@pytest.mark.slow
def test_a_stage_that_was_begun_again_ends_with_the_same_weights(data, tmp_path):
    one = stage(Ted(**QUICK), data, tmp_path)
    again = stage(Ted(**QUICK), data, tmp_path)  # all of it is finished there
    assert torch.equal(answer(one.model, tiny_inputs()), answer(again.model, tiny_inputs()))


@pytest.mark.slow
def test_a_narrow_student_and_narrow_filters(data, tmp_path):
    student = tiny_model(num_labels=2, hidden_size=8, num_hidden_layers=2)
    done = stage(Ted(**QUICK, filter_width=4), data, tmp_path, student)
    assert done.findings.selection_score is not None


def test_its_controls_are_labels_alone_and_states_without_filters():
    method = Ted(**QUICK)
    alone, plain = method.controls().values()
    assert next(iter(method.controls())) == WITHOUT_TEACHER
    assert alone.labels_only and not alone.filters_states
    assert plain == method.model_copy(update={"filter_epochs": 0.0})
    assert set(plain.controls()) == {WITHOUT_TEACHER}


def test_what_it_cannot_serve_is_refused(data, tmp_path):
    method = Ted(**QUICK)
    with pytest.raises(TaskError, match="a vectors task has none"):
        model = tiny_model(head="Model")
        method.filter_loss(model, model, (1,), HEADS["vectors"], 0, "cpu")
    ctx = Context(data.task, data, Models(lambda *_: None), torch.device("cpu"), 0, tmp_path)
    with pytest.raises(RecipeError, match="whose model and tokenizer are at hand"):
        method.apply(Product(tiny_model(num_labels=2), tiny_tokenizer()), ctx)
    assert Need.LABELS in Ted.requires  # so that a recipe refuses rows without them


def test_the_function_trains_in_place_and_leaves_the_teacher():
    model, teacher = tiny_model(num_labels=2), tiny_model(seed=8, num_labels=2)
    before, held = answer(model, tiny_inputs()), copy.deepcopy(teacher.state_dict())
    assert bc.ted(model, teacher, batches(16), **QUICK) is model
    assert not torch.equal(answer(model, tiny_inputs()), before)
    assert all(torch.equal(held[name], t) for name, t in teacher.state_dict().items())
