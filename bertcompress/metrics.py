"""Scores of a model, their 95 % intervals, and paired tests between two models on the same rows.

Values come from scikit-learn and scipy. Intervals resample rows: rows that a metric cannot tell
apart are one *kind*, so a resample is a vector of counts over kinds, and all resamples are one
product of matrices (`weighted.py`), for rank correlations too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertcompress import weighted
from bertcompress.errors import ModelError, TaskError, few, unknown

__all__ = [
    "DEFAULTS",
    "LOWER_IS_BETTER",
    "METRICS",
    "Metric",
    "compute",
    "decisions",
    "given",
    "interval",
    "mcnemar",
    "paired_difference",
    "resampled",
    "task_metric",
]

Array = NDArray[Any]

RESAMPLES = 1_000
# Weights of one block of resamples stay below this many numbers (8 bytes each).
_BLOCK = 2_000_000


@dataclass(frozen=True)
class Metric:
    """One way to score; `weighted` is its function of `weighted.py`."""

    summary: str
    problems: frozenset[str]
    weighted: Callable[[Array, Array, Array], Array]
    accuracy_like: bool = False
    """A mean of right and wrong: McNemar's test applies."""
    compares_rows: bool = False
    """Undefined where all references are equal, and so for one row."""
    report_only: bool = False
    """In the units of the target, lower is better: nothing is chosen by it."""


_SINGLE, _MULTI = frozenset({"single_label"}), frozenset({"multi_label"})
_NUMBER, _NONE = frozenset({"regression", "unlabelled"}), frozenset({"unlabelled"})
_TARGET = frozenset({"regression"})

METRICS: dict[str, Metric] = {
    "accuracy": Metric(
        "share of rows answered right (multi-label: all labels of a row)",
        _SINGLE | _MULTI,
        weighted.accuracy,
        accuracy_like=True,
    ),
    "f1": Metric("F1 of class 1 of two classes", _SINGLE, weighted.f1),
    "f1_macro": Metric("mean over classes of F1", _SINGLE | _MULTI, weighted.f1_macro),
    "f1_micro": Metric("F1 over all labels of all rows", _MULTI, weighted.f1_micro),
    "matthews": Metric(
        "Matthews correlation of classes", _SINGLE, weighted.matthews, compares_rows=True
    ),
    "pearson": Metric("linear correlation", _NUMBER, weighted.pearson, compares_rows=True),
    "spearman": Metric("rank correlation", _NUMBER, weighted.spearman, compares_rows=True),
    "mae": Metric(
        "mean absolute error, in the units of the target", _TARGET, weighted.mae, report_only=True
    ),
    "agreement": Metric(
        "share of rows answered as the original does", _NONE, weighted.accuracy, accuracy_like=True
    ),
    "kl": Metric(
        "mean divergence from the original's probabilities, in nats", _NONE, weighted.kl_mean
    ),
}
"""Name in a task file to metric. All are between 0 and 1, correlations -1 and 1, `kl` and `mae`
from 0 up.

Higher is better, but for those in `LOWER_IS_BETTER`."""
LOWER_IS_BETTER = ("kl", "mae")

DEFAULTS: dict[str, tuple[str, ...]] = {
    "single_label": ("accuracy", "f1_macro", "matthews"),
    "multi_label": ("f1_micro", "f1_macro", "accuracy"),
    "regression": ("spearman", "pearson", "mae"),
    "unlabelled": ("agreement", "kl"),
}
"""Problem to metrics, the headline first."""


def decisions(metric: str, logits: Array, problem: str) -> Array:
    """Return what the metric looks at: classes, bits, numbers or, for `kl`, the logits themselves.

    Shape: (N, K) -> (N,), or (N, K) for multi-label and `kl`. Raises ModelError on NaN.
    """
    logits = np.asarray(logits, dtype=float)
    logits = logits.reshape(len(logits), -1)
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        raise ModelError(f"the model answers NaN or infinity for {bad} of {len(logits)} rows")
    if metric == "kl":
        return logits
    if problem == "multi_label":
        return np.asarray(logits > 0)
    if metric in ("pearson", "spearman", "mae"):
        return logits[:, 0]
    if logits.shape[1] == 1:
        raise TaskError(
            f"metric '{metric}' compares classes, but the model has one output; use spearman"
        )
    return np.asarray(logits.argmax(axis=1))


def given(metric: str, references: Array) -> bool:
    """Return whether these references allow the metric: no correlation exists of one row.

    Shape: (N,) or (N, K); without labels the original's logits.
    """
    if not METRICS[metric].compares_rows:
        return True
    column = np.asarray(references).reshape(len(references), -1)[:, 0]
    return len(column) > 1 and bool(np.ptp(column) > 0)


def compute(
    metrics: Sequence[str], logits: Array, references: Array, problem: str
) -> dict[str, float]:
    """Return each metric's value.

    Shape: logits (N, K); references (N,), (N, K) for multi-label, and for `unlabelled` the original
    model's logits (N, K). Raises TaskError for a metric that does not fit, ModelError on NaN.
    """
    return {name: _value(name, *_sides(name, logits, references, problem)) for name in metrics}


def _sides(metric: str, logits: Array, references: Array, problem: str) -> tuple[Array, Array]:
    if metric not in METRICS:
        raise TaskError(unknown("metrics", "metric", metric, METRICS))
    if problem not in METRICS[metric].problems:
        fitting = [name for name, entry in METRICS.items() if problem in entry.problems]
        raise TaskError(f"metric '{metric}' does not fit a {problem} task; fitting: {few(fitting)}")
    references = np.asarray(references)
    if len(logits) != len(references) or not len(references):
        raise TaskError(f"{len(logits)} answers for {len(references)} references")
    decided = decisions(metric, logits, problem)
    if problem == "unlabelled":
        references = decisions(metric, references, problem)
    elif problem == "multi_label":
        references = references > 0.5
    return decided, references


def _value(metric: str, decided: Array, references: Array) -> float:
    from scipy import stats
    from sklearn import metrics as sk

    if metric == "kl":
        return float(weighted.kl(decided, references).mean())
    if metric in ("pearson", "spearman"):
        if np.ptp(decided) == 0 or np.ptp(references) == 0:
            return 0.0  # a constant answer knows nothing; scipy would give NaN
        test = stats.pearsonr if metric == "pearson" else stats.spearmanr
        return float(test(decided, references).statistic)
    if metric == "mae":
        return float(sk.mean_absolute_error(references, decided))
    if metric == "matthews":
        return float(sk.matthews_corrcoef(references, decided))
    if metric in ("accuracy", "agreement"):
        return float(sk.accuracy_score(references, decided))
    average = {"f1": "binary", "f1_macro": "macro", "f1_micro": "micro"}[metric]
    return float(sk.f1_score(references, decided, average=average, zero_division=0.0))


def resampled(
    metric: str, sides: Sequence[Array], references: Array, seed: int = 0, count: int = RESAMPLES
) -> Array:
    """Return the metric of each side on `count` resamples of the rows, the same rows for all sides.

    Shape: each side and references as `decisions` gives them -> (sides, count).
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
        parts.append(
            [METRICS[metric].weighted(s[first], references[first], weights) for s in sides]
        )
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
    metric: str, logits: Array, references: Array, problem: str, seed: int = 0
) -> tuple[float, float, float]:
    """Return value, low and high of the 95 % percentile bootstrap over rows (Efron 1979)."""
    decided, references = _sides(metric, logits, references, problem)
    low, high = np.quantile(resampled(metric, [decided], references, seed)[0], [0.025, 0.975])
    return _value(metric, decided, references), float(low), float(high)


def paired_difference(
    metric: str, a_logits: Array, b_logits: Array, references: Array, problem: str, seed: int = 0
) -> tuple[float, float, float, float]:
    """Return `a - b`, its 95 % interval on the same resampled rows, and the two-sided p value.

    p: McNemar's exact test for accuracy-like metrics, else from the bootstrap (at least 2/1,001).
    """
    a, truth = _sides(metric, a_logits, references, problem)
    b, _ = _sides(metric, b_logits, references, problem)
    scores = resampled(metric, [a, b], truth, seed)
    differences = scores[0] - scores[1]
    low, high = np.quantile(differences, [0.025, 0.975])
    if METRICS[metric].accuracy_like:
        p = mcnemar(_right(a, truth), _right(b, truth))
    else:
        tail = min((differences <= 0).sum(), (differences >= 0).sum())
        p = min(1.0, 2 * (tail + 1) / (len(differences) + 1))
    return _value(metric, a, truth) - _value(metric, b, truth), float(low), float(high), float(p)


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


@cache
def _task_metric_class() -> type[Any]:
    """Return the class; `evaluate` takes seconds to import, and few callers need it."""
    import datasets
    import evaluate

    class TaskMetric(evaluate.Metric):  # type: ignore[misc]
        """The metrics of a task behind the interface of `evaluate`; nothing is downloaded."""

        def __init__(self, metrics: Sequence[str], problem: str, **options: Any) -> None:
            self.names, self.problem = tuple(metrics), problem
            super().__init__(config_name=problem, **{"keep_in_memory": True, **options})

        def _info(self) -> Any:
            rows = datasets.Sequence(datasets.Value("float32"))
            one = datasets.Value("int64" if self.problem == "single_label" else "float32")
            references = one if self.problem in ("single_label", "regression") else rows
            return evaluate.MetricInfo(
                description="Metrics of a bertcompress task",
                citation="",
                inputs_description="predictions: logits; references: labels, or original logits",
                features=datasets.Features({"predictions": rows, "references": references}),
            )

        def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
            return compute(
                self.names, np.asarray(predictions), np.asarray(references), self.problem
            )

    return TaskMetric


def task_metric(metrics: Sequence[str], problem: str) -> Any:
    """Return a local `evaluate.Metric` that takes logits; nothing is downloaded."""
    return _task_metric_class()(metrics, problem)
