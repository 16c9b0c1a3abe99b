"""Figures as text, the same in every table, card and sentence."""

from __future__ import annotations

from bertcompress.measure.scores import Score
from bertcompress.report.rows import DeploymentRow, ReportData

__all__ = [
    "NOT_MEASURED",
    "cost_line",
    "count",
    "percent",
    "retention_cell",
    "score_cell",
    "share",
    "shown",
]

NOT_MEASURED = "not measured"


def percent(value: float) -> str:
    """Return a share in percent, with one decimal."""
    return f"{100 * value:.1f} %"


def shown(value: float | None, form: str) -> str:
    """Return the value in this format, or that it was not measured."""
    return NOT_MEASURED if value is None else format(value, form)


def count(value: float | None) -> str:
    """Return a count in thousands (k), millions (M) or billions (G)."""
    if value is None:
        return NOT_MEASURED
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.0f}"


def score_cell(score: Score | None) -> str:
    """Return a score with its 95 % interval."""
    if score is None:
        return NOT_MEASURED
    if score.ci_low is None or score.ci_high is None:
        return f"{score.value:.3f}"
    return f"{score.value:.3f} [{score.ci_low:.3f}, {score.ci_high:.3f}]"


def share(value: float | None) -> str:
    """Return a share in percent."""
    return NOT_MEASURED if value is None else percent(value)


def retention_cell(row: DeploymentRow) -> str:
    """Return the retention with its interval, where it has one."""
    if row.retention is None or row.retention_low is None or row.retention_high is None:
        return share(row.retention)
    return f"{percent(row.retention)} [{percent(row.retention_low)}, {percent(row.retention_high)}]"


def cost_line(report: ReportData) -> str:
    """Return the cost of all stages in one line."""
    costs = [stage.cost for stage in report.stages if stage.cost]
    if not costs:
        return f"Cost: {NOT_MEASURED}"
    peaks = [cost.peak_memory_mb for cost in costs if cost.peak_memory_mb is not None]
    peak = shown(max(peaks, default=None), ".0f")
    reused = sum(cost.seconds for cost in costs if cost.reused) / 60
    again = f", of which {reused:.1f} min reused" if reused else ""
    return (
        f"Cost: {sum(cost.seconds for cost in costs) / 60:.1f} min{again}; "
        f"{sum(cost.steps or 0 for cost in costs)} steps; peak memory {peak} MB"
    )
