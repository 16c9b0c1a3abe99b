"""95 % intervals of a score and paired tests between two models, by resampling rows.

Rows that a metric cannot tell apart are one *kind*, so a resample is a vector of counts over kinds,
and all resamples are one product of matrices with the statistics of the kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertcompress.metrics.table import Metric

__all__ = ["SIGNIFICANT", "kinds", "least_p", "mcnemar", "p_value", "percentiles", "resampled"]

Array = NDArray[Any]

RESAMPLES = 1_000
SIGNIFICANT = 0.05
"""A difference that chance would bring less often is said to be one."""
# Weights of one block of resamples stay below this many numbers (8 bytes each).
_BLOCK = 2_000_000
_TIE = 1e-12
"""Scores of a resample that are no further apart are equal: it is what sums are rounded by."""


def kinds(columns: Sequence[Array]) -> tuple[Array, Array]:
    """Return the first row of each kind, and how many rows it has.

    Shape: columns (N,) or (N, K) each -> (C,), (C,).
    """
    flat = [column.reshape(len(column), -1).astype(float) for column in columns]
    _, first, counts = np.unique(
        np.concatenate(flat, axis=1), axis=0, return_index=True, return_counts=True
    )
    return first, counts


def resampled(
    metric: Metric,
    sides: Sequence[Array],
    counts: Array,
    seed: int = 0,
    count: int = RESAMPLES,
) -> Array:
    """Return the metric of each side on `count` resamples of the rows, the same rows for all sides.

    `sides`: the statistics of each kind of row; `counts`: the rows of that kind.
    Shape: sides (C, S) each, counts (C,) -> (sides, count).
    """
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(counts))
    parts = []
    for start in range(0, count, block):
        weights = _draw(rng, counts, min(block, count - start))
        parts.append([metric.weighted(side, weights) for side in sides])
    return np.concatenate([np.asarray(part) for part in parts], axis=1)


def _draw(rng: np.random.Generator, counts: Array, resamples: int) -> Array:
    """Return how often each kind is drawn, rows with replacement. Shape: (C,) -> (R, C)."""
    rows, number = int(counts.sum()), len(counts)
    if number < rows / 20:
        return rng.multinomial(rows, counts / rows, size=resamples).astype(float)
    kind_of_row = np.repeat(np.arange(number), counts.astype(int))
    drawn = kind_of_row[rng.integers(0, rows, size=(resamples, rows))]
    drawn += (np.arange(resamples) * number)[:, None]
    return (
        np.bincount(drawn.ravel(), minlength=resamples * number)
        .reshape(resamples, number)
        .astype(float)
    )


def percentiles(draws: Array) -> tuple[float, float]:
    """Return the ends of the 95 % percentile interval (Efron 1979). Shape: (R,)."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def p_value(differences: Array) -> float:
    """Return the two-sided p of no difference: at least 2/1,001 of 1,000 resamples. Shape: (R,)."""
    tail = min((differences <= _TIE).sum(), (differences >= -_TIE).sum())
    return float(min(1.0, 2 * (tail + 1) / (len(differences) + 1)))


def least_p(rows: int) -> float:
    """Return the smallest two-sided p value that differences in so many rows can have.

    All of them have one sign, as half of 2^rows flips of coins would at best. Resampling knows no
    such end: it draws the same few rows again and again.
    """
    return float(min(1.0, 2.0 ** (1 - min(rows, 100))))


def mcnemar(a_right: Array, b_right: Array) -> float:
    """Return the exact two-sided p value that two models are equally often right (McNemar 1947).

    Shape: both (N,), bool.
    """
    from scipy.stats import binomtest

    only_a, only_b = int((a_right & ~b_right).sum()), int((~a_right & b_right).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b).pvalue)
