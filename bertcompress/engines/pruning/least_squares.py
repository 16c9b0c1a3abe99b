"""Least squares: new output weights for the units that stay, towards what the stream should be."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from bertcompress.shapes import LowRank

__all__ = ["Moments", "solve_projection"]


@dataclass
class Moments:
    """Sums over tokens that a linear least-squares problem needs, gathered batch by batch.

    Shape: gram (K + 1, K + 1) and cross (K + 1, H), with a column of ones for the bias last.
    """

    gram: Tensor
    cross: Tensor

    @classmethod
    def empty(
        cls,
        features: int,
        outputs: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> Moments:
        """Return the moments of no tokens."""
        gram = torch.zeros(features + 1, features + 1, device=device, dtype=dtype)
        return cls(gram, torch.zeros(features + 1, outputs, device=device, dtype=dtype))

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Add tokens. Shape: features (N, K), targets (N, H)."""
        ones = features.new_ones(features.shape[0], 1)
        wide = torch.cat([features, ones], dim=1)
        self.gram += wide.T @ wide
        self.cross += wide.T @ targets

    def keep(self, index: Tensor) -> Moments:
        """Return the moments of only these features. Shape: index (k,)."""
        rows = torch.cat([index, index.new_tensor([self.gram.shape[0] - 1])])
        return Moments(self.gram[rows][:, rows], self.cross[rows])

    def through(self, first: Tensor) -> Moments:
        """Return the moments of the features behind a linear without bias. Shape: first (r, K)."""
        wide = functional.pad(first, (0, 1, 0, 1))
        wide[-1, -1] = 1.0
        return Moments(wide @ self.gram @ wide.T, wide @ self.cross)


@torch.no_grad()
def solve_projection(
    projection: nn.Linear | LowRank, moments: Moments, *, ridge: float = 1e-3
) -> None:
    """Set weight and bias of a projection, in place, to the least-squares solution.

    Of two thin linears the first stays, and the second is solved behind it.

    Minimises |X W' + b - Y|^2 + lambda |W - W_now|^2 with lambda = `ridge` times the mean feature
    variance: with few tokens the solution stays near the present weights. Solved in float64.
    """
    if isinstance(projection, LowRank):
        moments, projection = moments.through(projection.first.weight), projection.second
    gram, cross = moments.gram.double(), moments.cross.double()
    tokens = gram[-1, -1].clamp_min(1.0)
    mean_x, mean_y = gram[-1, :-1] / tokens, cross[-1] / tokens
    inner = gram[:-1, :-1] - tokens * torch.outer(mean_x, mean_x)
    right = cross[:-1] - tokens * torch.outer(mean_x, mean_y)
    damping = ridge * inner.diagonal().mean().clamp_min(1e-12)
    now = projection.weight.T.double()
    system = inner + damping * torch.eye(inner.shape[0], dtype=inner.dtype, device=inner.device)
    weight = torch.linalg.solve(system, right + damping * now)
    projection.weight.copy_(weight.T)
    projection.bias.copy_(mean_y - mean_x @ weight)
