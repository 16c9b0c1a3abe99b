"""Figures from the rows of a report. Nothing here touches pyplot's global state."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bertcompress.report.drawing import (
    Point,
    Theme,
    bars_of,
    caption,
    join_pairs,
    kept_bars,
    lines,
    name_points,
    new_figure,
    scatter,
    series,
    style,
)
from bertcompress.report.rows import DeploymentRow, ReportData

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bertcompress.measure import LayerRow

__all__ = [
    "figure_bytes",
    "figures",
    "per_layer_shape",
    "save_figures",
    "score_vs_latency",
    "score_vs_size",
    "training_curves",
    "where_bytes_are",
]


def figures(report: ReportData, theme: Theme = "light") -> dict[str, Figure]:
    """Return the figures that this report has the data for, by name."""
    drawn: dict[str, Figure] = {}
    if any(row.latency and row.headline for _, row in report.compared):
        drawn["score_vs_latency"] = score_vs_latency(report, theme)
    if any(row.headline for _, row in report.compared):
        drawn["score_vs_size"] = score_vs_size(report, theme)
    if any(not row.simulated for _, row in report.compared):
        drawn["where_bytes_are"] = where_bytes_are(report, theme)
    if any(layer.cut for stage in report.stages for layer in stage.edits):
        drawn["per_layer_shape"] = per_layer_shape(report, theme)
    trained = [h for stage in report.stages if len(h := stage.facts.get("history") or ()) > 1]
    if trained:
        drawn["training_curves"] = training_curves(trained[-1], theme)
    return drawn


def save_figures(report: ReportData, folder: Path) -> list[Path]:
    """Write each figure as SVG and PNG into `folder` and return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures(report).items():
        for kind in ("svg", "png"):
            paths.append(folder / f"{name}.{kind}")
            paths[-1].write_bytes(figure_bytes(figure, kind))
    return paths


def score_vs_latency(report: ReportData, theme: Theme = "light") -> Figure:
    """Return headline score against median latency, one panel per batch size and length."""
    settings = list(
        dict.fromkeys((t.batch, t.length) for _, row in report.compared for t in row.latency)
    )[:4]
    with style(theme):
        across, down = min(max(len(settings), 1), 2), 1 + (len(settings) > 2)
        figure = new_figure(4.7 * across + 0.6, 3.7 * down + 0.4)
        grid = figure.subplots(down, across, sharey=True, squeeze=False)
        panels = grid.ravel()
        drawn = []
        for axes, (batch, length) in zip(panels, settings, strict=False):
            points = [
                Point(time.p50_ms, row, f"{row.runtime} {row.precision}", compressed)
                for compressed, row in _sided(report)
                for time in row.latency
                if (time.batch, time.length) == (batch, length)
            ]
            texts = f"length {length}" if isinstance(length, int) else "the task's own lengths"
            scatter(axes, points, theme)
            join_pairs(axes, points, theme)
            drawn.append((axes, points))
            axes.set_title(f"batch {batch}, {texts}")
            axes.set_xlabel("median latency (ms), left is faster")
        for unused in panels[len(settings) :]:
            unused.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel(_score_label(report))
        caption(figure, theme)
        name_points(figure, drawn, theme)
    return figure


def score_vs_size(report: ReportData, theme: Theme = "light") -> Figure:
    """Return headline score against shipped bytes; simulated deployments are left out."""
    with style(theme):
        figure = new_figure(5.6, 4.0)
        axes = figure.subplots()
        points = [
            Point(row.size_mb, row, f"{row.runtime} {row.precision}", compressed)
            for compressed, row in _sided(report)
            if not row.simulated
        ]
        scatter(axes, points, theme)
        axes.set_xlabel("size (MB = 10$^6$ bytes shipped)")
        axes.set_ylabel(_score_label(report))
        caption(figure, theme)
        name_points(figure, [(axes, points)], theme)
    return figure


def where_bytes_are(rows: ReportData | Sequence[LayerRow], theme: Theme = "light") -> Figure:
    """Return bytes as bars: encoder and rest of each deployment, or each part of one model."""
    if isinstance(rows, ReportData):
        bars = [
            (f"{_side(compressed)}\n{row.label}", row.size_mb, row.encoder_mb or 0.0)
            for compressed, row in _sided(rows)
            if not row.simulated
        ]
    else:
        bars = [(row.name, row.bytes / 1e6, row.bytes / 1e6) for row in rows]
    with style(theme):
        figure = new_figure(5.6, 0.9 + 0.55 * len(bars))
        axes = figure.subplots()
        bars_of(axes, bars, theme)
        axes.set_xlabel("MB (10$^6$ bytes)")
    return figure


def per_layer_shape(report: ReportData, theme: Theme = "light") -> Figure:
    """Return heads and neurons kept in each layer, over what the original had."""
    cut = next((stage for stage in reversed(report.stages) if stage.edits), None)
    layers = cut.edits if cut else ()
    names = [str(layer.layer) for layer in layers]
    with style(theme):
        figure = new_figure(max(5.6, 0.8 * len(layers)), 3.2)
        heads, neurons = figure.subplots(1, 2)
        kept_bars(
            heads, names, [(x.heads, x.heads_before) for x in layers], "attention heads", theme
        )
        kept_bars(
            neurons, names, [(x.neurons, x.neurons_before) for x in layers], "FFN neurons", theme
        )
    return figure


def training_curves(history: Sequence[Mapping[str, Any]], theme: Theme = "light") -> Figure:
    """Return loss and selection score over the steps. `history`: rows as in `log_history`."""
    skipped = ("runtime", "per_second", "loss", "epoch", "step")
    scores = sorted(
        {k for row in history for k in row if k.startswith("eval_") and not k.endswith(skipped)}
    )
    curves = {name: series(history, name) for name in ("loss", "eval_loss", *scores)}
    with style(theme):
        figure = new_figure(6.4, 5.0 if scores else 2.8)
        panels = figure.subplots(2 if scores else 1, 1, sharex=True, squeeze=False)[:, 0]
        lines(panels[0], {"training": curves["loss"], "selection": curves["eval_loss"]}, theme)
        panels[0].set_ylabel("loss")
        if scores:
            lines(panels[1], {n.removeprefix("eval_"): curves[n] for n in scores}, theme)
            panels[1].set_ylabel("score on the selection split")
        panels[-1].set_xlabel("optimizer step")
    return figure


def _sided(report: ReportData) -> list[tuple[bool, DeploymentRow]]:
    """Return (is compressed, deployment) of the baseline and of the last stage."""
    return [(stage.name != report.verdict.baseline, row) for stage, row in report.compared]


def _side(compressed: bool) -> str:
    return "compressed" if compressed else "baseline"


def figure_bytes(figure: Figure, kind: Literal["svg", "png"]) -> bytes:
    """Return the figure as a file; the same report always gives the same bytes."""
    stream = io.BytesIO()
    with style("light"):
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(stream, format=kind, dpi=150, metadata=metadata)
    return stream.getvalue()


def _score_label(report: ReportData) -> str:
    names = (row.headline.metric for _, row in report.compared if row.headline)
    return f"{next(names, 'score')} (bars: 95 % interval)"
