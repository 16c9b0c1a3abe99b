"""Means of layers: the order of units does not count."""

from __future__ import annotations

import pytest
import torch
from tests_support import tiny_inputs, tiny_model

from bertcompress.engines.weight_matching import aligned, mean_weights, put_weights, take_weights
from bertcompress.shapes import anatomy

HALVES = ("attention", "ffn")


def answer(model):
    with torch.no_grad():
        return model(**tiny_inputs()).logits


def shuffled(weights, size, seed=0):
    """The same layer with its heads and neurons in another order."""
    out = {part: dict(values) for part, values in weights.items()}
    generator = torch.Generator().manual_seed(seed)
    for into, back, width in (
        (("query", "key", "value"), "attention_out", size),
        (("ffn_in",), "ffn_out", 1),
    ):
        units = weights[back]["weight"].shape[1] // width
        order = torch.randperm(units, generator=generator)
        index = (order[:, None] * width + torch.arange(width)).reshape(-1)
        for part in into:
            out[part] = {name: value[index] for name, value in out[part].items()}
        out[back]["weight"] = out[back]["weight"][:, index]
    return out


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_the_order_of_units_is_found_again(family):
    model = tiny_model(family)
    units, size = anatomy(model).family.units, anatomy(model).head_size
    before = answer(model)
    weights = take_weights(model, 1, HALVES)
    other = shuffled(weights, size)
    put_weights(model, 1, other)
    torch.testing.assert_close(answer(model), before)  # the same layer
    assert not torch.equal(other["ffn_in"]["weight"], weights["ffn_in"]["weight"])
    back = aligned(other, weights, units, size)
    for part, values in weights.items():
        for name, value in values.items():
            torch.testing.assert_close(back[part][name], value)


def test_alignment_keeps_the_function_and_brings_a_noisy_copy_closer():
    model = tiny_model()
    units, size = anatomy(model).family.units, anatomy(model).head_size
    first = take_weights(model, 0, HALVES)
    noisy = {
        p: {n: v + 0.02 * torch.randn_like(v) for n, v in vs.items()} for p, vs in first.items()
    }
    other = shuffled(noisy, size, 3)
    put_weights(model, 1, other)
    before = answer(model)
    put_weights(model, 1, aligned(other, first, units, size))
    torch.testing.assert_close(answer(model), before)
    plain = mean_weights([first, other])["ffn_in"]["weight"]
    matched = mean_weights([first, aligned(other, first, units, size)])["ffn_in"]["weight"]
    target = first["ffn_in"]["weight"]
    assert (matched - target).norm() < 0.2 * (plain - target).norm()


def test_the_mean_by_hand():
    model = tiny_model()
    each = [take_weights(model, layer, ("ffn",)) for layer in (0, 1, 2)]
    assert set(each[0]) == {"ffn_in", "ffn_out", "ffn_norm"}
    made = mean_weights(each)
    biases = [anatomy(model).layers[i].linears["ffn_in"].bias for i in range(3)]
    torch.testing.assert_close(made["ffn_in"]["bias"], (biases[0] + biases[1] + biases[2]) / 3)
