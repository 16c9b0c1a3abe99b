"""K-prune on tiny models: budget, repair, what it leaves alone."""

from __future__ import annotations

import copy

import pytest
import torch
from tests_support import FAMILIES, VOCABULARY, answer, tiny_inputs, tiny_model

from bertcompress.engines.pruning.importance import head_of
from bertcompress.engines.pruning.kprune import KPruneSettings, _Survey, cut_and_repair, unit_costs
from bertcompress.engines.pruning.masks import sites
from bertcompress.shapes import Heads, Neurons, anatomy, apply_edit, family_named

LENGTH = 128


def calibration(batches=4, rows=8, tokens=12):
    generator = torch.Generator().manual_seed(7)
    found = []
    for _ in range(batches):
        ids = torch.randint(5, len(VOCABULARY), (rows, tokens), generator=generator)
        mask = torch.ones_like(ids)
        mask[: rows // 2, tokens - 4 :] = 0
        found.append({"input_ids": ids, "attention_mask": mask})
    return found


def spent(model):
    found = sites(model)
    return sum(c * s.units for c, s in zip(unit_costs(model, found, LENGTH), found, strict=True))


def streams(model, batch):
    """What reaches each sublayer's LayerNorm at real tokens, bottom to top."""
    seen = []
    handles = [
        norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        for layer in anatomy(model).layers
        for norm in layer.norms.values()
    ]
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    return [each[batch["attention_mask"].bool()] for each in seen]


def errors(model, original, batches):
    """Squared distance of the stream to the original's after each sublayer, over the batches."""
    totals = None
    for batch in batches:
        pairs = zip(streams(model, batch), streams(original, batch), strict=True)
        each = torch.stack([(a - b).pow(2).sum() for a, b in pairs])
        totals = each if totals is None else totals + each
    return totals


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.85])
def test_the_budget_is_met_within_one_unit(family, keep):
    model = tiny_model(family)
    full = spent(model)
    dearest = max(unit_costs(model, sites(model), LENGTH))
    cut_and_repair(model, calibration(), keep)
    assert keep * full - dearest < spent(model) <= keep * full + 1e-6


def test_costs_are_the_multiply_accumulates_of_a_unit(bert):
    costs = unit_costs(bert, sites(bert), LENGTH)
    hidden, head = 16, 4
    assert costs[:2] == [4 * hidden * head + 2 * LENGTH * head, 2 * hidden]
    assert len(costs) == 6


@pytest.mark.parametrize("family", FAMILIES)
def test_keeping_everything_changes_rounding_only(family):
    model, batch = tiny_model(family), tiny_inputs()
    before = answer(model, batch)
    cut_and_repair(model, calibration(), 1.0)
    assert anatomy(model).layers[0].heads == 4
    torch.testing.assert_close(answer(model, batch), before, atol=2e-3, rtol=0)


@pytest.mark.parametrize("family", [f for f in FAMILIES if not family_named(f).shared])
def test_repair_brings_every_sublayer_nearer_to_the_original(family):
    original, batches = tiny_model(family), calibration()
    repaired = cut_and_repair(copy.deepcopy(original), batches, 0.6)
    plain = copy.deepcopy(original)
    rows = {
        kind: [s.units for s in sites(repaired) if s.kind == kind] for kind in ("heads", "neurons")
    }
    assert min(map(min, rows.values())) > 0, "a sublayer is empty: nothing to repair in it"
    bare = cut_and_repair(
        copy.deepcopy(original), batches, 0.6, settings=KPruneSettings(reconstruct=False)
    )
    # The same units, removed from the original without repair.
    apply_edit(plain, Heads(record(repaired, "heads")))
    kept = kept_neurons(original, batches)
    apply_edit(plain, Neurons([len(row) for row in kept], kept))
    for other in (plain, bare):
        # Where nothing was cut, the solution differs from the weights by rounding.
        nearer = errors(repaired, original, batches) <= errors(other, original, batches) + 1e-6
        assert nearer.all()


def record(model, kind):
    return model.config.bertcompress["edits"][kind]["kept"]


def kept_neurons(original, batches):
    """Which neurons K-prune keeps: the record holds widths only, so it is watched while cutting."""
    from bertcompress.engines.pruning import kprune as module

    seen, real = {}, module._cut

    def watch(model, site, kept):
        if site.kind == "neurons":
            seen[site.layers[0]] = kept
        real(model, site, kept)

    module._cut = watch
    try:
        cut_and_repair(copy.deepcopy(original), batches, 0.6)
    finally:
        module._cut = real
    return [seen[layer] for layer in sorted(seen)]


def test_the_first_sublayer_is_ranked_by_answers_too(bert):
    options = KPruneSettings(representational=0.0)
    survey = _Survey(bert, copy.deepcopy(bert), calibration(), options, 0, head_of(bert))
    scores, _ = survey.look(0)
    assert len(scores) == len(sites(bert))
    assert scores[0].min() > 0
    assert scores[0].max() > 1.1 * scores[0].min()


def test_sublayers_above_the_one_that_is_cut_are_intact(bert, monkeypatch):
    """While a sublayer is scored and repaired, everything above has the original weights."""
    from bertcompress.engines.pruning import kprune as module

    original, looks, real = copy.deepcopy(bert), [], module._Survey.look

    def look(survey, position):
        for goal in survey.goals[position:]:
            now = module._site(survey.model, goal)
            there = next(
                s for s in sites(original) if (s.layers, s.kind) == (goal.layers, goal.kind)
            )
            assert torch.equal(now.projection.weight, there.projection.weight)
        looks.append(position)
        return real(survey, position)

    monkeypatch.setattr(module._Survey, "look", look)
    cut_and_repair(bert, calibration(), 0.5)
    assert looks == list(range(6))


def test_what_stays_is_wherever_it_matters(bert):
    """A layer whose projections are nearly zero loses its units first."""
    layer = anatomy(bert).layers[1]
    with torch.no_grad():
        for part in ("attention_out", "ffn_out"):
            layer.linears[part].weight.mul_(1e-4)
    cut_and_repair(bert, calibration(), 0.6)
    counts = [(layer.heads, layer.width) for layer in anatomy(bert).layers]
    assert counts[1] == (0, 0)
    assert all(heads and width for heads, width in (counts[0], counts[2]))


def test_at_least_stays_in_each_sublayer(bert):
    cut_and_repair(bert, calibration(), 0.2, at_least=1)
    assert all(layer.heads >= 1 and layer.width >= 1 for layer in anatomy(bert).layers)


@pytest.mark.parametrize("labels", [1, 3])
def test_the_seed_decides(labels):
    def cut(seed):
        model = cut_and_repair(tiny_model(num_labels=labels), calibration(), 0.5, seed=seed)
        return answer(model, tiny_inputs())

    assert torch.equal(cut(1), cut(1))
    assert not torch.equal(cut(1), cut(2))


def test_inputs_and_gradients_are_left_alone(bert):
    batches = calibration()
    copies = copy.deepcopy(batches)
    cut_and_repair(bert, batches, 0.5)
    assert all(torch.equal(a[k], b[k]) for a, b in zip(batches, copies, strict=True) for k in a)
    assert all(p.requires_grad and p.grad is None for p in bert.parameters())
