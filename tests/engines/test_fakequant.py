"""Training through rounding: scales, the moving average by hand, and gradients that pass."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tests_support import tiny_inputs, tiny_model
from torch import nn

from bertcompress.engines.quantization.fake_quantize import (
    FakeEmbedding,
    FakeLinear,
    quantizable,
    rounded,
    rounded_weight,
    with_rounding,
)
from bertcompress.engines.quantization.input_range import InputRange, least_error_range
from bertcompress.shapes.weight_format import dequantize, quantize
from bertcompress.training.preparing import recompute_activations


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("group", [0, -1, 4, 5])
def test_training_rounds_as_storing_does(bits, group):
    weight = torch.randn(6, 12, generator=torch.Generator().manual_seed(group + 2))
    whole, scale = quantize(weight, bits, group)
    expected = dequantize(whole, scale, group)
    torch.testing.assert_close(rounded_weight(weight, bits, group), expected)


def test_the_gradient_is_that_of_the_identity_where_it_clips_too():
    values = torch.tensor([-9.0, -0.3, 0.26, 9.0], requires_grad=True)
    done = rounded(values, torch.tensor(0.5), 3)
    assert done.tolist() == [-1.5, -0.5, 0.5, 1.5]
    done.backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert values.grad.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rounding_is_that_of_torch_to_the_bit(bits):
    generator = torch.Generator().manual_seed(bits)
    most = 2 ** (bits - 1) - 1
    values = torch.randn(64, 33, generator=generator)
    values[0] = torch.arange(33) / 2 - 8  # ties, and beyond the range, with a scale of 1
    values[1] = 0
    scale = values.abs().amax(1) / most / 2
    scale[:2] = torch.tensor([1.0, torch.finfo(torch.float32).tiny])
    zero = torch.zeros(64, dtype=torch.int32)
    each = torch.fake_quantize_per_channel_affine(values, scale, zero, 0, -most, most)
    assert torch.equal(rounded(values, scale, most), each)
    for one in scale:
        whole = torch.fake_quantize_per_tensor_affine(values, one, zero[0], -most, most)
        assert torch.equal(rounded(values, one, most), whole)


def test_the_moving_average_by_hand():
    linear = FakeLinear(nn.Linear(2, 2), 8, 0, InputRange(0.9)).train()
    expected = None
    for most in (4.0, 2.0, 8.0):
        linear(torch.tensor([[most, -1.0]]))
        expected = most if expected is None else 0.9 * expected + 0.1 * most
    assert float(linear.input_most) == pytest.approx(expected)
    assert float(linear.input_scale) == pytest.approx(expected / 127)
    linear.eval()(torch.tensor([[100.0, 0.0]]))
    assert float(linear.input_most) == pytest.approx(expected)


def test_with_a_warm_up_the_first_batch_is_forgotten():
    """The recursion by hand, up to the published decay; then the two go on alike."""
    warm = FakeLinear(nn.Linear(2, 2), 8, 0, InputRange(0.8, warm_up=True)).train()
    cold = FakeLinear(nn.Linear(2, 2), 8, 0, InputRange()).train()
    expected = None
    for n in range(60):
        most = 100.0 if n == 0 else 2.0 + n % 3
        for linear in (warm, cold):
            linear(torch.tensor([[most, -1.0]]))
        decay = min(0.8, (1 + n) / (10 + n))
        expected = most if expected is None else decay * expected + (1 - decay) * most
        assert float(warm.input_most) == pytest.approx(expected, rel=1e-5)
    assert float(warm.input_most) < 4.0
    assert float(cold.input_most) > 99.0


@pytest.mark.parametrize("most", [7, 127])
def test_the_range_of_the_least_error_is_that_of_a_search_over_every_value(most):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(8, 24, 16, generator=generator)
    features[0, 0, :4] *= 4.0
    found = float(least_error_range(features, most))
    values = features.flatten().numpy().astype(np.float64)
    largest = float(np.abs(values).max())

    def error(top):
        scale = top / most
        return np.square(np.clip(np.round(values / scale), -most, most) * scale - values).sum()

    best = min((largest * 2 ** (-i / 4) for i in range(16)), key=error)
    assert found == pytest.approx(best)
    assert most == 127 or error(found) < 0.5 * error(largest)
    assert float(least_error_range(features * 0, most)) == 0.0


def test_either_range_may_be_watched():
    features = 2 * torch.rand(1024, 32, generator=torch.Generator().manual_seed(1)) - 1
    features[0, 0] = 1.15
    watched = []
    for least_error in (False, True):
        fake = FakeLinear(nn.Linear(32, 32), 8, -1, InputRange(least_error=least_error)).train()
        fake(features)
        watched.append(float(fake.input_most))
    assert watched[0] == float(features.abs().max())
    assert watched[1] == float(least_error_range(features, 127)) < watched[0]


def test_a_recomputed_pass_is_not_seen_twice():
    seen = []
    for recompute in (False, True):
        model = tiny_model()
        with_rounding(model, dict.fromkeys(quantizable(model), 8), inputs=InputRange(0.5))
        if recompute:
            recompute_activations(model, True)
        model.train()
        for layer in model.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        for scale in (1.0, 3.0):
            batch = tiny_inputs()
            model.get_input_embeddings().weight.data *= scale
            model(**batch).logits.sum().backward()
        seen.append([float(m.input_most) for m in model.modules() if isinstance(m, FakeLinear)])
    assert seen[0] == pytest.approx(seen[1], rel=1e-6)


def test_only_rows_looked_up_are_rounded_and_the_scale_is_the_tables():
    table = nn.Embedding(10, 4)
    fake = FakeEmbedding(table, 8, 0)
    ids = torch.tensor([[1, 7]])
    expected = dequantize(*quantize(table.weight, 8))[ids]
    torch.testing.assert_close(fake(ids), expected)
    fake(ids).sum().backward()
    assert table.weight.grad[[1, 7]].tolist() == [[1.0] * 4] * 2
    assert float(table.weight.grad.sum()) == 8


def test_every_linear_and_table_rounds_and_parameters_stay():
    model = tiny_model()
    before = {id(p) for p in model.parameters()}
    found = quantizable(model)
    assert {"classifier", "bert.pooler.dense", "bert.embeddings.position_embeddings"} <= set(found)
    with_rounding(model, dict.fromkeys(found, 8))
    assert {id(p) for p in model.parameters()} == before
    assert not [m for m in model.modules() if type(m) in (nn.Linear, nn.Embedding)]


def test_rounding_changes_little_in_8_bits_and_much_in_2():
    model = tiny_model().eval()
    with torch.no_grad():
        dense = model(**tiny_inputs()).logits
        gaps = []
        for bits in (8, 2):
            fake = copy.deepcopy(model)
            with_rounding(fake, dict.fromkeys(quantizable(fake), bits))
            fake.train()(**tiny_inputs())
            gaps.append(float((fake.eval()(**tiny_inputs()).logits - dense).abs().mean()))
    assert gaps[0] < 0.1 * gaps[1]
    assert gaps[0] > 0
