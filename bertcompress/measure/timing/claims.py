"""When a ratio of two measured times may be stated: never where their spread is larger.

Everything that says "times faster" (the verdict, tables, notes, the card, `bench`) asks here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Claim", "Timed", "ratio_claim", "speed_claim"]

MOST = 0.5
"""Share of disturbed rounds above which nothing is claimed: a median is then of disturbed ones."""


class Timed(Protocol):
    """What a speed-up is computed of: a `Latency`, or anything with the same two figures."""

    @property
    def throughput_per_s(self) -> float:
        """Texts per second."""
        ...

    @property
    def spread(self) -> float:
        """Spread of the rounds, relative to their median."""
        ...

    @property
    def disturbed(self) -> float | None:
        """Share of the rounds in which something else ran; None: not watched."""
        ...


@dataclass(frozen=True)
class Claim:
    """A speed-up and whether what was measured carries it."""

    ratio: float
    """Times faster; below 1 it is slower."""
    spread: float
    """Spread of the ratio, relative to it: of both sides together."""
    disturbed: bool = False
    """Whether most rounds of a side were disturbed: its spread then says nothing."""

    @property
    def stands(self) -> bool:
        """Whether the ratio differs from 1 by more than its spread, on a machine that was quiet."""
        return not self.disturbed and self.ratio * self.spread < abs(self.ratio - 1)

    @property
    def faster(self) -> bool:
        """Whether it is shown to be faster."""
        return self.stands and self.ratio > 1

    @property
    def words(self) -> str:
        """The speed-up, for example `2.31x`, or that there is none to be stated."""
        if self.disturbed:
            return "not measurable here (the machine was busy)"
        if self.stands or not self.spread:
            return f"{self.ratio:.2f}x"
        return f"not measurable here (spread {100 * self.spread:.0f} %)"

    @property
    def exact_words(self) -> str:
        """The same with the spread of what stands: `2.31x ± 4 %`."""
        more = f" ± {100 * self.spread:.0f} %" if self.stands and self.spread else ""
        return f"{self.words}{more}"


def ratio_claim(ratio: float, *spreads: float, disturbed: float | None = None) -> Claim:
    """Return the claim of a ratio whose sides were measured with these relative spreads.

    The sides' noise is independent: their spreads add up as the sides of a right angle do.
    `disturbed`: share of the rounds, 0 to 1, in which something else ran; None: not watched.
    """
    return Claim(ratio, math.hypot(*spreads), (disturbed or 0.0) > MOST)


def speed_claim(before: Timed, after: Timed) -> Claim:
    """Return the claim that `after` is faster than `before`, both of one interleaved run."""
    if after is before:  # 1 by definition, without noise
        return Claim(1.0, 0.0)
    ratio = after.throughput_per_s / before.throughput_per_s
    disturbed = max(before.disturbed or 0.0, after.disturbed or 0.0)
    return ratio_claim(ratio, before.spread, after.spread, disturbed=disturbed)
