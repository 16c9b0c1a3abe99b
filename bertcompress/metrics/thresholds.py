"""The difference of scores from which a question counts as unanswerable, chosen for the best F1."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["best_threshold"]


def best_threshold(
    differences: NDArray[Any], answered: NDArray[Any], unanswered: NDArray[Any]
) -> float:
    """Return the threshold with the largest sum of scores; rows above it are left unanswered.

    It lies in the middle between two rows, and is the one nearest to 0 where several are as good.
    As `find_best_thresh` of the official script of SQuAD 2.0, which takes the rows' own scores.

    Args:
        differences: Score of "no answer" minus that of the best span. Shape: (N,).
        answered: What each row scores with its best span. Shape: (N,).
        unanswered: What it scores without an answer. Shape: (N,).
    """
    order = np.argsort(differences, kind="stable")
    values = differences[order].astype(float)
    gains = np.concatenate([[0.0], np.cumsum((answered - unanswered)[order])])
    edges = np.concatenate([[values[0] - 1.0], values, [values[-1] + 1.0]])
    middles = (edges[:-1] + edges[1:]) / 2
    # Rows of equal differences fall on one side together.
    apart = np.concatenate([[True], np.diff(values) > 0, [True]])
    gains = np.where(apart, gains, -np.inf)
    best = np.flatnonzero(gains >= gains.max() - 1e-12)
    between = [
        0.0 if edges[i] < 0.0 < edges[i + 1] and apart[i] else float(middles[i]) for i in best
    ]
    return min(between, key=abs)
