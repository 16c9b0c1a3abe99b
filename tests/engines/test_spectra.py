"""Low rank in a metric: against closed forms and brute force."""

from __future__ import annotations

import pytest
import torch
from tests_support import random_batches, tiny_model

from bertcompress.engines.lowrank.calibration import LinearStatistics, linear_statistics
from bertcompress.engines.lowrank.gated_factors import put_factors
from bertcompress.engines.lowrank.svd import (
    Spectrum,
    balanced,
    choose_ranks,
    components,
    factors,
    spectrum,
)
from bertcompress.shapes import LowRank, anatomy


def uneven(count=400, features=12, seed=0):
    """Inputs that vary much more in some directions. Shape: (count, features)."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(features, features, generator=generator)
    scale = torch.logspace(1, -2, features)
    return torch.randn(count, features, generator=generator) * scale @ mix


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_factors_in_the_metric_of_the_inputs_are_the_best(rank):
    """The least possible error is the tail of the spectrum of W L; random factors are worse."""
    x = uneven()
    weight = torch.randn(10, 12, generator=torch.Generator().manual_seed(1))
    moment = x.T @ x / len(x)
    left, right = factors(weight, rank, inputs=moment)
    error = (x @ (weight - left @ right).T).pow(2).sum() / len(x)
    values, vectors = torch.linalg.eigh(moment.double())
    root = vectors * values.clamp_min(0).sqrt()
    tail = torch.linalg.svdvals(weight.double() @ root)[rank:].pow(2).sum()
    torch.testing.assert_close(error.double(), tail, rtol=1e-3, atol=1e-3)
    plain_left, plain_right = factors(weight, rank)
    plain = (x @ (weight - plain_left @ plain_right).T).pow(2).sum() / len(x)
    assert error < plain
    # The scale is shared.
    torch.testing.assert_close(left.norm(dim=0), right.norm(dim=1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("tokens", [5, 48])
def test_fewer_tokens_than_features_are_kept_by_as_many_ranks(tokens):
    """Inputs of rank `tokens`: as many components give their outputs, whatever fp32 rounded."""
    generator = torch.Generator().manual_seed(7)
    x = torch.nn.functional.gelu(torch.randn(tokens, 256, generator=generator) * 30)
    weight = torch.randn(64, 256, generator=generator)
    moment = x.T @ x / tokens
    left, right = factors(weight, tokens, inputs=moment)
    torch.testing.assert_close(x @ (left @ right).T, x @ weight.T, rtol=1e-2, atol=1.0)
    first, second = components(weight, moment)
    torch.testing.assert_close(first @ second, weight, rtol=1e-3, atol=1e-3)


def test_plain_factors_are_the_svd_and_full_rank_is_exact():
    weight = torch.randn(7, 5, generator=torch.Generator().manual_seed(2))
    left, right = factors(weight, 2)
    tail = torch.linalg.svdvals(weight)[2:].pow(2).sum()
    torch.testing.assert_close((weight - left @ right).pow(2).sum(), tail, rtol=1e-4, atol=1e-5)
    for metric in ({}, {"rows": torch.rand(7) + 0.1}, {"inputs": torch.eye(5) * 3}):
        left, right = factors(weight, 5, **metric)
        torch.testing.assert_close(left @ right, weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 5, 15])
def test_what_is_put_in_a_model_is_off_by_the_tail_of_the_spectrum(rank):
    model = tiny_model()
    weight = anatomy(model).layers[1].linears["ffn_in"].weight.detach().clone()
    put_factors(model, {("ffn_in", 1): factors(weight, rank)})
    thin = anatomy(model).layers[1].linears["ffn_in"].module
    assert isinstance(thin, LowRank)
    tail = torch.linalg.svdvals(weight)[rank:]
    error = (thin.weight - weight).pow(2).sum()
    torch.testing.assert_close(error, tail.pow(2).sum(), atol=1e-5, rtol=1e-4)
    # Equal scale on both sides.
    norms = thin.first.weight.norm(dim=1), thin.second.weight.norm(dim=0)
    torch.testing.assert_close(*norms, atol=1e-5, rtol=1e-4)


def test_rows_that_matter_are_kept_best():
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(3))
    rows = torch.tensor([100.0, 100.0, *[1.0] * 6])
    weighted, plain = (factors(weight, 3, **m) for m in ({"rows": rows}, {}))
    error = [(weight - left @ right)[:2].norm() for left, right in (weighted, plain)]
    assert error[0] < 0.1 * error[1]


def test_balancing_keeps_the_product():
    left, right = torch.randn(6, 3).double() * 1e4, torch.randn(3, 7).double() * 1e-4
    a, b = balanced(left, right, torch.float64)
    torch.testing.assert_close(a @ b, left @ right)
    torch.testing.assert_close(a.norm(dim=0), b.norm(dim=1))


def test_fisher_ranks_go_by_what_rows_matter_and_a_plain_svd_by_the_weights():
    seen = LinearStatistics(torch.eye(6), 2.0, torch.tensor([3.0, 0.0, 1.0, 1.0]))
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(5))
    fisher, plain = spectrum(weight, seen, "fisher"), spectrum(weight, seen, "svd")
    scaled = torch.diag(seen.rows) @ weight
    torch.testing.assert_close(
        fisher.gains.sum() * fisher.weight, scaled.pow(2).sum().double() / 6, rtol=1e-5, atol=1e-7
    )
    torch.testing.assert_close(plain.gains, torch.linalg.svdvals(weight.double()).pow(2))
    assert plain.weight == 1.0


def test_activation_aware_is_better_on_rows_it_has_not_seen_in_every_layer():
    model = tiny_model().eval()
    seen = linear_statistics(model, random_batches(12, 4, 9, padded=3, seed=0))
    unseen = linear_statistics(model, random_batches(12, 4, 9, padded=3, seed=1))
    for place, each in seen.items():
        weight = anatomy(model).layers[place[1]].linears[place[0]].weight.detach()
        held_out = unseen[place].inputs
        errors = []
        for metric in ({"inputs": each.inputs}, {}):
            left, right = factors(weight, 5, **metric)
            change = weight - left @ right
            errors.append(float(torch.trace(change @ held_out @ change.T)))
        assert errors[0] < errors[1], place


def brute(spectra, keep):
    """The best ranks by trying all of them: least weighted loss within the budget."""
    import itertools

    places = list(spectra)
    budget = keep * sum(s.dense for s in spectra.values())
    best, found = None, None
    for ranks in itertools.product(*(range(s.break_even) for s in spectra.values())):
        size = sum(
            r * s.price if r else s.dense for r, s in zip(ranks, spectra.values(), strict=True)
        )
        loss = sum(
            s.weight * float(s.gains[r:].sum()) if r else 0.0
            for r, s in zip(ranks, spectra.values(), strict=True)
        )
        if size <= budget and (best is None or loss < best):
            best, found = loss, dict(zip(places, ranks, strict=True))
    return best, found


@pytest.mark.parametrize("keep", [0.3, 0.5, 0.7])
def test_ranks_are_close_to_the_best_of_all(keep):
    generator = torch.Generator().manual_seed(4)
    spectra = {
        ("query", i): spectrum(torch.randn(8, 8, generator=generator) * (i + 1)) for i in range(3)
    }
    ranks = choose_ranks(spectra, keep * sum(s.dense for s in spectra.values()))
    size = sum(r * spectra[p].price if r else spectra[p].dense for p, r in ranks.items())
    assert size <= keep * sum(s.dense for s in spectra.values())
    assert all(r < spectra[p].break_even for p, r in ranks.items())
    loss = sum(float(spectra[p].gains[r:].sum()) if r else 0.0 for p, r in ranks.items())
    nothing = sum(float(s.gains.sum()) for s in spectra.values())
    best, _ = brute(spectra, keep)
    assert best <= loss < best + 0.15 * nothing


def test_a_matrix_stays_dense_from_its_break_even_rank_on():
    """768 x 768: below 384; 768 x 3072: below 614.4 (METHODS of the field; two factors of r)."""
    for out, features, first in ((768, 768, 384), (3072, 768, 615)):
        flat = Spectrum(torch.ones(768), out + features, out * features)
        assert flat.break_even == first
    spectra = {("query", 0): Spectrum(torch.ones(8), 16, 64)}
    assert choose_ranks(spectra, 64) == {("query", 0): 0}  # dense: no rank saves anything
    with pytest.raises(ValueError, match="rank 1 everywhere"):
        choose_ranks(spectra, 6)
