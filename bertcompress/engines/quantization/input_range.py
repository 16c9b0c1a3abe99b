"""The range of a linear's input, watched while it trains: the largest magnitude that int8 can hold.

A moving average over batches of their largest magnitude (Jacob et al. 2017, 1712.05877, section
3.1; Zafrir et al. 2019, "Q8BERT", 1910.06188, section 3), or of the range that rounds the batch
with the least squared error (as in Banner et al. 2018, 1810.05723, by search instead of a formula):
an encoder's inputs have few values that are many times the others, and a range that holds these
leaves the others few integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["InputRange", "least_error_range"]

_WATCHED = 16_384
"""Values of a batch that are searched."""
_FRACTIONS = 2.0 ** (-torch.arange(16) / 4)
"""Of the largest magnitude, 1 to 0.07."""


@dataclass(frozen=True)
class InputRange:
    """How the range of an input is watched."""

    decay: float = 0.9999
    """Of the moving average, 0 to 1."""
    warm_up: bool = False
    """Let the decay grow from 0.1 as (1 + n) / (10 + n), so that early batches are forgotten: with
    0.9999 the first batch is most of the average for thousands of steps."""
    least_error: bool = False
    """Watch the range of the least squared error; False: the largest magnitude."""

    def moved(self, before: Tensor, batches: Tensor, features: Tensor, most: int) -> Tensor:
        """Return the range after a batch; the first one is taken as it is.

        Shape: before () and batches (), 0 where nothing was seen, features (..., in) -> ().
        """
        now = (
            least_error_range(features, most) if self.least_error else features.abs().amax().float()
        )
        decay: Any = self.decay
        if self.warm_up:
            decay = torch.clamp_max((1 + batches) / (10 + batches), self.decay)
        return torch.where(before > 0, before * decay + now * (1 - decay), now)


def least_error_range(features: Tensor, most: int) -> Tensor:
    """Return the range whose `most` integers on each side round with the least squared error.

    Of some 16,000 values, those of tokens drawn alike each time. Shape: (..., in) -> ().
    """
    rows = features.reshape(-1, features.shape[-1])
    wanted = max(1, _WATCHED // rows.shape[1])
    if wanted < len(rows):
        drawn = torch.randint(len(rows), (wanted,), generator=torch.Generator().manual_seed(0))
        rows = rows[drawn.to(rows.device)]
    values = rows.flatten().float()
    ranges = values.abs().amax() * _FRACTIONS.to(values.device)
    scales = torch.clamp_min(ranges / most, torch.finfo(torch.float32).tiny)[:, None]
    whole = torch.round(values / scales).clamp_(-most, most)
    return ranges[(whole * scales - values).square_().sum(1).argmin()]
