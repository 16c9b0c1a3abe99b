"""What an answer with a span is: its columns, its scores, and the score of reading no question.

Columns: first character, end (exclusive), log probability of the span, log probability of no
answer, and the threshold of their difference. Shape: (N, 5).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertcompress.metrics import Metric
from bertcompress.metrics.squad import scores
from bertcompress.metrics.statistics import mean

__all__ = [
    "END", "METRICS_OF_SPANS", "NEVER", "NOTHING", "SCORE", "START", "THRESHOLD_COLUMN",
    "best_blind", "is_silent", "probabilities", "scored",
]  # fmt: skip

Array = NDArray[Any]

START, END, SCORE, NOTHING, THRESHOLD_COLUMN = range(5)
NEVER = 1e6
"""The threshold where every question has an answer."""
_BLIND_WORDS = (1, 3, 10, 30)
"""Lengths of the answers that are tried without reading the question."""


def _given(column: int) -> Callable[[Array, Array], Array]:
    """Return the function from what a row scores to one column of it beside a 1."""
    return lambda decided, _: np.stack([decided[:, column], np.ones(len(decided))], axis=1)


def _of_kind(answerable: bool) -> Callable[[Array, Array], Array]:
    """Return the function from what a row scores to its F1 where it has an answer, or has none."""

    def statistics(decided: Array, _: Array) -> Array:
        counts = decided[:, 2] if answerable else 1 - decided[:, 2]
        return np.stack([decided[:, 1] * counts, counts], axis=1)

    return statistics


def _mean_of_some(sums: Array) -> Array:
    """Return the mean over the rows that count; 0 where none does. Shape: (..., 2) -> (...)."""
    total, rows = sums[..., 0], sums[..., 1]
    return np.asarray(np.divide(total, rows, out=np.zeros_like(total), where=rows > 0))


def _some_unanswerable(references: Array) -> bool:
    """Return whether rows with and without an answer are to be told apart. Shape: (N,)."""
    return len({bool(each["answers"]) for each in references}) == 2


_ALL = (
    Metric(
        "f1", "F1 of the words of the answer, the best of the correct ones", _given(1), mean,
        reads="answers",
    ),
    Metric(
        "exact_match", "share of rows answered with a correct text", _given(0), mean,
        reads="answers", accuracy_like=True,
    ),
    Metric(
        "f1_answerable", "F1 over the rows that have an answer, where others have none",
        _of_kind(True), _mean_of_some, reads="answers", allows=_some_unanswerable,
    ),
    Metric(
        "f1_unanswerable", "share of the rows without an answer that are left unanswered",
        _of_kind(False), _mean_of_some, reads="answers", allows=_some_unanswerable,
    ),
)  # fmt: skip

METRICS_OF_SPANS = {metric.name: metric for metric in _ALL}
"""By name, the headline first."""


def _blind(context: str, words: int) -> list[tuple[int, int]]:
    """Return first character and end of some words at the front, in the middle and at the end."""
    places = [(found.start(), found.end()) for found in re.finditer(r"\S+", context)]
    last = max(0, len(places) - words)
    some = [places[first : first + words] for first in (0, last // 2, last)]
    return [(each[0][0], each[-1][1]) if each else (0, 0) for each in some]


def is_silent(answers: Array) -> Array:
    """Return which questions are left unanswered. Shape: (N, 5) -> (N,)."""
    return np.asarray(answers[:, NOTHING] - answers[:, SCORE] > answers[:, THRESHOLD_COLUMN])


def scored(answers: Array, references: Array) -> Array:
    """Return exact match, F1, and whether there is an answer. Shape: (N, 5), (N,) -> (N, 3)."""
    silent = is_silent(answers)
    places = answers[:, [START, END]].astype(int)
    texts = [
        "" if none else reference["context"][start:end]
        for none, (start, end), reference in zip(silent, places.tolist(), references, strict=True)
    ]
    golds = [reference["answers"] for reference in references]
    return scores(texts, golds, any(reference["version"] == 2 for reference in references))


def probabilities(answers: Array) -> Array:
    """Return those of the chosen spans, never quite 0 or 1. Shape: (N, 5) -> (N,)."""
    chances = np.exp(np.asarray(answers[:, SCORE], float))
    return np.asarray(np.clip(chances, 1e-6, 1 - 1e-6))


def best_blind(references: Array, metric: Metric) -> float:
    """Return the score of the best answer that reads no question. Shape: references (N,).

    Tried are no answer, and a few words at the front, in the middle and at the end of a context.
    """
    silent = np.tile([0.0, 0.0, -1.0, 0.0, 0.0], (len(references), 1))
    tried = [silent]
    for words in _BLIND_WORDS:
        places = [_blind(each["context"], words) for each in references]
        for column in zip(*places, strict=True):
            rest = np.tile([0.0, -NEVER, NEVER], (len(references), 1))
            tried.append(np.concatenate([np.asarray(column, float), rest], axis=1))
    rows = [scored(each, references) for each in tried]
    values = [metric.score(metric.statistics(each, each)) for each in rows]
    return round(max(values), 4)
