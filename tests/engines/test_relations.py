"""Losses inside attention: against stock models' own attention, loops, and closed forms."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from tests_support import tiny_inputs, tiny_model

from bertcompress.engines.distillation import fused_kl
from bertcompress.engines.distillation.inside import InsideTerms
from bertcompress.engines.distillation.objectives import Distillation
from bertcompress.engines.distillation.relations import (
    attention_loss,
    patient_loss,
    projections,
    relation_heads,
    relation_loss,
)
from bertcompress.engines.distillation.teachers import LiveTeacher
from bertcompress.errors import ModelError
from bertcompress.shapes import Heads, anatomy, apply_edit

FAMILIES = ["bert", "roberta", "distilbert", "electra", "albert"]


def states(seed, width=8, rows=3, tokens=5):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(rows, tokens, width, generator=generator) for _ in range(3))


def mask(rows=3, tokens=5):
    """The last rows are shorter."""
    return (torch.arange(tokens)[None] < torch.tensor([tokens, 3, 1])[:, None]).long()


def returned(model, **inputs):
    return model(**inputs, output_hidden_states=True, output_attentions=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_projections_give_the_attention_of_the_stock_model(family):
    model = tiny_model(family, num_labels=2)
    model.set_attn_implementation("eager")
    inputs = tiny_inputs()
    outputs = returned(model, **inputs)
    view = anatomy(model)
    found = projections(model, range(view.depth), outputs.hidden_states)
    for number, attention in enumerate(outputs.attentions):
        query, key, _ = found[number]
        heads = attention.shape[1]
        q, k = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        shown = inputs["attention_mask"].bool()[:, None, None]
        wanted = scores.masked_fill(~shown, -1e9).softmax(-1)
        torch.testing.assert_close(wanted, attention, atol=1e-5, rtol=1e-4)


def by_loops(student, teacher, shown, heads, pairs):
    """The mean divergence, one query of one head after the other, in numpy."""
    total = []
    for one, two in pairs:
        for row in range(len(shown)):
            count = int(shown[row].sum())
            for head in range(heads):
                part = []
                for each in (student, teacher):
                    size = each[one].shape[-1] // heads
                    at = slice(head * size, (head + 1) * size)
                    a, b = (each[i][row, :count, at].numpy().astype(float) for i in (one, two))
                    scores = a @ b.T / math.sqrt(size)
                    scores -= scores.max(axis=1, keepdims=True)
                    part.append(scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)))
                ours, theirs = part
                total += list((np.exp(theirs) * (theirs - ours)).sum(axis=1))
    return float(np.mean(total))


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_relations_are_those_of_loops_at_any_width(heads):
    student, teacher = states(0, 8), states(1, 24)
    value = relation_loss(student, teacher, mask(), heads=heads)
    wanted = by_loops(student, teacher, mask(), heads, [(0, 0), (1, 1), (2, 2)])
    assert float(value) == pytest.approx(wanted, rel=1e-5)
    crossed = relation_loss(student, teacher, mask(), ("query_key",), heads)
    assert float(crossed) == pytest.approx(
        by_loops(student, teacher, mask(), heads, [(0, 1)]), rel=1e-5
    )


def test_equal_models_have_no_loss_and_others_a_gradient():
    student = tuple(t.requires_grad_() for t in states(0))
    assert relation_loss(student, states(0), mask()).item() == pytest.approx(0, abs=1e-7)
    loss = relation_loss(student, states(1, 16), mask())
    loss.backward()
    assert loss.item() > 0 and all(t.grad.abs().sum() > 0 for t in student)


def plainly(student, teacher, shown, heads, pairs):
    """The same by autograd, every relation whole."""
    total, hidden = 0, ~shown.bool()[:, None, None, :]
    for one, two in pairs:
        logs = []
        for each in (student, teacher):
            a, b = (each[i].unflatten(-1, (heads, -1)).transpose(1, 2) for i in (one, two))
            scores = a @ b.transpose(-1, -2) / math.sqrt(a.shape[-1])
            logs.append(scores.masked_fill(hidden, -1e9).log_softmax(-1))
        apart = (logs[1].exp() * (logs[1] - logs[0])).sum(-1)
        total = total + apart[shown.bool()[:, None].expand_as(apart)].mean()
    return total / len(pairs)


@pytest.mark.parametrize("at_once", [1, 60, 1_000_000])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("relations", [("query", "key", "value"), ("query_key", "value")])
def test_gradients_are_those_of_autograd(relations, padded, at_once, monkeypatch):
    """However many matrices are in hand at a time; padding has none."""
    monkeypatch.setattr(fused_kl, "_CACHED", at_once)
    shown = mask() if padded else torch.ones(3, 5, dtype=torch.long)
    pairs = [{"query": (0, 0), "key": (1, 1), "value": (2, 2), "query_key": (0, 1)}[r]
             for r in relations]  # fmt: skip
    ours, wanted = (tuple(t.requires_grad_() for t in states(0)) for _ in range(2))
    teacher = states(1, 16)
    loss, plain = (
        relation_loss(ours, teacher, shown, relations, 4),
        plainly(wanted, teacher, shown, 4, pairs),
    )
    torch.testing.assert_close(loss, plain)
    (3 * loss).backward()
    (3 * plain).backward()
    for mine, theirs in zip(ours, wanted, strict=True):
        if theirs.grad is None:
            assert mine.grad is None
            continue
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-7, rtol=1e-4)
        assert not padded or not mine.grad[2, 1:].any()


def test_relations_in_bf16_training_are_compared_in_fp32():
    student, teacher = states(0), states(1, 16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = relation_loss(student, teacher, mask())
    assert torch.equal(loss, relation_loss(student, teacher, mask()))


def test_nothing_of_the_size_of_a_relation_is_kept_for_the_backward_pass():
    rows, tokens, width = 2, 64, 16
    student = tuple(t.requires_grad_() for t in states(0, width, rows, tokens))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()), lambda t: t):
        relation_loss(student, states(1, width, rows, tokens), torch.ones(rows, tokens), heads=4)
    assert max(kept) <= rows * tokens * width < rows * tokens * tokens


@pytest.mark.parametrize("loss", ["relations", "attention"])
def test_padding_changes_nothing(loss):
    def value(seed):
        student, teacher = states(0), states(1)
        padding = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(seed))
        student, teacher = (
            tuple(torch.where(mask().bool()[..., None], t, padding) for t in each)
            for each in (student, teacher)
        )
        if loss == "relations":
            return float(relation_loss(student, teacher, mask(), heads=2))
        return float(attention_loss(student, teacher, mask(), (2, 2)))

    assert value(2) == value(3)


@pytest.mark.parametrize(
    ("student", "teacher", "heads"),
    [(96, 384, 48), (192, 768, 48), (256, 1024, 64), (32, 48, 16), (7, 384, 1)],
)
def test_widths_are_divided_as_often_as_both_can_be(student, teacher, heads):
    assert relation_heads(student, teacher) == heads


def test_heads_that_do_not_divide_a_width_are_refused():
    with pytest.raises(ModelError, match="8 features cannot be divided among 3 heads"):
        relation_loss(states(0), states(1), mask(), heads=3)


def test_attention_scores_by_hand_and_by_the_mean_of_unequal_heads():
    student, teacher = states(0), states(1)
    total, count = 0.0, 0
    for row, length in enumerate([5, 3, 1]):
        for head in range(2):
            at = slice(4 * head, 4 * head + 4)
            ours, theirs = (
                each[0][row, :length, at] @ each[1][row, :length, at].T / 2
                for each in (student, teacher)
            )
            total += float((ours - theirs).pow(2).sum())
            count += length * length
    assert float(attention_loss(student, teacher, mask(), (2, 2))) == pytest.approx(total / count)
    assert float(attention_loss(student, student, mask(), (2, 2))) == 0


@pytest.mark.parametrize("autocast", [False, True])
def test_padding_adds_nothing_to_the_mean_of_many_heads(autocast):
    """A sum of twelve large numbers is rounded: what hides padding may not be one."""
    student, teacher = states(0, width=8), states(1, width=24)
    total, count = 0.0, 0
    for row, length in enumerate([5, 3, 1]):
        each = [
            torch.stack([
                (query[:, i : i + size] @ key[:, i : i + size].T) / math.sqrt(size)
                for i in range(0, query.shape[1], size)
            ]).mean(0)
            for query, key, size in (
                (student[0][row, :length], student[1][row, :length], 4),
                (teacher[0][row, :length], teacher[1][row, :length], 2),
            )
        ]  # fmt: skip
        total += float((each[0] - each[1]).pow(2).sum())
        count += length * length
    with torch.autocast("cpu", enabled=autocast):
        found = float(attention_loss(student, teacher, mask(), (2, 12)))
    assert found == pytest.approx(total / count, rel=1e-5)


def test_patient_states_by_hand():
    student = [states(i)[0] for i in range(3)]
    teacher = [states(10 + i)[0] for i in range(5)]
    unit = torch.nn.functional.normalize
    wanted = (unit(student[1][:, 0], dim=-1) - unit(teacher[2][:, 0], dim=-1)).pow(2).sum(-1).mean()
    torch.testing.assert_close(patient_loss(student, teacher, (0, 2, 4)), wanted)
    assert float(patient_loss(student, student, (0, 1, 2))) == 0


WEIGHTS = {"label_weight": 0.0, "logit_weight": 0.0, "hidden_weight": 0.0}


def objective(teacher, **terms):
    view = anatomy(teacher)
    inside = InsideTerms(
        **terms,
        teacher_depth=view.depth,
        teacher_heads=tuple(view.layers[i].heads for i in view.applications),
    )
    return Distillation(LiveTeacher(teacher), problem="single_label", inside=inside, **WEIGHTS)


TERMS = ["patient_weight", "attention_weight", "relation_weight"]


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_term_is_zero_for_the_teacher_itself(family, term):
    teacher = tiny_model(family, num_labels=2)
    batch = {**tiny_inputs(), "row_id": torch.arange(3)}
    found = objective(teacher, **{term: 2.0})
    student = copy.deepcopy(teacher)
    outputs = student(**tiny_inputs(), output_hidden_states=True)
    assert found(student, batch, outputs, 0).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("term", ["attention_weight", "relation_weight"])
def test_a_student_of_fewer_heads_learns(term):
    teacher = tiny_model("bert", num_labels=2)
    student = copy.deepcopy(teacher)
    apply_edit(student, Heads([[0]] * anatomy(student).depth))
    student.train()
    batch = {**tiny_inputs(), "row_id": torch.arange(3)}
    loss = objective(teacher, **{term: 1.0})
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    values = []
    for step in range(15):
        torch.manual_seed(0)
        outputs = student(**tiny_inputs(), output_hidden_states=True)
        value = loss(student, batch, outputs, step)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert 0 < values[-1] < values[0]
    assert all(p.grad is None for p in teacher.parameters())


def test_tokens_that_do_not_align_are_refused_with_the_reason():
    with pytest.raises(ModelError, match="attention_weight and relation_weight to 0"):
        Distillation(None, inside=InsideTerms(relation_weight=1.0), same_tokens=False, **WEIGHTS)
    Distillation(None, inside=InsideTerms(patient_weight=1.0), same_tokens=False, **WEIGHTS)


def test_a_layer_that_is_not_there_is_refused():
    model = tiny_model("bert", num_labels=2)
    outputs = model(**tiny_inputs(), output_hidden_states=True)
    with pytest.raises(ModelError, match=r"no layer 10; BertForSequence\w+ has 3"):
        projections(model, [9], outputs.hidden_states)
