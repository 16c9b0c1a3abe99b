"""Scores of logits: a head decides, a metric compares, intervals and tests resample rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from bertcompress import metrics
from bertcompress.errors import TaskError
from bertcompress.heads.head import Array, Head, check_fits

__all__ = ["compute", "interval", "paired_difference", "sides", "task_metric"]


def sides(head: Head, metric: str, logits: Array, references: Array) -> tuple[Array, Array]:
    """Return what the metric compares: decided answers and what is right.

    Shape: logits (N, K); references (N,), (N, K) for bits, and without labels the original model's
    logits (N, K). Raises TaskError for a metric that does not fit, ModelError on NaN.
    """
    found = check_fits(head, metric)
    references = np.asarray(references)
    if len(logits) != len(references) or not len(references):
        raise TaskError(f"{len(logits)} answers for {len(references)} references")
    return head.decided(found, logits), head.right(found, references)


def compute(head: Head, names: Sequence[str], logits: Array, references: Array) -> dict[str, float]:
    """Return each metric's value. Shape and errors: see `sides`."""
    return {
        name: check_fits(head, name).value(*sides(head, name, logits, references)) for name in names
    }


def interval(
    head: Head, metric: str, logits: Array, references: Array, seed: int = 0
) -> tuple[float, float, float]:
    """Return value, low and high of the 95 % bootstrap over rows. Shape: see `sides`."""
    decided, right = sides(head, metric, logits, references)
    return metrics.interval(head.metrics[metric], decided, right, seed)


def paired_difference(
    head: Head, metric: str, a_logits: Array, b_logits: Array, references: Array, seed: int = 0
) -> tuple[float, float, float, float]:
    """Return `a - b`, its 95 % interval, and the two-sided p value. Shape: see `sides`."""
    a, right = sides(head, metric, a_logits, references)
    b, _ = sides(head, metric, b_logits, references)
    return metrics.paired_difference(head.metrics[metric], a, b, right, seed)


@cache
def _task_metric_class() -> type[Any]:
    """Return the class; `evaluate` takes seconds to import, and few callers need it."""
    import datasets
    import evaluate

    class TaskMetric(evaluate.Metric):  # type: ignore[misc]
        """The metrics of a task behind the interface of `evaluate`; nothing is downloaded."""

        def __init__(self, names: Sequence[str], head: Head, **options: Any) -> None:
            self.names, self.head = tuple(names), head
            super().__init__(config_name=head.key, **{"keep_in_memory": True, **options})

        def _info(self) -> Any:
            rows = datasets.Sequence(datasets.Value("float32"))
            one = datasets.Value("float32" if self.head.has_units else "int64")
            return evaluate.MetricInfo(
                description="Metrics of a bertcompress task",
                citation="",
                inputs_description="predictions: logits; references: labels, or original logits",
                features=datasets.Features(
                    {"predictions": rows, "references": one if self.head.one_value else rows}
                ),
            )

        def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
            return compute(self.head, self.names, np.asarray(predictions), np.asarray(references))

    return TaskMetric


def task_metric(names: Sequence[str], head: Head) -> Any:
    """Return a local `evaluate.Metric` that takes logits; nothing is downloaded."""
    return _task_metric_class()(names, head)
