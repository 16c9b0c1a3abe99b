"""Hessian products against finite differences, eigenvalues against dense ones, layers in order."""

from __future__ import annotations

import copy

import pytest
import torch
from tests_support import tiny_model
from torch.nn import functional

from bertcompress.engines.quantization.hessian import (
    hessian_product,
    layer_sharpness,
    top_eigenvalue,
    twice_differentiable,
)
from bertcompress.errors import DataError
from bertcompress.shapes import anatomy


def batch_of(rows=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 25, (rows, 8), generator=generator)
    labels = torch.randint(0, 3, (rows,), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def loss_of(model, batch):
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return functional.cross_entropy(logits, batch["labels"])


def test_products_are_finite_differences_of_the_gradient():
    model, batch = tiny_model().double().eval(), batch_of()
    weight = anatomy(model).layers[1].linears["ffn_in"].weight
    vector = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)).double()
    with twice_differentiable():
        (exact,) = hessian_product(loss_of(model, batch), [weight], [vector])
    gradients = []
    for sign in (1, -1):
        moved = copy.deepcopy(model)
        other = anatomy(moved).layers[1].linears["ffn_in"].weight
        other.data += sign * 1e-4 * vector
        gradients.append(torch.autograd.grad(loss_of(moved, batch), other)[0])
    numeric = (gradients[0] - gradients[1]) / 2e-4
    torch.testing.assert_close(exact, numeric, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_top_eigenvalue_is_that_of_a_dense_matrix(sign):
    generator = torch.Generator().manual_seed(2)
    basis = torch.linalg.qr(torch.randn(12, 12, generator=generator))[0]
    values = torch.tensor([9.0 * sign, *torch.linspace(-2, 2, 11).tolist()])
    matrix = basis @ torch.diag(values) @ basis.T
    found = top_eigenvalue(lambda v: [matrix @ v[0]], [torch.zeros(12)])
    assert found == pytest.approx(9.0 * sign, rel=0.03)


def test_a_layer_made_sharp_comes_first_and_the_model_stays():
    model = tiny_model()
    batches = [batch_of(seed=seed) for seed in range(3)]
    before = {name: p.clone() for name, p in model.named_parameters()}
    plain = layer_sharpness(model, batches)
    assert len(plain) == 3
    assert all(value > 0 for value in plain)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
    # The same function, but the weight behind the values now acts on ten times larger inputs: its
    # second derivatives are a hundred times larger.
    with torch.no_grad():
        part = anatomy(model).layers[2]
        part.linears["value"].weight.mul_(10)
        part.linears["value"].bias.mul_(10)
        part.linears["attention_out"].weight.div_(10)
    sharp = layer_sharpness(model, batches)
    assert sharp.index(max(sharp)) == 2
    assert plain.index(max(plain)) != 2
    assert sharp[0] == pytest.approx(plain[0], rel=0.1)


def test_without_rows_there_is_no_curvature():
    with pytest.raises(DataError, match="no batches"):
        layer_sharpness(tiny_model(), [])
