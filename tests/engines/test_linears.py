"""What the linears of the layers meet: against hooks and autograd by hand."""

from __future__ import annotations

import pytest
import torch
from tests_support import random_batches, tiny_model

from bertcompress.engines.lowrank.calibration import linear_statistics
from bertcompress.engines.lowrank.svd import spectrum
from bertcompress.engines.pruning.importance import sampled_loss
from bertcompress.errors import ModelError
from bertcompress.heads import HEADS
from bertcompress.shapes import Sharing, anatomy, apply_edit


def test_what_a_linear_meets_is_measured():
    """Against hooks by hand, padding left out."""
    model = tiny_model().eval()
    data = random_batches(3, 4, 9, padded=3)
    seen = linear_statistics(model, data)
    assert set(seen) == {(part, i) for part in anatomy(model).linear_names for i in range(3)}
    kept = []
    linear = anatomy(model).layers[1].linears["ffn_in"].module
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
    linear = anatomy(model).layers[layer].linears[part].module
    loss, outputs = sampled_loss(HEADS["single_label"], seed), []

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
    model, data = tiny_model().eval(), random_batches(3, 4, 9, padded=3)
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
    data = random_batches(3, 4, 9, padded=3)
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


def test_choices_are_no_classes():
    batch = {"input_ids": torch.randint(5, 25, (3, 2, 9))}
    with pytest.raises(ModelError, match="ForSequenceClassification"):
        linear_statistics(tiny_model(head="ForMultipleChoice"), [batch])


@pytest.mark.parametrize("head", ["ForMaskedLM", "Model"])
def test_a_head_without_known_gradients_is_refused_and_nothing_stays_behind(head):
    model = tiny_model(head=head).train()
    with pytest.raises(ModelError, match="ForSequenceClassification"):
        linear_statistics(model, random_batches(1, 4, 9, padded=3))
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert not anatomy(model).base.get_submodule("embeddings")._forward_hooks


def test_a_batch_without_a_mask_is_all_text():
    model, data = tiny_model(), random_batches(1, 4, 9, padded=3)
    ids = {"input_ids": data[0]["input_ids"]}
    whole = {**ids, "attention_mask": torch.ones_like(ids["input_ids"])}
    one, two = linear_statistics(model, [ids]), linear_statistics(model, [whole])
    torch.testing.assert_close(one["query", 0].inputs, two["query", 0].inputs)


def test_a_shared_linear_is_one():
    model = tiny_model()
    apply_edit(model, Sharing([0, 0, 0], [0, 1, 2]))
    places = set(linear_statistics(model, random_batches(1, 4, 9, padded=3)))
    assert {i for part, i in places if part == "query"} == {0}
    assert {i for part, i in places if part == "ffn_in"} == {0, 1, 2}
