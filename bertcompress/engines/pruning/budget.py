"""Choosing units under a budget."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["best_units", "fill_budget"]


def best_units(scores: Tensor, count: int) -> list[int]:
    """Return the `count` units with the highest scores, in rising order. Shape: scores (units,)."""
    return sorted(scores.topk(min(count, scores.numel())).indices.tolist())


def fill_budget(
    scores: Sequence[Tensor], costs: Sequence[float], budget: float, at_least: Sequence[int]
) -> list[list[int]]:
    """Return, for each sublayer, the units kept when the best per cost fill the budget.

    `costs` is the cost of one unit of each sublayer, `at_least` how many units must stay in each.
    The budget is never exceeded unless the units that must stay already do. Units are taken in
    falling order of score / cost; one that no longer fits is passed over, so that cheap units fill
    the rest.
    """
    kept: list[list[int]] = [
        best_units(row, least) for row, least in zip(scores, at_least, strict=True)
    ]
    left = budget - sum(cost * len(row) for cost, row in zip(costs, kept, strict=True))
    rate = torch.cat([row.double().cpu() / cost for row, cost in zip(scores, costs, strict=True)])
    where = [(i, unit) for i, row in enumerate(scores) for unit in range(row.numel())]
    held = [set(row) for row in kept]
    for position in rate.argsort(descending=True, stable=True).tolist():
        site, unit = where[position]
        if unit not in held[site] and costs[site] <= left + 1e-6:
            held[site].add(unit)
            left -= costs[site]
    return [sorted(row) for row in held]
