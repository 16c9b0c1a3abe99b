"""The metrics: how each compares what a model decided with what is right, for rows of any weight.

Values come from scikit-learn and scipy; `weighted.py` has the same for resampled rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bertcompress.metrics import weighted

__all__ = ["LOWER_IS_BETTER", "METRICS", "Metric", "given"]

Array = NDArray[Any]

Reads = Literal["classes", "numbers", "logits"]
"""What a metric looks at: decided classes (or bits), one number, or the logits themselves."""


@dataclass(frozen=True)
class Metric:
    """One way to score. Shape: decided and references (N,), or (N, K) for bits and logits."""

    name: str
    summary: str
    value: Callable[[Array, Array], float]
    """Of decided and references."""
    weighted: Callable[[Array, Array, Array], Array]
    """The same for rows that count more than once; a function of `weighted.py`."""
    reads: Reads = "classes"
    accuracy_like: bool = False
    """A mean of right and wrong: McNemar's test applies."""
    compares_rows: bool = False
    """Undefined where all references are equal, and so for one row."""
    report_only: bool = False
    """In the units of the target, lower is better: nothing is chosen by it."""
    classes: int | None = None
    """The only number of classes that it is for."""


def _accuracy(decided: Array, references: Array) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(references, decided))


def _f1(average: str, decided: Array, references: Array) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(references, decided, average=average, zero_division=0.0))


def _matthews(decided: Array, references: Array) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(references, decided))


def _correlation(test: str, decided: Array, references: Array) -> float:
    from scipy import stats

    if np.ptp(decided) == 0 or np.ptp(references) == 0:
        return 0.0  # a constant answer knows nothing; scipy would give NaN
    return float(getattr(stats, test)(decided, references).statistic)


def _mae(decided: Array, references: Array) -> float:
    from sklearn.metrics import mean_absolute_error

    return float(mean_absolute_error(references, decided))


def _kl(decided: Array, references: Array) -> float:
    return float(weighted.kl(decided, references).mean())


_ALL = (
    Metric(
        "accuracy",
        "share of rows answered right (multi-label: all labels of a row)",
        _accuracy,
        weighted.accuracy,
        accuracy_like=True,
    ),
    Metric("f1", "F1 of class 1 of two classes", partial(_f1, "binary"), weighted.f1, classes=2),
    Metric("f1_macro", "mean over classes of F1", partial(_f1, "macro"), weighted.f1_macro),
    Metric("f1_micro", "F1 over all labels of all rows", partial(_f1, "micro"), weighted.f1_micro),
    Metric(
        "matthews",
        "Matthews correlation of classes",
        _matthews,
        weighted.matthews,
        compares_rows=True,
    ),
    Metric(
        "pearson",
        "linear correlation",
        partial(_correlation, "pearsonr"),
        weighted.pearson,
        reads="numbers",
        compares_rows=True,
    ),
    Metric(
        "spearman",
        "rank correlation",
        partial(_correlation, "spearmanr"),
        weighted.spearman,
        reads="numbers",
        compares_rows=True,
    ),
    Metric(
        "mae",
        "mean absolute error, in the units of the target",
        _mae,
        weighted.mae,
        reads="numbers",
        report_only=True,
    ),
    Metric(
        "agreement",
        "share of rows answered as the original does",
        _accuracy,
        weighted.accuracy,
        accuracy_like=True,
    ),
    Metric(
        "kl",
        "mean divergence from the original's probabilities, in nats",
        _kl,
        weighted.kl_mean,
        reads="logits",
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
"""Name in a task file to metric. All are between 0 and 1, correlations -1 and 1, `kl` and `mae`
from 0 up.

Higher is better, but for those in `LOWER_IS_BETTER`."""
LOWER_IS_BETTER = ("kl", "mae")


def given(metric: Metric, references: Array) -> bool:
    """Return whether these references allow the metric: no correlation exists of one row.

    Shape: (N,) or (N, K); without labels the original's logits.
    """
    if not metric.compares_rows:
        return True
    column = np.asarray(references).reshape(len(references), -1)[:, 0]
    return len(column) > 1 and bool(np.ptp(column) > 0)
