"""Choosing units: against brute force."""

from __future__ import annotations

import itertools

import pytest
import torch

from bertcompress.engines.pruning.budget import best_units, fill_budget


def test_best_units_are_the_highest_in_rising_order():
    scores = torch.tensor([0.1, 0.9, 0.5, 0.7])
    assert best_units(scores, 2) == [1, 3]
    assert best_units(scores, 0) == []
    assert best_units(scores, 9) == [0, 1, 2, 3]


def value(scores, kept):
    return sum(float(row[units].sum()) for row, units in zip(scores, kept, strict=True))


def spent(costs, kept):
    return sum(cost * len(units) for cost, units in zip(costs, kept, strict=True))


def best_value(scores, costs, budget):
    """The knapsack by trying every subset."""
    units = [(float(s), c) for row, c in zip(scores, costs, strict=True) for s in row]
    subsets = itertools.product((0, 1), repeat=len(units))
    fits = [
        pick
        for pick in subsets
        if sum(p * c for p, (_, c) in zip(pick, units, strict=True)) <= budget + 1e-6
    ]
    return max(sum(p * s for p, (s, _) in zip(pick, units, strict=True)) for pick in fits)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.1, 0.35, 0.5, 0.8, 1.0])
def test_equal_costs_are_filled_as_brute_force_does(seed, share):
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.rand(n, generator=generator) for n in (3, 4, 3)]
    costs = [2.0, 2.0, 2.0]
    budget = share * 20
    kept = fill_budget(scores, costs, budget, [0, 0, 0])
    assert spent(costs, kept) <= budget
    assert spent(costs, kept) > budget - 2.0
    assert value(scores, kept) == pytest.approx(best_value(scores, costs, budget))


@pytest.mark.parametrize("seed", range(8))
def test_unequal_costs_lose_at_most_one_unit_to_brute_force(seed):
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.rand(n, generator=generator) for n in (3, 5, 3)]
    costs, budget = [5.0, 1.0, 3.0], 14.0
    kept = fill_budget(scores, costs, budget, [0, 0, 0])
    assert spent(costs, kept) <= budget
    best = best_value(scores, costs, budget)
    # The classical bound of the greedy knapsack.
    assert best - max(float(row.max()) for row in scores) <= value(scores, kept) <= best + 1e-6


def test_a_budget_that_fits_exactly_is_used_up():
    scores = [torch.tensor([3.0, 2.0]), torch.tensor([1.0, 0.5, 0.4])]
    assert fill_budget(scores, [0.3, 0.1], 0.7, [0, 0]) == [[0, 1], [0]]
    assert fill_budget(scores, [0.3, 0.1], 0.9, [0, 0]) == [[0, 1], [0, 1, 2]]
    assert fill_budget(scores, [0.3, 0.1], 0.0, [0, 0]) == [[], []]


def test_a_unit_that_does_not_fit_is_passed_over():
    scores = [torch.tensor([9.0]), torch.tensor([0.1, 0.2])]
    assert fill_budget(scores, [5.0, 1.0], 2.0, [0, 0]) == [[], [0, 1]]


def test_what_must_stay_stays_whatever_it_costs():
    scores = [torch.tensor([0.0, 0.1]), torch.tensor([5.0, 6.0])]
    assert fill_budget(scores, [4.0, 1.0], 0.0, [1, 1]) == [[1], [1]]
    assert fill_budget(scores, [4.0, 1.0], 6.0, [1, 0]) == [[1], [0, 1]]
