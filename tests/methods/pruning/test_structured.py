"""Structured pruning as verbs, as choices and as a stage of a recipe."""

from __future__ import annotations

import json

import pytest
import torch
from pydantic import ValidationError
from tests_support import (
    FAMILIES,
    HEAD_COUNT,
    LAYERS,
    WIDTH,
    answer,
    tiny_inputs,
    tiny_model,
    tiny_tokenizer,
)
from training_support import toy_data

import bertcompress as bc
from bertcompress.deployment import Product
from bertcompress.engines.pruning.importance import task_loss
from bertcompress.engines.pruning.kprune import unit_costs
from bertcompress.engines.pruning.masks import sites, unit_masks
from bertcompress.errors import InputError
from bertcompress.heads import HEADS
from bertcompress.method import Context, Models
from bertcompress.methods.pruning.kprune import KPrune
from bertcompress.methods.pruning.structured import (
    PruneStructured,
    choose_layers,
    choose_units,
    prune_structured,
    score_units,
)
from bertcompress.shapes import Heads, Layers, ShapeError, anatomy, read_record

SCORES = ["fisher", "taylor", "magnitude", "random"]


def batches():
    one = {**tiny_inputs(), "labels": torch.tensor([2, 0, 1])}
    return [one, {key: value[1:] for key, value in one.items()}]


def counts(model):
    return [(layer.heads, layer.width) for layer in anatomy(model).layers]


def test_verbs_chain_and_count_what_is_there_now(bert):
    cut = bc.prune_neurons(bc.prune_heads(bert, [[1], [], [0, 3]]), [[5], range(20), []])
    assert cut is bert
    assert counts(bert) == [(3, WIDTH - 1), (4, WIDTH - 20), (2, WIDTH)]
    bc.prune_heads(bc.prune_layers(bert, [0]), [[0], [1]])
    assert counts(bert) == [(3, WIDTH - 20), (1, WIDTH)]
    assert read_record(bert.config)["layers"] == Layers([1, 2])
    assert read_record(bert.config)["heads"] == Heads([[0, 2, 3], [1, 2, 3], [1]])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_verb_equals_a_mask(family):
    model, batch = tiny_model(family), tiny_inputs()
    gone = [[1, 2] for _ in anatomy(model).layers]
    with unit_masks(model) as masks:
        for values in masks.values:
            values[[1, 2]] = 0
        masked = answer(model, batch)
    bc.prune_neurons(bc.prune_heads(model, gone), gone)
    torch.testing.assert_close(answer(model, batch), masked, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("verb", "gone", "says"),
    [
        (bc.prune_heads, [[0]], "heads: 1 lists given, the model has 3 layers"),
        (bc.prune_heads, [[4], [], []], "heads of layer 0: no number 4; it has 0 to 3"),
        (bc.prune_neurons, [[], [-1], []], "neurons of layer 1: no number -1"),
        (bc.prune_layers, [3], "no number 3; it has 0 to 2"),
        (bc.prune_layers, [0, 1, 2], "at least one layer must stay"),
    ],
)
def test_what_a_layer_has_not(bert, verb, gone, says):
    with pytest.raises(ShapeError, match=says):
        verb(bert, gone)
    assert counts(bert) == [(HEAD_COUNT, WIDTH)] * LAYERS
    assert not hasattr(bert.config, "bertcompress")


@pytest.mark.parametrize(
    ("depth", "keep", "order", "kept"),
    [
        (12, 6, "spread", [1, 3, 5, 7, 9, 11]),
        (12, 4, "spread", [2, 5, 8, 11]),
        (12, 5, "spread", [1, 3, 6, 8, 11]),
        (6, 1, "spread", [5]),
        (6, 6, "spread", [0, 1, 2, 3, 4, 5]),
        (12, 3, "bottom", [0, 1, 2]),
    ],
)
def test_which_layers_stay(depth, keep, order, kept):
    assert choose_layers(depth, keep, order) == kept


@pytest.mark.parametrize("depth", range(1, 25))
def test_any_number_of_layers_can_stay(depth):
    for keep in range(1, depth + 1):
        kept = choose_layers(depth, keep)
        assert len(set(kept)) == keep
        assert kept == sorted(kept)
        assert kept[-1] == depth - 1


def test_even_keeps_the_best_of_each_layer(bert):
    scores = score_units(bert, batches(), "fisher", task_loss(HEADS["single_label"]), 0)
    for row, kept in zip(scores, choose_units(bert, scores, 0.5), strict=True):
        assert len(kept) == round(row.numel() * 0.5)
        gone = [i for i in range(row.numel()) if i not in kept]
        assert row[kept].min() >= row[gone].max()


def test_uneven_fills_the_budget_of_operations(bert):
    scores = score_units(bert, batches(), "fisher", task_loss(HEADS["single_label"]), 0)
    kept = choose_units(bert, scores, 0.5, even=False)
    found = sites(bert)
    costs = unit_costs(bert, found, 128)
    full = sum(cost * site.units for cost, site in zip(costs, found, strict=True))
    used = sum(cost * len(row) for cost, row in zip(costs, kept, strict=True))
    assert 0.5 * full - max(costs) < used <= 0.5 * full
    assert all(row for row in kept), "at least one unit stays in each sublayer"


def test_scores_differ_from_each_other(bert):
    loss = task_loss(HEADS["single_label"])
    one = {kind: score_units(bert, batches(), kind, loss, 0)[1] for kind in SCORES}
    order = {kind: tuple(row.argsort().tolist()) for kind, row in one.items()}
    assert len(set(order.values())) == len(order)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scores", SCORES)
def test_every_score_cuts_every_family_and_repeats(family, scores):
    def cut(seed):
        model = prune_structured(tiny_model(family), batches(), 0.5, scores=scores, seed=seed)
        return answer(model, tiny_inputs()), counts(model)

    (one, shape), (two, _) = cut(1), cut(1)
    assert torch.equal(one, two)
    assert torch.isfinite(one).all()
    assert shape == [(HEAD_COUNT // 2, WIDTH // 2)] * len(shape)


def test_importance_beats_chance_on_what_it_is_for(bert):
    """Half of the neurons do nothing: Fisher and Taylor find them, whatever their weights are."""
    idle = [list(range(0, WIDTH, 2)) for _ in range(LAYERS)]
    for layer, units in zip(anatomy(bert).layers, idle, strict=True):
        with torch.no_grad():
            # Never active: the activation of a large negative number is zero.
            layer.linears["ffn_in"].bias[units] = -1e4
            layer.linears["ffn_out"].weight[:, units] *= 10
    before = answer(bert, tiny_inputs())
    for scores in ("fisher", "taylor"):
        ranked = score_units(bert, batches(), scores, task_loss(HEADS["single_label"]), 0)
        for row, units in zip(ranked[1::2], idle, strict=True):
            assert set(row.topk(WIDTH // 2, largest=False).indices.tolist()) == set(units)
    bc.prune_neurons(bert, idle)
    torch.testing.assert_close(answer(bert, tiny_inputs()), before, atol=1e-4, rtol=0)


def staged(method, model, data, tmp_path):
    context = Context(data.task, data, Models(None), torch.device("cpu"), 0, tmp_path)
    return method.apply(Product(model, tiny_tokenizer()), context)


@pytest.mark.parametrize("kind", ["single_label", "regression", "multi_label", "unlabelled"])
@pytest.mark.parametrize("cls", [PruneStructured, KPrune])
def test_as_a_stage_on_each_kind_of_task(kind, cls, tmp_path):
    data = toy_data(kind)
    fields = {"num_labels": 1} if kind == "regression" else {"num_labels": 2}
    model = tiny_model(**fields)
    if kind == "multi_label":
        model.config.problem_type = "multi_label_classification"
    method = cls(keep=0.5, rows=32)
    product = staged(method, model, data, tmp_path)
    facts = json.loads(json.dumps(product.findings.facts))
    assert list(zip(facts["heads"], facts["neurons"], strict=True)) == counts(product.model)
    assert facts["samples"] == 32
    if cls is PruneStructured:
        assert counts(product.model) == [(2, 12)] * 3


def test_whole_layers_and_units_within_them(tmp_path):
    data = toy_data()
    method = PruneStructured(keep=0.5, keep_layers=2, rows=16)
    product = staged(method, tiny_model(num_labels=2), data, tmp_path)
    assert counts(product.model) == [(2, 12)] * 2
    assert read_record(product.model.config)["layers"] == Layers([0, 2])
    untouched = staged(PruneStructured(keep=1), tiny_model(num_labels=2), data, tmp_path)
    assert torch.equal(
        answer(untouched.model, tiny_inputs()), answer(tiny_model(num_labels=2), tiny_inputs())
    )
    with pytest.raises(ShapeError, match="keep_layers 9 of 3 layers"):
        staged(PruneStructured(keep_layers=9), tiny_model(num_labels=2), data, tmp_path)


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"keep": 0}, "greater than 0"),
        ({"keep": 1.5}, "less than or equal to 1"),
        ({"keep_layers": 0}, "greater than or equal to 1"),
        ({"scores": "luck"}, "fisher"),
        ({"kep": 0.5}, "kep"),
    ],
)
def test_settings_that_cannot_be(knobs, says):
    with pytest.raises(ValidationError, match=says):
        PruneStructured(**knobs)


def test_scores_that_there_are_not():
    with pytest.raises(InputError, match="unknown scores 'kprune'"):
        prune_structured(tiny_model(), batches(), 0.5, scores="kprune")
