"""Metrics of rows that count more than once: one value for each row of a matrix of weights.

Shape, everywhere: decided and references (C,), or (C, K) for bits and logits; weights (R, C), how
often each row counts -> (R,).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "accuracy",
    "f1",
    "f1_macro",
    "f1_micro",
    "kl",
    "kl_mean",
    "mae",
    "matthews",
    "pearson",
    "spearman",
]

Array = NDArray[Any]


def accuracy(decided: Array, references: Array, weights: Array) -> Array:
    """Return the share of right rows; all bits of a row have to be right."""
    right = decided == references
    return _mean(right.all(axis=1) if right.ndim == 2 else right, weights)


def _mean(values: Array, weights: Array) -> Array:
    return np.asarray(weights @ values.astype(float) / weights.sum(axis=1))


def kl_mean(decided: Array, references: Array, weights: Array) -> Array:
    """Return the mean of `kl`."""
    return _mean(kl(decided, references), weights)


def mae(decided: Array, references: Array, weights: Array) -> Array:
    """Return the mean absolute error, in the units of the references."""
    return _mean(np.abs(decided.astype(float).ravel() - references.astype(float).ravel()), weights)


def _bits(decided: Array, references: Array) -> tuple[Array, Array]:
    """Return both as 0 and 1 per class. Shape: (C,) -> (C, K)."""
    if decided.ndim == 2:
        return decided.astype(float), references.astype(float)
    classes = np.union1d(decided, references)
    return (decided[:, None] == classes) * 1.0, (references[:, None] == classes) * 1.0


def _f1_of(hits: Array, decided: Array, given: Array) -> Array:
    total = decided + given
    return np.asarray(np.divide(2 * hits, total, out=np.zeros_like(total), where=total > 0))


def f1(decided: Array, references: Array, weights: Array) -> Array:
    """Return F1 of class 1; 0 where nobody has it."""
    ours, theirs = (decided == 1) * 1.0, (references == 1) * 1.0
    return _f1_of(weights @ (ours * theirs), weights @ ours, weights @ theirs)


def f1_macro(decided: Array, references: Array, weights: Array) -> Array:
    """Return the mean over classes of F1."""
    ours, theirs = _bits(decided, references)
    made, given = weights @ ours, weights @ theirs
    scores = _f1_of(weights @ (ours * theirs), made, given)
    if decided.ndim == 2:
        return np.asarray(scores.mean(axis=1))
    # As scikit-learn: a class that neither side holds does not count.
    return np.asarray(scores.sum(axis=1) / (made + given > 0).sum(axis=1))


def f1_micro(decided: Array, references: Array, weights: Array) -> Array:
    """Return F1 over all bits of all rows."""
    ours, theirs = _bits(decided, references)
    return _f1_of(
        weights @ (ours * theirs).sum(axis=1),
        weights @ ours.sum(axis=1),
        weights @ theirs.sum(axis=1),
    )


def matthews(decided: Array, references: Array, weights: Array) -> Array:
    """Return the correlation of two partitions (Gorodkin 2004); 0 where one side has one class."""
    ours, theirs = _bits(decided, references)
    rows = weights.sum(axis=1)
    made, given = weights @ ours, weights @ theirs
    cover = weights @ (ours * theirs).sum(axis=1) * rows - (made * given).sum(axis=1)
    spread = (rows**2 - (made**2).sum(axis=1)) * (rows**2 - (given**2).sum(axis=1))
    return np.asarray(np.divide(cover, np.sqrt(spread), out=np.zeros_like(cover), where=spread > 0))


def _correlation(x: Array, y: Array, weights: Array) -> Array:
    """Return Pearson's correlation, 0 for a constant side. Shape: x, y (C,) or (R, C) -> (R,)."""
    rows = weights.sum(axis=1, keepdims=True)
    x = x - (weights * x).sum(axis=1, keepdims=True) / rows
    y = y - (weights * y).sum(axis=1, keepdims=True) / rows
    cover, spread_x, spread_y = ((weights * v).sum(axis=1) for v in (x * y, x * x, y * y))
    spread = spread_x * spread_y
    return np.asarray(
        np.divide(cover, np.sqrt(spread), out=np.zeros_like(cover), where=spread > 1e-24)
    )


def pearson(decided: Array, references: Array, weights: Array) -> Array:
    """Return the linear correlation, 0 for a constant side."""
    return _correlation(decided.astype(float).ravel(), references.astype(float).ravel(), weights)


def _ranks(values: Array, weights: Array) -> Array:
    """Return the mean rank of each value in each resample. Shape: (C,), (R, C) -> (R, C)."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    tied = np.add.reduceat(weights[:, order], starts, axis=1)
    return np.asarray((np.cumsum(tied, axis=1) - (tied - 1) / 2)[:, group])


def spearman(decided: Array, references: Array, weights: Array) -> Array:
    """Return the rank correlation, exact: ranks of a resample follow from cumulated weights."""
    x, y = _ranks(decided.ravel(), weights), _ranks(references.ravel(), weights)
    return _correlation(x, y, weights)


def kl(logits: Array, original: Array) -> Array:
    """Return KL(original || model) in nats. Shape: both (C, K) -> (C,)."""
    from scipy.special import log_softmax

    ours, theirs = log_softmax(logits, axis=1), log_softmax(original, axis=1)
    return np.asarray((np.exp(theirs) * (theirs - ours)).sum(axis=1))
