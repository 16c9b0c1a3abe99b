"""How many weights are zero at each step, and which: a schedule, scores, and an exact choice.

The schedule is that of Zhu & Gupta 2017, "To prune, or not to prune" (1710.01878), equation 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bertcompress.errors import InputError

__all__ = ["Ramp", "Scope", "Scores", "lowest", "magnitude", "zeros_by_score"]

Scope = Literal["matrix", "model"]
"""Among which weights the lowest are chosen: those of each matrix, or all."""

Scores = Callable[[str, Tensor], Tensor]
"""What each weight of a matrix is worth, by its name and its values. Shape: as the matrix."""


@dataclass(frozen=True)
class Ramp:
    """Over which steps the share of zeros rises from 0 to `final`, and at which it changes."""

    final: float
    begin: int
    end: int
    every: int

    def __post_init__(self) -> None:
        if not (0 <= self.final < 1 and 0 <= self.begin < self.end and self.every >= 1):
            raise InputError(
                f"sparsity {self.final:g} from step {self.begin} to {self.end}, every {self.every} "
                "steps; allowed: 0 <= sparsity < 1, 0 <= begin < end, 1 <= every"
            )

    def sparsity_at(self, step: int) -> float:
        """Return the share of zeros after a step: s (1 - (1 - share of the ramp behind)^3)."""
        behind = min(max((step - self.begin) / (self.end - self.begin), 0.0), 1.0)
        return self.final * (1 - (1 - behind) ** 3)

    def changes_at(self, step: int) -> bool:
        """Return whether zeros are chosen anew after a step: every so many, and at the end."""
        within = self.begin <= step <= self.end
        return within and ((step - self.begin) % self.every == 0 or step == self.end)


def magnitude(name: str, weight: Tensor) -> Tensor:
    """Return the absolute values: what is near zero is worth least. Shape: as the matrix."""
    return weight.abs()


def lowest(scores: Tensor, count: int) -> Tensor:
    """Return which scores are the `count` lowest; of equal ones the first. Shape: (N,) -> bool."""
    if count <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    last = scores.kthvalue(count).values
    below = scores < last
    equal = (scores == last).nonzero().flatten()
    below[equal[: count - int(below.sum())]] = True
    return below


def zeros_by_score(
    scores: Mapping[str, Tensor], sparsity: float, scope: Scope = "matrix"
) -> dict[str, Tensor]:
    """Return which weights are to be zero: the share `sparsity` with the lowest scores, exactly.

    The number is rounded once for each matrix, or once for all of them.
    """
    if scope == "matrix":
        return {
            name: lowest(each.flatten(), round(sparsity * each.numel())).reshape(each.shape)
            for name, each in scores.items()
        }
    every = torch.cat([each.flatten() for each in scores.values()])
    chosen = lowest(every, round(sparsity * len(every)))
    parts = torch.split(chosen, [each.numel() for each in scores.values()])
    return {
        name: part.reshape(each.shape)
        for (name, each), part in zip(scores.items(), parts, strict=True)
    }
