"""Metrics of summed statistics, their 95 % intervals, and paired tests on the same rows."""

from bertcompress.metrics.bootstrap import (
    SIGNIFICANT,
    kinds,
    least_p,
    mcnemar,
    p_value,
    percentiles,
    resampled,
)
from bertcompress.metrics.table import METRICS, Metric, given

__all__ = [
    "METRICS",
    "SIGNIFICANT",
    "Metric",
    "given",
    "kinds",
    "least_p",
    "mcnemar",
    "p_value",
    "percentiles",
    "resampled",
]
