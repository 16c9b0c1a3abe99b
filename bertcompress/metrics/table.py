"""The metrics: what each row adds, and the value of the sums over rows of any weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bertcompress.metrics.ranking import cosine_rows, neighbour_rows
from bertcompress.metrics.statistics import (
    absolute_errors,
    confusions,
    correlation,
    divergences,
    f1,
    f1_macro,
    hits,
    hits_of_class_1,
    hits_of_each_class,
    matthews,
    mean,
    moments,
    pairs,
    rank_sums,
    right_rows,
)

__all__ = ["METRICS", "Metric", "given"]

Array = NDArray[Any]

Reads = Literal["classes", "numbers", "logits", "entities", "answers", "vectors"]
"""What a metric looks at: decided classes (or bits), one number, the logits themselves, codes of
tags (`metrics.entities`), vectors, or what else a head answers."""


@dataclass(frozen=True)
class Metric:
    """One way to score. Shape: decided and references (N,), or (N, K) for bits and logits."""

    name: str
    summary: str
    statistics: Callable[[Array, Array], Array]
    """What each row adds, of decided and references. Shape: -> (N, S)."""
    value: Callable[[Array], Array]
    """The score of the sums of the statistics. Shape: (..., S) -> (...)."""
    reads: Reads = "classes"
    accuracy_like: bool = False
    """A mean of right and wrong, the first of the statistics: McNemar's test applies."""
    of_ranks: bool = False
    """The value is of ranks among the rows that count, which no sum of rows tells; the statistics
    are `pairs`."""
    compares_rows: bool = False
    """Undefined where all references are equal, and so for one row."""
    allows: Callable[[Array], bool] | None = None
    """Whether it says something for these references; None: for all."""
    of_all_rows: bool = False
    """Whether what a row adds depends on the rows beside it."""
    report_only: bool = False
    """Lower is better: nothing is chosen by it."""
    classes: int | None = None
    """The only number of classes that it is for."""

    def weighted(self, statistics: Array, weights: Array) -> Array:
        """Return the score of rows that count more than once. Shape: (N, S), (R, N) -> (R,)."""
        sums = rank_sums(statistics, weights) if self.of_ranks else weights @ statistics
        return self.value(sums)

    def score(self, statistics: Array) -> float:
        """Return the score of rows that count once. Shape: (N, S)."""
        return float(self.weighted(statistics, np.ones((1, len(statistics))))[0])


_ALL = (
    Metric(
        "accuracy",
        "share of rows answered right (multi-label: all labels of a row)",
        right_rows,
        mean,
        accuracy_like=True,
    ),
    Metric("f1", "F1 of class 1 of two classes", hits_of_class_1, f1, classes=2),
    Metric("f1_macro", "mean over classes of F1", hits_of_each_class, f1_macro),
    Metric("f1_micro", "F1 over all labels of all rows", hits, f1),
    Metric(
        "matthews",
        "Matthews correlation of classes",
        confusions,
        matthews,
        compares_rows=True,
    ),
    Metric(
        "pearson",
        "linear correlation",
        moments,
        correlation,
        reads="numbers",
        compares_rows=True,
    ),
    Metric(
        "spearman",
        "rank correlation",
        pairs,
        correlation,
        reads="numbers",
        of_ranks=True,
        compares_rows=True,
    ),
    Metric(
        "mae",
        "mean absolute error, in the units of the target",
        absolute_errors,
        mean,
        reads="numbers",
        report_only=True,
    ),
    Metric(
        "agreement",
        "share of rows answered as the original does",
        right_rows,
        mean,
        accuracy_like=True,
    ),
    Metric(
        "kl",
        "mean divergence from the original's probabilities, in nats",
        divergences,
        mean,
        reads="logits",
        report_only=True,
    ),
    Metric(
        "cosine",
        "mean cosine of a text's vector with the original's",
        cosine_rows,
        mean,
        reads="vectors",
        of_all_rows=True,
    ),
    Metric(
        "neighbours",
        "share of a text's 10 nearest texts that are its nearest in the original too",
        neighbour_rows,
        mean,
        reads="vectors",
        of_all_rows=True,
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
"""Name in a task file to metric. All are between 0 and 1, correlations -1 and 1, `kl` and `mae`
from 0 up.

Higher is better, but for those that are `report_only`."""


def given(metric: Metric, references: Array) -> bool:
    """Return whether these references allow the metric: no correlation exists of one row.

    Shape: (N,) or (N, K); without labels the original's logits.
    """
    if metric.allows is not None:
        return metric.allows(references)
    if not metric.compares_rows:
        return True
    column = np.asarray(references).reshape(len(references), -1)[:, 0]
    return len(column) > 1 and bool(np.ptp(column) > 0)
