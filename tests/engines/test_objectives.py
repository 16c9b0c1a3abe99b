"""Losses against their formulas, and what weights of zero, padding and missing labels mean."""

from __future__ import annotations

import pytest
import torch
from tests_support import tiny_model
from torch.nn import functional

from bertcompress.engines.distillation.objectives import (
    Distillation,
    hidden_loss,
    kd_loss,
    layer_map,
    projection,
)
from bertcompress.engines.distillation.teachers import LiveTeacher
from bertcompress.errors import DataError, ModelError
from bertcompress.training import LabelLoss, forward


def logits(seed, rows=6, classes=4):
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))


def gradient(temperature, problem):
    student = (logits(0) * 0.1).requires_grad_()
    kd_loss(student, logits(1) * 0.1, temperature, problem).backward()
    return student.grad


def test_single_label_formula():
    student, teacher, t = logits(0), logits(1), 2.5
    p, q = (teacher / t).softmax(-1), (student / t).softmax(-1)
    by_hand = t * t * (p * (p / q).log()).sum(-1).mean()
    torch.testing.assert_close(kd_loss(student, teacher, t, "single_label"), by_hand)


def test_multi_label_formula():
    student, teacher, t = logits(0), logits(1), 2.5
    p, q = (teacher / t).sigmoid(), (student / t).sigmoid()
    by_hand = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    expected = t * t * by_hand.mean()
    torch.testing.assert_close(kd_loss(student, teacher, t, "multi_label"), expected)


def test_regression_is_squared_error_at_any_temperature():
    student, teacher = logits(0, classes=1), logits(1, classes=1)
    expected = ((student - teacher) ** 2).mean()
    for t in (1.0, 7.0):
        torch.testing.assert_close(kd_loss(student, teacher, t, "regression"), expected)


@pytest.mark.parametrize("problem", ["single_label", "multi_label"])
def test_gradient_does_not_depend_on_a_high_temperature(problem):
    """Hinton et al. 2015, equation 4: the gradient tends to (z - v) / K, once times T^2."""
    warm, hot = gradient(20.0, problem), gradient(200.0, problem)
    assert (warm - hot).norm() < 0.02 * hot.norm()
    if problem == "single_label":
        gap = 0.1 * (logits(0) - logits(1))
        limit = (gap - gap.mean(-1, keepdim=True)) / (4 * 6)
        assert (hot - limit).norm() < 0.005 * limit.norm()


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
def test_nothing_to_learn_from_an_equal_teacher(problem):
    student = logits(0).requires_grad_()
    loss = kd_loss(student, logits(0), 3.0, problem)
    loss.backward()
    assert loss == 0
    assert student.grad.abs().max() < 1e-6


def test_layer_map_is_even_and_ends_at_the_last():
    assert layer_map(6, 6) == (0, 1, 2, 3, 4, 5, 6)
    assert layer_map(3, 12) == (0, 4, 8, 12)
    assert layer_map(4, 6) == (0, 2, 3, 5, 6)
    assert layer_map(2, 1) == (0, 1, 1)


def states(seed, layers=3, width=5):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 4, width, generator=generator) for _ in range(layers)]


MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


def test_hidden_loss_formula():
    student, teacher = states(0), states(1, layers=5)
    total = 0.0
    for i, j in enumerate((0, 2, 4)):
        for b, t in ((0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)):
            total += float(((student[i][b, t] - teacher[j][b, t]) ** 2).sum())
    expected = torch.tensor(total / (3 * 6 * 5))
    torch.testing.assert_close(hidden_loss(student, teacher, MASK, (0, 2, 4)), expected)


def test_padding_does_not_matter():
    student, teacher = states(0), states(1)
    expected = hidden_loss(student, teacher, MASK, (0, 1, 2))
    for tensor in (*student, *teacher):
        tensor[1, 2:] = 1e9
    assert torch.equal(hidden_loss(student, teacher, MASK, (0, 1, 2)), expected)


def test_projection_only_between_different_widths():
    assert projection(8, 8) is None
    linear = projection(5, 8, seed=2)
    assert torch.equal(linear.weight, projection(5, 8, seed=2).weight)
    torch.testing.assert_close(linear.weight.T @ linear.weight, torch.eye(5))
    loss = hidden_loss(states(0), states(1, width=8), MASK, (0, 1, 2), linear)
    loss.backward()
    assert linear.weight.grad.abs().sum() > 0


def batch(labels=None):
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(5, 20, (4, 7), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    made = {"input_ids": ids, "attention_mask": mask, "row_id": torch.arange(4)}
    return made if labels is None else {**made, "labels": labels}


def loss_of(objective, model, of):
    return objective(model, of, forward(model, of, objective.needs), 0)


LABELS = {
    "cross entropy": (torch.tensor([0, 2, 1, 1]), functional.cross_entropy, 3),
    "per class": (torch.eye(4, 3), functional.binary_cross_entropy_with_logits, 3),
    "squared error": (torch.tensor([0.5, 1.0, -2.0, 0.0]), functional.mse_loss, 1),
}


@pytest.mark.parametrize("kind", LABELS)
def test_weight_zero_is_the_plain_loss_bit_for_bit(kind):
    labels, plain, classes = LABELS[kind]
    model, of = tiny_model(num_labels=classes), batch(labels)
    expected = plain(forward(model, of).logits.squeeze(-1) if classes == 1 else
                     forward(model, of).logits, labels)  # fmt: skip
    alone = Distillation(None, label_weight=1.0, logit_weight=0, hidden_weight=0)
    assert torch.equal(loss_of(alone, model, of), expected)
    assert torch.equal(loss_of(LabelLoss(), model, of), expected)
    assert alone.needs == frozenset()


def test_terms_add_up_with_their_weights():
    model, teacher = tiny_model(), tiny_model(seed=9)
    of = batch(torch.tensor([0, 2, 1, 1]))
    live = LiveTeacher(teacher)
    weights = {"label_weight": 0.3, "logit_weight": 0.7, "hidden_weight": 0.5}
    whole = loss_of(Distillation(live, **weights), model, of)
    parts = [
        loss_of(Distillation(live, **(dict.fromkeys(weights, 0.0) | {name: value})), model, of)
        for name, value in weights.items()
    ]
    torch.testing.assert_close(whole, sum(parts))
    assert all(part > 0 for part in parts)


def test_equal_student_has_no_loss():
    model = tiny_model()
    objective = Distillation(LiveTeacher(tiny_model()), label_weight=0)
    assert loss_of(objective, model, batch()) == 0


def test_without_labels_the_label_term_is_left_out():
    model, live = tiny_model(), LiveTeacher(tiny_model(seed=9))
    with_weight = loss_of(Distillation(live, label_weight=0.4), model, batch())
    without = loss_of(Distillation(live, label_weight=0), model, batch())
    assert torch.equal(with_weight, without)
    with pytest.raises(DataError, match="no term is left"):
        loss_of(Distillation(None, logit_weight=0, hidden_weight=0), model, batch())
    with pytest.raises(DataError, match="none"):
        loss_of(LabelLoss(), model, batch())


def test_a_shallower_student_follows_the_mapped_layers():
    model = tiny_model(num_hidden_layers=1)
    objective = Distillation(LiveTeacher(tiny_model(seed=9)), label_weight=0, logit_weight=0)
    of = batch()
    student = forward(model, of, objective.needs).hidden_states
    theirs = objective.teacher.answer(of, objective.needs).hidden_states
    expected = hidden_loss(student, [theirs[0], theirs[3]], of["attention_mask"], (0, 1))
    assert torch.equal(loss_of(objective, model, of), expected)


def test_teacher_gets_no_gradient_and_student_does():
    model, teacher = tiny_model(), tiny_model(seed=9)
    loss_of(Distillation(LiveTeacher(teacher)), model, batch()).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert model.bert.embeddings.word_embeddings.weight.grad.abs().sum() > 0


def test_hidden_states_of_different_tokens_are_refused():
    live = LiveTeacher(tiny_model())
    with pytest.raises(ModelError, match="different vocabularies"):
        Distillation(live, same_tokens=False)
    Distillation(live, same_tokens=False, hidden_weight=0)


def test_a_teacher_is_needed_for_its_terms():
    with pytest.raises(ModelError, match="no teacher"):
        loss_of(Distillation(None), tiny_model(), batch())


def test_projection_is_trained_and_restored():
    objective = Distillation(
        LiveTeacher(tiny_model(hidden_size=24)), project=projection(16, 24, seed=1)
    )
    (group,) = objective.parameter_groups()
    assert group["params"] == [objective.project.weight]
    state = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    with torch.no_grad():
        objective.project.weight.zero_()
    objective.load_state_dict(state)
    assert torch.equal(objective.project.weight, projection(16, 24, seed=1).weight)
    assert Distillation(None).parameter_groups() == [] == LabelLoss().parameter_groups()
