"""Least squares for output projections: against numpy, on batches, with and without ridge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bertcompress.engines.pruning.least_squares import Moments, solve_projection

TOKENS, FEATURES, OUTPUTS = 200, 7, 5


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(TOKENS, FEATURES, generator=generator) + 2.0
    y = torch.randn(TOKENS, OUTPUTS, generator=generator) - 1.0
    return x, y


def moments_of(x, y, batches=4):
    moments = Moments.empty(x.shape[1], y.shape[1], torch.device("cpu"))
    for part_x, part_y in zip(x.chunk(batches), y.chunk(batches), strict=True):
        moments.add(part_x, part_y)
    return moments


def least_squares(x, y):
    wide = np.concatenate([x.double().numpy(), np.ones((len(x), 1))], axis=1)
    return np.linalg.lstsq(wide, y.double().numpy(), rcond=None)[0]


def test_without_ridge_it_is_lstsq(problem):
    x, y = problem
    linear = nn.Linear(FEATURES, OUTPUTS)
    solve_projection(linear, moments_of(x, y), ridge=0.0)
    expected = least_squares(x, y)
    np.testing.assert_allclose(linear.weight.detach().numpy().T, expected[:-1], atol=1e-4)
    np.testing.assert_allclose(linear.bias.detach().numpy(), expected[-1], atol=1e-4)


def test_with_ridge_it_minimises_what_it_says(problem):
    x, y = problem
    linear = nn.Linear(FEATURES, OUTPUTS)
    now = linear.weight.detach().clone()
    moments, ridge = moments_of(x, y), 0.5
    solve_projection(linear, moments, ridge=ridge)
    centred = x - x.mean(0)
    damping = ridge * float((centred**2).sum(0).mean())

    def loss(weight, bias):
        return ((x @ weight.T + bias - y) ** 2).sum() + damping * ((weight - now) ** 2).sum()

    with torch.no_grad():
        least = loss(linear.weight, linear.bias)
        for seed in range(20):
            generator = torch.Generator().manual_seed(seed)
            step = 0.01 * torch.randn(OUTPUTS, FEATURES, generator=generator)
            shift = 0.01 * torch.randn(OUTPUTS, generator=generator)
            assert loss(linear.weight + step, linear.bias + shift) > least


def test_a_huge_ridge_keeps_the_weights(problem):
    x, y = problem
    linear = nn.Linear(FEATURES, OUTPUTS)
    now = linear.weight.detach().clone()
    solve_projection(linear, moments_of(x, y), ridge=1e9)
    torch.testing.assert_close(linear.weight.detach(), now, atol=1e-5, rtol=0)
    # The bias is free: it still makes the mean right.
    torch.testing.assert_close((x @ linear.weight.T + linear.bias).mean(0), y.mean(0))


def test_fewer_tokens_than_features_still_has_an_answer():
    linear = nn.Linear(64, OUTPUTS)
    x, y = torch.randn(10, 64), torch.randn(10, OUTPUTS)
    before = ((linear(x) - y) ** 2).sum()
    solve_projection(linear, moments_of(x, y))
    assert ((linear(x) - y) ** 2).sum() < before
    assert torch.isfinite(linear.weight).all()


def test_moments_of_some_features_are_those_features_moments(problem):
    x, y = problem
    index = torch.tensor([1, 4, 5])
    some, direct = moments_of(x, y).keep(index), moments_of(x[:, index], y)
    torch.testing.assert_close(some.gram, direct.gram)
    torch.testing.assert_close(some.cross, direct.cross)
