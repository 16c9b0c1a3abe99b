"""What each row adds to a metric, and the metric of the sums over rows.

A score of any resample of the rows is a function of sums, and all resamples are one product of
matrices. Shape, everywhere: decided and references (N,), or (N, K) for bits and logits; statistics
(N, S); sums (..., S) -> (...).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "absolute_errors",
    "confusions",
    "correlation",
    "divergences",
    "f1",
    "f1_macro",
    "hits",
    "hits_of_class_1",
    "hits_of_each_class",
    "kl",
    "matthews",
    "mean",
    "moments",
    "pairs",
    "rank_sums",
    "right_rows",
]

Array = NDArray[Any]

_CONSTANT = 1e-13
"""A variance below this share of the mean square is rounding."""


def _counted(values: Array) -> Array:
    """Return values beside the 1 that each row counts. Shape: (N,) -> (N, 2)."""
    return np.stack([values.astype(float), np.ones(len(values))], axis=1)


def right_rows(decided: Array, references: Array) -> Array:
    """Return 1 for a right row, all bits of which have to be right, and 1. Shape: (N, 2)."""
    right = decided == references
    return _counted(right.all(axis=1) if right.ndim == 2 else right)


def absolute_errors(decided: Array, references: Array) -> Array:
    """Return |error| in the units of the references, and 1. Shape: (N, 2)."""
    return _counted(np.abs(decided.astype(float).ravel() - references.astype(float).ravel()))


def divergences(decided: Array, references: Array) -> Array:
    """Return `kl`, and 1. Shape: (N, 2)."""
    return _counted(kl(decided, references))


def kl(logits: Array, original: Array) -> Array:
    """Return KL(original || model) in nats. Shape: both (N, K) -> (N,)."""
    from scipy.special import log_softmax

    ours, theirs = log_softmax(logits, axis=1), log_softmax(original, axis=1)
    return np.asarray((np.exp(theirs) * (theirs - ours)).sum(axis=1))


def mean(sums: Array) -> Array:
    """Return the mean of a value that stands beside a 1. Shape: (..., 2) -> (...)."""
    return np.asarray(sums[..., 0] / sums[..., 1])


def _bits(decided: Array, references: Array) -> tuple[Array, Array]:
    """Return both as 0 and 1 per class. Shape: (N,) -> (N, K)."""
    if decided.ndim == 2:
        return decided.astype(float), references.astype(float)
    classes = np.union1d(decided, references)
    return (decided[:, None] == classes) * 1.0, (references[:, None] == classes) * 1.0


def hits_of_class_1(decided: Array, references: Array) -> Array:
    """Return what is class 1 on both sides, decided so, and so by the references. Shape: (N, 3)."""
    ours, theirs = (decided == 1) * 1.0, (references == 1) * 1.0
    return np.stack([ours * theirs, ours, theirs], axis=1)


def hits(decided: Array, references: Array) -> Array:
    """Return the same of all classes together. Shape: (N, 3)."""
    ours, theirs = _bits(decided, references)
    return np.stack([(ours * theirs).sum(axis=1), ours.sum(axis=1), theirs.sum(axis=1)], axis=1)


def hits_of_each_class(decided: Array, references: Array) -> Array:
    """Return the same of each class, and whether it counts. Shape: (N, 4 K).

    A class that neither side holds counts among bits only, as in scikit-learn.
    """
    ours, theirs = _bits(decided, references)
    counts = np.ones_like(ours) if decided.ndim == 2 else np.maximum(ours, theirs)
    return np.concatenate([ours * theirs, ours, theirs, counts], axis=1)


def f1(sums: Array) -> Array:
    """Return F1 of hits, decided and given; 0 where nobody has any. Shape: (..., 3) -> (...)."""
    return _f1_of(sums[..., 0], sums[..., 1] + sums[..., 2])


def f1_macro(sums: Array) -> Array:
    """Return the mean of F1 over the classes that count. Shape: (..., 4 K) -> (...)."""
    both, made, given, counts = np.split(sums, 4, axis=-1)
    return np.asarray(_f1_of(both, made + given).sum(axis=-1) / (counts > 0).sum(axis=-1))


def _f1_of(both: Array, total: Array) -> Array:
    return np.asarray(np.divide(2 * both, total, out=np.zeros_like(total), where=total > 0))


def confusions(decided: Array, references: Array) -> Array:
    """Return 1, whether the row is right, and the classes of each side. Shape: (N, 2 + 2 K)."""
    ours, theirs = _bits(decided, references)
    right = (ours * theirs).sum(axis=1, keepdims=True)
    return np.concatenate([np.ones((len(ours), 1)), right, ours, theirs], axis=1)


def matthews(sums: Array) -> Array:
    """Return the correlation of two partitions (Gorodkin 2004); 0 where one side has one class.

    Shape: (..., 2 + 2 K) -> (...).
    """
    rows, right = sums[..., 0], sums[..., 1]
    made, given = np.split(sums[..., 2:], 2, axis=-1)
    cover = right * rows - (made * given).sum(axis=-1)
    spread = (rows**2 - (made**2).sum(axis=-1)) * (rows**2 - (given**2).sum(axis=-1))
    return np.asarray(np.divide(cover, np.sqrt(spread), out=np.zeros_like(cover), where=spread > 0))


def moments(decided: Array, references: Array) -> Array:
    """Return 1, x, y, their squares and their product, both from the middle. Shape: (N, 6).

    In units of the largest distance from the median, so that sums of squares cancel nothing.
    """
    x, y = _from_middle(decided), _from_middle(references)
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)


def _from_middle(values: Array) -> Array:
    plain = values.astype(float).ravel()
    if not len(plain) or np.ptp(plain) == 0:
        return np.zeros_like(plain)
    apart = plain - np.median(plain)
    return np.asarray(apart / np.abs(apart).max())


def correlation(sums: Array) -> Array:
    """Return the linear correlation of `moments`, 0 for a constant side. Shape: (..., 6)."""
    rows, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    cover, spread_x, spread_y = xy - x * y / rows, xx - x * x / rows, yy - y * y / rows
    varied = (spread_x > _CONSTANT * xx) & (spread_y > _CONSTANT * yy)
    spread = np.sqrt(np.where(varied, spread_x * spread_y, 1.0))
    return np.clip(np.where(varied, cover / spread, 0.0), -1.0, 1.0)


def pairs(decided: Array, references: Array) -> Array:
    """Return both sides as they are, for `rank_sums`. Shape: (N, 2)."""
    return np.stack([decided.astype(float).ravel(), references.astype(float).ravel()], axis=1)


def rank_sums(statistics: Array, weights: Array) -> Array:
    """Return the sums of `moments` of ranks, which no sum over rows tells: exact, by weights.

    Ranks of a resample follow from cumulated weights. Shape: `pairs` (N, 2), how often each row
    counts (R, N) -> (R, 6).
    """
    rows = weights.sum(axis=1, keepdims=True)
    x, y = ((_ranks(side, weights) - (rows + 1) / 2) / rows for side in statistics.T)
    drawn_x, drawn_y = weights * x, weights * y
    columns = (weights, drawn_x, drawn_y, drawn_x * x, drawn_y * y, drawn_x * y)
    return np.stack([each.sum(axis=1) for each in columns], axis=1)


def _ranks(values: Array, weights: Array) -> Array:
    """Return the mean rank of each value in each resample. Shape: (N,), (R, N) -> (R, N)."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    tied = np.add.reduceat(weights[:, order], starts, axis=1)
    return np.asarray((np.cumsum(tied, axis=1) - (tied - 1) / 2)[:, group])
