"""`share_layers`: groups, starts, and that the best start is the best."""

from __future__ import annotations

import copy

import pytest
import torch
from tests_support import tiny_model

from bertcompress.methods.sharing.share_layers import (
    ShareLayers,
    _change,
    _last_state,
    candidates,
    choose_owners,
    share_layers,
)
from bertcompress.shapes import ShapeError, anatomy


def batches(count=2):
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        ids = torch.randint(5, 25, (6, 8), generator=generator)
        made.append({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    return made


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
    weights = [layer.get("ffn_in").weight.detach() for layer in anatomy(plain).layers]
    for init, expected in (
        ("first", weights[0]),
        ("last", weights[2]),
        ("mean", (weights[0] + weights[1] + weights[2]) / 3),
    ):
        model = share_layers(copy.deepcopy(plain), init=init)
        torch.testing.assert_close(anatomy(model).layers[1].get("ffn_in").weight, expected)


def test_the_best_start_changes_the_answers_least():
    plain, data = tiny_model(), batches()
    goals = [_last_state(plain, batch) for batch in data]
    best = _change(share_layers(copy.deepcopy(plain), init="best", batches=data), data, goals)
    others = [
        _change(share_layers(copy.deepcopy(plain), init=init), data, goals)
        for init in ("first", "last", "mean", "aligned")
    ]
    assert best <= min(others) + 1e-6
    assert set(candidates(plain, [0, 1], ("ffn",))) == {
        "first",
        "last",
        "mean",
        "aligned",
        "0",
        "1",
    }
    with pytest.raises(ValueError, match="needs batches"):
        share_layers(tiny_model(), init="best")


def test_equal_layers_stay_what_they_are():
    model = tiny_model().eval()
    layers = anatomy(model).layers
    for layer in layers[1:]:
        layer.module.load_state_dict(layers[0].module.state_dict())
    data = batches(1)[0]
    with torch.no_grad():
        before = model(**data).logits
        for init in ("first", "last", "mean", "aligned", "best"):
            shared = share_layers(copy.deepcopy(model), init=init, batches=[data])
            torch.testing.assert_close(shared.eval()(**data).logits, before)


def test_the_method_refuses_before_anything_is_computed():
    with pytest.raises(ShapeError, match="3 groups of 3 layers"):
        ShareLayers(groups=3).check(tiny_model())
