"""95 % intervals of a score and paired tests between two models, by resampling rows.

Rows that a metric cannot tell apart are one *kind*, so a resample is a vector of counts over kinds,
and all resamples are one product of matrices (`weighted.py`), for rank correlations too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertcompress.metrics.table import Metric

__all__ = ["interval", "mcnemar", "paired_difference", "resampled"]

Array = NDArray[Any]

RESAMPLES = 1_000
# Weights of one block of resamples stay below this many numbers (8 bytes each).
_BLOCK = 2_000_000


def resampled(
    metric: Metric,
    sides: Sequence[Array],
    references: Array,
    seed: int = 0,
    count: int = RESAMPLES,
) -> Array:
    """Return the metric of each side on `count` resamples of the rows, the same rows for all sides.

    Shape: each side and references (N,) or (N, K) -> (sides, count).
    """
    columns = [a.reshape(len(a), -1).astype(float) for a in (*sides, references)]
    _, first, counts = np.unique(
        np.concatenate(columns, axis=1), axis=0, return_index=True, return_counts=True
    )
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(first))
    parts = []
    for start in range(0, count, block):
        weights = _draw(rng, counts, min(block, count - start))
        parts.append([metric.weighted(s[first], references[first], weights) for s in sides])
    return np.concatenate([np.asarray(part) for part in parts], axis=1)


def _draw(rng: np.random.Generator, counts: Array, resamples: int) -> Array:
    """Return how often each kind is drawn, rows with replacement. Shape: (C,) -> (R, C)."""
    rows, kinds = int(counts.sum()), len(counts)
    if kinds < rows / 20:
        return rng.multinomial(rows, counts / rows, size=resamples).astype(float)
    kind_of_row = np.repeat(np.arange(kinds), counts.astype(int))
    drawn = kind_of_row[rng.integers(0, rows, size=(resamples, rows))]
    drawn += (np.arange(resamples) * kinds)[:, None]
    return (
        np.bincount(drawn.ravel(), minlength=resamples * kinds)
        .reshape(resamples, kinds)
        .astype(float)
    )


def interval(
    metric: Metric, decided: Array, references: Array, seed: int = 0
) -> tuple[float, float, float]:
    """Return value, low and high of the 95 % percentile bootstrap over rows (Efron 1979).

    Shape: both (N,) or (N, K).
    """
    low, high = np.quantile(resampled(metric, [decided], references, seed)[0], [0.025, 0.975])
    return metric.value(decided, references), float(low), float(high)


def paired_difference(
    metric: Metric, a: Array, b: Array, references: Array, seed: int = 0
) -> tuple[float, float, float, float]:
    """Return `a - b`, its 95 % interval on the same resampled rows, and the two-sided p value.

    p: McNemar's exact test for accuracy-like metrics, else from the bootstrap (at least 2/1,001).
    Shape: all (N,) or (N, K).
    """
    scores = resampled(metric, [a, b], references, seed)
    differences = scores[0] - scores[1]
    low, high = np.quantile(differences, [0.025, 0.975])
    if metric.accuracy_like:
        p = mcnemar(_right(a, references), _right(b, references))
    else:
        tail = min((differences <= 0).sum(), (differences >= 0).sum())
        p = min(1.0, 2 * (tail + 1) / (len(differences) + 1))
    difference = metric.value(a, references) - metric.value(b, references)
    return difference, float(low), float(high), float(p)


def _right(decided: Array, references: Array) -> Array:
    right = decided == references
    return np.asarray(right.all(axis=1) if right.ndim == 2 else right)


def mcnemar(a_right: Array, b_right: Array) -> float:
    """Return the exact two-sided p value that two models are equally often right (McNemar 1947).

    Shape: both (N,), bool.
    """
    from scipy.stats import binomtest

    only_a, only_b = int((a_right & ~b_right).sum()), int((~a_right & b_right).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b).pvalue)
