"""Which metrics fit a head, and what is wrong with one that does not."""

from __future__ import annotations

from collections.abc import Sequence

from bertcompress.errors import TaskError, few, unknown
from bertcompress.heads.head import Head
from bertcompress.metrics import METRICS, Metric

__all__ = ["check_fits", "misfit"]


def check_fits(head: Head, metric: str) -> Metric:
    """Return a metric of a head. Raises TaskError for one that does not fit it."""
    if metric not in {**METRICS, **head.metrics}:
        raise TaskError(unknown("metrics", "metric", metric, METRICS))
    if metric not in head.metrics:
        raise TaskError(
            f"metric '{metric}' does not fit a {head.key} task; fitting: {few([*head.metrics])}"
        )
    return head.metrics[metric]


def misfit(head: Head, metrics: Sequence[str], classes: int) -> str:
    """Return what is wrong with these metrics for so many classes, or an empty string."""
    for name in metrics:
        try:
            only = check_fits(head, name).classes
        except TaskError as error:
            return str(error)
        if only is not None and classes > only:
            return f"metric '{name}' is for two classes, here are {classes}; use f1_macro"
    return ""
