"""Low rank in a metric: against closed forms and brute force."""

from __future__ import annotations

import pytest
import torch
from tests_support import tiny_model

from bertcompress.engines.importance import sampled_loss
from bertcompress.engines.spectra import (
    LinearStatistics,
    Spectrum,
    balanced,
    choose_ranks,
    components,
    factors,
    linear_statistics,
    spectrum,
)
from bertcompress.errors import ModelError
from bertcompress.shapes import LINEARS, Sharing, anatomy, apply_edit


def uneven(count=400, features=12, seed=0):
    """Inputs that vary much more in some directions. Shape: (count, features)."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(features, features, generator=generator)
    scale = torch.logspace(1, -2, features)
    return torch.randn(count, features, generator=generator) * scale @ mix


def batches(count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        ids = torch.randint(5, 25, (4, 9), generator=generator)
        mask = torch.ones_like(ids)
        mask[1, 6:] = 0
        made.append({"input_ids": ids, "attention_mask": mask})
    return made


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


def test_what_a_linear_meets_is_measured():
    """Against hooks by hand, padding left out."""
    model = tiny_model().eval()
    data = batches()
    seen = linear_statistics(model, data)
    assert set(seen) == {(part, i) for part in LINEARS for i in range(3)}
    kept = []
    linear = anatomy(model).layers[1].get("ffn_in")
    handle = linear.register_forward_hook(lambda _, args, __: kept.append(args[0].detach()))
    with torch.no_grad():
        for batch in data:
            model(**batch)
    handle.remove()
    rows = torch.cat([x[b["attention_mask"].bool()] for x, b in zip(kept, data, strict=True)])
    torch.testing.assert_close(seen["ffn_in", 1].inputs, rows.T @ rows / len(rows))
    assert all(p.grad is None for p in model.parameters())
    assert not anatomy(model).base.get_submodule("embeddings")._forward_hooks


def by_autograd(model, data, place, seed=0):
    """Slope and row information of one linear, from the gradient of its weight by each token.

    Every text alone and every token alone: the linear's output is made a leaf.
    """
    part, layer = place
    linear = anatomy(model).layers[layer].get(part)
    loss, outputs = sampled_loss("single_label", seed), []

    def leaf(_, args, output):
        made = output.detach().requires_grad_()
        outputs.append((args[0].detach(), made))
        return made

    slope, rows, tokens = 0.0, torch.zeros(linear.out_features), 0
    handle = linear.register_forward_hook(leaf)
    for batch in data:
        loss(batch, model(**batch).logits).sum().backward()
        x, y = outputs.pop()
        for b, t in batch["attention_mask"].nonzero().tolist():
            gradient = torch.outer(y.grad[b, t], x[b, t])  # of the weight, of this token
            rows += gradient.pow(2).sum(1)
            slope += float(y.grad[b, t].pow(2).mean())
            tokens += 1
    handle.remove()
    return slope / tokens, rows.sqrt()


@pytest.mark.parametrize("place", [("query", 0), ("ffn_in", 1), ("ffn_out", 2)])
def test_gradients_are_those_of_autograd(place):
    model, data = tiny_model().eval(), batches()
    slope, rows = by_autograd(model, data, place)
    model.zero_grad()
    seen = linear_statistics(model, data)[place]
    assert seen.slope == pytest.approx(slope, rel=1e-4)
    torch.testing.assert_close(seen.rows, rows, rtol=1e-4, atol=1e-9)
    assert seen.times == 1


def test_a_shared_linear_costs_what_its_copies_cost():
    """Two models that compute the same: layers that are one, and equal layers."""
    shared = tiny_model().eval()
    apply_edit(shared, Sharing([0, 0, 0], [0, 1, 2]))
    apart = tiny_model().eval()
    first = anatomy(apart).layers[0].module.attention.state_dict()
    for layer in anatomy(apart).layers:
        layer.module.attention.load_state_dict(first)
    data = batches()
    one, each = linear_statistics(shared, data), linear_statistics(apart, data)
    for part in ("query", "attention_out"):
        whole = one[part, 0]
        assert whole.times == 3
        copies = [each[part, i] for i in range(3)]
        torch.testing.assert_close(whole.inputs, sum(c.inputs for c in copies) / 3)
        assert whole.slope == pytest.approx(sum(c.slope for c in copies) / 3, rel=1e-4)
        weight = spectrum(torch.eye(16), whole).weight
        assert weight == pytest.approx(sum(c.slope for c in copies), rel=1e-4)
    assert one["ffn_in", 1].times == 1


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


def test_choices_are_no_classes():
    batch = {"input_ids": torch.randint(5, 25, (3, 2, 9))}
    with pytest.raises(ModelError, match="ForSequenceClassification"):
        linear_statistics(tiny_model(head="ForMultipleChoice"), [batch])


@pytest.mark.parametrize("head", ["ForQuestionAnswering", "ForTokenClassification", "Model"])
def test_a_head_without_known_gradients_is_refused_and_nothing_stays_behind(head):
    model = tiny_model(head=head).train()
    with pytest.raises(ModelError, match="ForSequenceClassification"):
        linear_statistics(model, batches(1))
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert not anatomy(model).base.get_submodule("embeddings")._forward_hooks


def test_a_batch_without_a_mask_is_all_text():
    model, data = tiny_model(), batches(1)
    ids = {"input_ids": data[0]["input_ids"]}
    whole = {**ids, "attention_mask": torch.ones_like(ids["input_ids"])}
    one, two = linear_statistics(model, [ids]), linear_statistics(model, [whole])
    torch.testing.assert_close(one["query", 0].inputs, two["query", 0].inputs)


def test_a_shared_linear_is_one():
    model = tiny_model()
    apply_edit(model, Sharing([0, 0, 0], [0, 1, 2]))
    places = set(linear_statistics(model, batches(1)))
    assert {i for part, i in places if part == "query"} == {0}
    assert {i for part, i in places if part == "ffn_in"} == {0, 1, 2}


def test_activation_aware_is_better_on_rows_it_has_not_seen_in_every_layer():
    model = tiny_model().eval()
    seen = linear_statistics(model, batches(12, seed=0))
    unseen = linear_statistics(model, batches(12, seed=1))
    for place, each in seen.items():
        weight = anatomy(model).layers[place[1]].get(place[0]).weight.detach()
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
