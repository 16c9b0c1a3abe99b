"""Metrics of decided answers, their 95 % intervals, and paired tests on the same rows."""

from bertcompress.metrics.bootstrap import interval, mcnemar, paired_difference, resampled
from bertcompress.metrics.table import LOWER_IS_BETTER, METRICS, Metric, given

__all__ = [
    "LOWER_IS_BETTER",
    "METRICS",
    "Metric",
    "given",
    "interval",
    "mcnemar",
    "paired_difference",
    "resampled",
]
