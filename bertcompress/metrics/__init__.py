"""Metrics of summed statistics, their 95 % intervals, and paired tests on the same rows."""

from bertcompress.metrics.bootstrap import kinds, mcnemar, p_value, percentiles, resampled
from bertcompress.metrics.table import METRICS, Metric, given

__all__ = [
    "METRICS",
    "Metric",
    "given",
    "kinds",
    "mcnemar",
    "p_value",
    "percentiles",
    "resampled",
]
