"""`share_layers`: groups, starts, and that the best start is the best."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from tests_support import random_batches, tiny_inputs, tiny_model

from bertcompress.errors import ModelError
from bertcompress.methods.sharing.share_layers import (
    ShareLayers,
    choose_owners,
    share_layers,
)
from bertcompress.shapes import ShapeError, anatomy


@pytest.mark.parametrize(
    ("depth", "groups", "owners"),
    [
        (6, 1, [0] * 6),
        (6, 3, [0, 0, 2, 2, 4, 4]),
        (6, 4, [0, 0, 2, 3, 3, 5]),
        (12, 5, [0, 0, 0, 3, 3, 5, 5, 5, 8, 8, 10, 10]),
    ],
)
def test_groups_are_those_of_albert(depth, groups, owners):
    assert choose_owners(depth, groups) == owners
    assert [int(i * groups / depth) for i in range(depth)] == [
        sorted(set(owners)).index(owner) for owner in owners
    ]


@pytest.mark.parametrize(("depth", "groups"), [(6, 0), (6, 6), (1, 1)])
def test_groups_that_share_nothing(depth, groups):
    with pytest.raises(ShapeError):
        choose_owners(depth, groups)


@pytest.mark.parametrize("scope", ["all", "attention", "ffn"])
def test_scopes(scope):
    model = share_layers(tiny_model(), scope, init="mean")
    view = anatomy(model)
    assert view.owners("query") == ([0, 0, 0] if scope != "ffn" else [0, 1, 2])
    assert view.owners("ffn_out") == ([0, 0, 0] if scope != "attention" else [0, 1, 2])


def test_starts_by_hand():
    plain = tiny_model()
    weights = [layer.linears["ffn_in"].weight.detach() for layer in anatomy(plain).layers]
    for init, expected in (
        ("first", weights[0]),
        ("last", weights[2]),
        ("mean", (weights[0] + weights[1] + weights[2]) / 3),
    ):
        model = share_layers(copy.deepcopy(plain), init=init)
        torch.testing.assert_close(anatomy(model).layers[1].linears["ffn_in"].weight, expected)


def moved(model, original, data):
    """Mean squared change of the last hidden state over real tokens, per text and by hand."""
    total, tokens = 0.0, 0
    with torch.no_grad():
        for batch in data:
            new = anatomy(model).base.eval()(**batch).last_hidden_state
            old = anatomy(original).base.eval()(**batch).last_hidden_state
            for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
                total += float((new[row, :length] - old[row, :length]).pow(2).sum())
                tokens += length
    return total / tokens


def ragged(seed=0):
    (batch,) = random_batches(1)
    mask = batch["attention_mask"].clone()
    for row, length in enumerate((8, 3, 5, 2, 8, 1)):
        mask[row, length:] = 0
    return [{**batch, "attention_mask": mask}]


@pytest.mark.parametrize(("depth", "groups"), [(3, 1), (4, 2)])
def test_the_best_start_changes_the_answers_least(depth, groups):
    """Group by group from the bottom: below what any one start for all groups gives."""
    plain, data = tiny_model(num_hidden_layers=depth), ragged()
    best = share_layers(copy.deepcopy(plain), groups=groups, init="best", batches=data)
    others = [
        share_layers(copy.deepcopy(plain), groups=groups, init=init)
        for init in ("first", "last", "mean", "aligned")
    ]
    assert moved(best, plain, data) <= min(moved(m, plain, data) for m in others) + 1e-6
    # The first group's start, by hand: each of its layers and the two means, the rest untouched.
    members = range(depth // groups)
    tried = {}
    for start in (*members, "mean", "aligned"):
        model = copy.deepcopy(plain)
        weights = anatomy(plain).layers
        source = (
            weights[start].module.state_dict()
            if isinstance(start, int)
            else anatomy(share_layers(copy.deepcopy(plain), groups=groups, init=start))
            .layers[0]
            .module.state_dict()
        )
        for layer in members:
            anatomy(model).layers[layer].module.load_state_dict(source)
        tried[start] = moved(model, plain, data), source
    _, expected = min(tried.values(), key=lambda pair: pair[0])
    for name, value in anatomy(best).layers[0].module.state_dict().items():
        torch.testing.assert_close(value, expected[name])


def test_without_a_start_it_is_the_best_where_there_is_something_to_judge_by():
    plain, data = tiny_model(), ragged()
    left_out = share_layers(copy.deepcopy(plain).train(), batches=data)
    best = share_layers(copy.deepcopy(plain), init="best", batches=data)
    assert left_out.training
    assert moved(left_out, best, data) == 0.0
    mean = share_layers(copy.deepcopy(plain), init="mean")
    assert moved(share_layers(copy.deepcopy(plain)), mean, data) == 0.0
    with pytest.raises(ValueError, match="needs batches"):
        share_layers(tiny_model(), init="best")


@pytest.mark.parametrize("init", ["first", "last", "mean", "aligned", "best"])
def test_a_model_in_half_precision_stays_so(init):
    model = share_layers(tiny_model().to(torch.bfloat16), init=init, batches=ragged())
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_chooses_as_full_precision_does(dtype):
    """At states so large that their squares are beyond fp16."""
    model, data = tiny_model(), ragged()
    norm = anatomy(model).layers[-1].norms["ffn"]
    with torch.no_grad():
        norm.weight.fill_(200.0)
    half = copy.deepcopy(model).to(dtype)
    for each in (model, half):
        share_layers(each, init="best", batches=data)
    for name, value in anatomy(model).layers[0].module.state_dict().items():
        given = anatomy(half).layers[0].module.state_dict()[name].float()
        torch.testing.assert_close(given, value, rtol=0.02, atol=0.02)


def test_states_that_are_not_finite_are_refused_and_nothing_is_changed():
    model = tiny_model()
    with torch.no_grad():
        anatomy(model).layers[-1].norms["ffn"].weight.fill_(math.inf)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ModelError, match="not finite"):
        share_layers(model, batches=ragged())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("first", "second"), [(2, 3), (4, 5), (2, 4)])
def test_groups_that_would_part_what_is_shared_are_refused(first, second):
    model = share_layers(tiny_model(num_hidden_layers=6), groups=first)
    with pytest.raises(ShapeError, match="share weights already"):
        share_layers(model, groups=second)
    share_layers(model, groups=1)
    assert anatomy(model).owners("query") == [0] * 6


def test_the_choices_of_a_row_are_texts():
    model = tiny_model(head="ForMultipleChoice")
    whole = tiny_inputs("ForMultipleChoice")
    flat = {name: values.flatten(0, 1) for name, values in whole.items()}
    shared = [share_layers(copy.deepcopy(model), batches=[given]) for given in (whole, flat)]
    one, two = (anatomy(each).layers[0].module.state_dict() for each in shared)
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_equal_layers_stay_what_they_are():
    model = tiny_model().eval()
    layers = anatomy(model).layers
    for layer in layers[1:]:
        layer.module.load_state_dict(layers[0].module.state_dict())
    data = random_batches(1)[0]
    with torch.no_grad():
        before = model(**data).logits
        for init in ("first", "last", "mean", "aligned", "best"):
            shared = share_layers(copy.deepcopy(model), init=init, batches=[data])
            torch.testing.assert_close(shared.eval()(**data).logits, before)


def test_the_method_refuses_before_anything_is_computed():
    with pytest.raises(ShapeError, match="3 groups of 3 layers"):
        ShareLayers(groups=3).check(tiny_model())
