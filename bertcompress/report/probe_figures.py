"""Figures of what probes measured: one for each that has curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bertcompress.report.drawing import Theme, legend_below, lines, new_figure, style, title
from bertcompress.report.rows import ReportData, Stage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["probe_figure", "probe_titles"]


def probe_titles(report: ReportData) -> dict[str, str]:
    """Return the title of each probe's figure, by the figure's name."""
    return {
        f"probe_{stage.name}": stage.measurement.title
        for stage in report.stages
        if stage.measurement and stage.measurement.curves
    }


def probe_figure(report: ReportData, name: str, theme: Theme = "light") -> Figure:
    """Return the curves of one probe."""
    measured = _stage(report, name).measurement
    assert measured is not None
    curves = {each.name: list(zip(each.x, each.y, strict=True)) for each in measured.curves}
    with style(theme):
        figure = new_figure(6.4, 3.6)
        axes = figure.subplots()
        lines(axes, curves, theme)
        axes.set_xlabel(measured.x_label)
        axes.set_ylabel(measured.y_label)
        title(figure, [measured.title])
        legend_below(figure, axes)
    return figure


def _stage(report: ReportData, name: str) -> Stage:
    return next(stage for stage in report.stages if f"probe_{stage.name}" == name)
