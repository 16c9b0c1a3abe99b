"""Figures from the rows of a report. Nothing here touches pyplot's global state."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bertcompress.report.columns import BASELINE, COMPRESSED
from bertcompress.report.drawing import (
    Point,
    Points,
    Theme,
    bars_of,
    caption,
    distinct_colour,
    inks,
    join_pairs,
    kept_bars,
    legend_below,
    lines,
    new_figure,
    plain,
    scatter,
    series,
    style,
    title,
)
from bertcompress.report.head import short_name
from bertcompress.report.labelling import name_points
from bertcompress.report.probe_figures import probe_figure, probe_titles
from bertcompress.report.rows import DeploymentRow, ReportData
from bertcompress.report.speed import served, texts_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bertcompress.measure.footprint import LayerRow

__all__ = [
    "RESHAPED",
    "Compared",
    "comparison_figure",
    "figure_bytes",
    "figure_names",
    "figures",
    "per_layer_shape",
    "save_figures",
    "score_vs_latency",
    "score_vs_size",
    "training_curves",
    "trainings",
    "where_bytes_are",
]

History = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Compared:
    """One of several runs that are compared."""

    name: str
    recipe: str
    row: DeploymentRow
    kept: str
    ms: float | None
    host: str
    dominated_by: tuple[str, ...] = ()

    @property
    def plain(self) -> dict[str, Any]:
        """Its figures, JSON-plain."""
        score = self.row.headline
        return {
            "run": self.name,
            "recipe": self.recipe,
            "runtime": self.row.runtime,
            "precision": self.row.precision,
            "path": self.row.path,
            "metric": score.metric if score else None,
            "score": score.value if score else None,
            "score_low": score.ci_low if score else None,
            "score_high": score.ci_high if score else None,
            "score_kept": self.row.retention,
            "size_mb": self.row.size_mb,
            "ms": self.ms,
            "host": self.host,
            "dominated_by": list(self.dominated_by),
        }


RESHAPED = ("score_vs_latency", "per_layer_shape")
"""Figures that are laid out otherwise for a narrow screen."""


def figure_names(report: ReportData) -> tuple[str, ...]:
    """Return the names of the figures that a report has the data for, the most telling first."""
    real = [row for _, row in report.compared if not row.simulated]
    has = {
        "score_vs_latency": any(row.latency and row.headline for _, row in report.compared),
        "score_vs_size": any(row.headline for _, row in report.compared),
        "where_bytes_are": bool(real),
        "per_layer_shape": any(layer.cut for stage in report.stages for layer in stage.edits),
        "training_curves": bool(trainings(report)),
    }
    return (*(name for name, drawn in has.items() if drawn), *probe_titles(report))


def figures(
    report: ReportData, theme: Theme = "light", *, narrow: bool = False
) -> dict[str, Figure]:
    """Return the figures that this report has the data for, by name.

    `narrow`: only those that are laid out otherwise on a narrow screen, as they are there.
    """
    draw: dict[str, Callable[..., Figure]] = {
        "score_vs_latency": partial(score_vs_latency, narrow=narrow),
        "score_vs_size": score_vs_size,
        "where_bytes_are": where_bytes_are,
        "per_layer_shape": partial(per_layer_shape, narrow=narrow),
        "training_curves": training_curves,
        **{name: partial(_probe, name) for name in probe_titles(report)},
    }
    wanted = [name for name in figure_names(report) if name in RESHAPED or not narrow]
    return {name: draw[name](report, theme) for name in wanted}


def _probe(name: str, report: ReportData, theme: Theme) -> Figure:
    return probe_figure(report, name, theme)


def save_figures(report: ReportData, folder: Path) -> list[Path]:
    """Write each figure as SVG and PNG into `folder` and return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures(report).items():
        for kind in ("svg", "png"):
            paths.append(folder / f"{name}.{kind}")
            paths[-1].write_bytes(figure_bytes(figure, kind))
    return paths


def score_vs_latency(report: ReportData, theme: Theme = "light", *, narrow: bool = False) -> Figure:
    """Return headline score against median latency, one panel per batch size and length."""
    shapes = list(
        dict.fromkeys((t.batch, t.length) for _, row in report.compared for t in row.latency)
    )
    with style(theme):
        across = 1 if narrow or len(shapes) < 2 else 2
        down = -(-max(len(shapes), 1) // across)
        figure = new_figure(4.9 * across + 0.7, 3.6 * down + 0.9)
        grid = figure.subplots(down, across, sharey=True, squeeze=False)
        panels = grid.ravel()
        drawn = []
        for axes, (batch, length) in zip(panels, shapes, strict=False):
            points = [
                Point(time.batch_ms, row, row.label, compressed)
                for compressed, row in _sided(report)
                for time in row.latency
                if (time.batch, time.length) == (batch, length)
            ]
            scatter(axes, points, theme)
            join_pairs(axes, points, theme)
            drawn.append((axes, points))
            axes.set_title(f"{served(batch)} {texts_of(length)}")
            axes.set_xlabel("median ms, log scale; left is faster")
        for unused in panels[len(shapes) :]:
            unused.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel(_score_label(report))
        title(figure, _title(report, f"{_metric(report)} against latency"))
        caption(figure, theme)
        name_points(figure, drawn, theme)
    return figure


def score_vs_size(report: ReportData, theme: Theme = "light") -> Figure:
    """Return headline score against shipped bytes; simulated deployments are left out."""
    with style(theme):
        figure = new_figure(5.6, 4.5)
        axes = figure.subplots()
        points = [
            Point(row.size_mb, row, row.label, compressed)
            for compressed, row in _sided(report)
            if not row.simulated
        ]
        scatter(axes, points, theme)
        axes.set_xlabel("MB (10⁶ bytes shipped), log scale; left is smaller")
        axes.set_ylabel(_score_label(report))
        title(figure, _title(report, f"{_metric(report)} against size", host=False))
        caption(figure, theme)
        name_points(figure, [(axes, points)], theme)
    return figure


def comparison_figure(
    what: str,
    runs: Sequence[Compared],
    shape: tuple[int, int | str] | None,
    theme: Theme = "light",
    *,
    narrow: bool = False,
) -> Figure:
    """Return score against ms, where times can be compared, and against MB; one point a run."""
    metric = next((run.row.headline.metric for run in runs if run.row.headline), "score")
    panels: list[tuple[str, Callable[[Compared], float | None]]] = []
    if shape is not None:
        place = f"{served(shape[0])} {texts_of(shape[1])}"
        panels.append((f"ms for {place}, log scale; left is faster", lambda run: run.ms))
    panels.append(("MB shipped, log scale; left is smaller", lambda run: run.row.size_mb))
    count, best = len(panels), [run.name for run in runs if not run.dominated_by]
    colours = {name: distinct_colour(i, theme) for i, name in enumerate(best)}
    colours |= {run.name: inks(theme)[1] for run in runs if run.dominated_by}
    with style(theme):
        figure = new_figure(*((5.6, 4.1 * count + 0.7) if narrow else (4.9 * count + 0.7, 4.7)))
        grid = figure.subplots(*((count, 1) if narrow else (1, count)), sharey=True, squeeze=False)
        drawn = []
        for axes, (label, value) in zip(grid.ravel(), panels, strict=True):
            points = [
                Point(x, run.row, run.name, not run.dominated_by, colours[run.name])
                for run in runs
                if (x := value(run)) is not None
            ]
            scatter(axes, points, theme)
            drawn.append((axes, points))
            axes.set_xlabel(label)
        for axes in grid[:, 0]:
            axes.set_ylabel(f"{metric} (bars: 95 % interval)")
        hosts = {run.host for run in runs}
        title(figure, [f"{metric[:1].upper()}{metric[1:]} of {what}", *(hosts if shape else ())])
        caption(figure, theme, "grey, named above: dominated by another run")
        name_points(figure, drawn, theme)
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
        bars = [(plain(row.name), row.bytes / 1e6, row.bytes / 1e6) for row in rows]
    with style(theme):
        figure = new_figure(5.6, 1.5 + 0.58 * len(bars))
        axes = figure.subplots()
        bars_of(axes, bars, theme)
        axes.set_xlabel("MB (10⁶ bytes)")
        if isinstance(rows, ReportData):
            title(figure, _title(rows, "Where the bytes are", host=False))
    return figure


def per_layer_shape(report: ReportData, theme: Theme = "light", *, narrow: bool = False) -> Figure:
    """Return heads and neurons kept in each layer, over what the original had."""
    cut = next((stage for stage in reversed(report.stages) if stage.edits), None)
    layers = cut.edits if cut else ()
    names = [str(layer.layer) for layer in layers]
    wide = max(2.8, 0.4 * len(layers))
    with style(theme):
        figure = new_figure(*((max(5.6, wide), 6.2) if narrow else (2 * wide, 3.6)))
        heads, neurons = figure.subplots(*((2, 1) if narrow else (1, 2)))
        kept_bars(
            heads, names, [(x.heads, x.heads_before) for x in layers], "attention heads", theme
        )
        kept_bars(
            neurons, names, [(x.neurons, x.neurons_before) for x in layers], "FFN neurons", theme
        )
        title(figure, _title(report, "What is left of each layer", host=False))
    return figure


def trainings(report: ReportData) -> dict[str, History]:
    """Return the history of each training by name: the stages', and those of their controls."""
    found: dict[str, History] = {}
    for stage in report.stages:
        if stage.measurement:
            continue
        winner = stage.replaced_by
        own = stage.findings.history
        found[stage.name] = winner.method.history if winner and winner.method else own
        for control in stage.controls:
            history = own if control is winner and winner.method else control.history
            found[f"{stage.name}, control ({control.name})"] = history
    return {name: history for name, history in found.items() if len(history) > 1}


def training_curves(
    told: ReportData | Sequence[Mapping[str, Any]], theme: Theme = "light"
) -> Figure:
    """Return loss and selection score over the steps, of all trainings of a report in one figure.

    `told`: a report, or one history: rows as in `log_history`.
    """
    histories = trainings(told) if isinstance(told, ReportData) else {"training": told}
    skipped = ("runtime", "per_second", "loss", "epoch", "step")
    scores = sorted(
        {
            key
            for history in histories.values()
            for row in history
            for key in row
            if key.startswith("eval_") and not key.endswith(skipped)
        }
    )

    def curves(name: str) -> dict[str, Points]:
        return {which: series(history, name) for which, history in histories.items()}

    with style(theme):
        figure = new_figure(6.4, 3.4 + 2.3 * len(scores) + 0.25 * len(histories))
        panels = figure.subplots(1 + len(scores), 1, sharex=True, squeeze=False)[:, 0]
        lines(panels[0], curves("loss"), theme)
        lines(
            panels[0], {f"{n}, selection": p for n, p in curves("eval_loss").items()}, theme, True
        )
        panels[0].set_ylabel("loss (dashed: selection)")
        for axes, score in zip(panels[1:], scores, strict=True):
            lines(axes, curves(score), theme)
            name = score.removeprefix("eval_")
            axes.set_ylabel("selection score" if name == "selection" else name)
        panels[-1].set_xlabel("optimizer step of each training")
        if isinstance(told, ReportData):
            title(figure, _title(told, "Training: baseline, method and control"))
        legend_below(figure, panels[-1] if scores else panels[0])
    return figure


def _title(report: ReportData, what: str, host: bool = True) -> list[str]:
    """Return the lines above a figure: what it shows, model and task, processor and threads."""
    model, task = (
        short_name(report.recipe.get("model", "a model")),
        report.task.get("name", "a task"),
    )
    lines = [
        f"{what[:1].upper()}{what[1:]}: {model} on {short_name(task) if _local(task) else task}"
    ]
    processor, threads = (report.environment.get(key) for key in ("processor", "threads"))
    parts = [str(processor) if processor else "", f"{threads} threads" if threads else ""]
    return [*lines, ", ".join(filter(None, parts))] if host else lines


def _local(task: object) -> bool:
    """Return whether a task is named by a file: a folder of the user's is no business of others."""
    return str(task).startswith(("/", ".", "~")) or "\\" in str(task)


def _metric(report: ReportData) -> str:
    names = (row.headline.metric for _, row in report.compared if row.headline)
    return next(names, "score")


def _sided(report: ReportData) -> list[tuple[bool, DeploymentRow]]:
    """Return (is compressed, deployment) of the baseline and of the last stage."""
    return [(stage.name != report.verdict.baseline, row) for stage, row in report.compared]


def _side(compressed: bool) -> str:
    return COMPRESSED if compressed else BASELINE


def figure_bytes(figure: Figure, kind: Literal["svg", "png"]) -> bytes:
    """Return the figure as a file; the same report always gives the same bytes."""
    stream = io.BytesIO()
    with style("light"):
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(stream, format=kind, dpi=150, metadata=metadata)
    return stream.getvalue()


def _score_label(report: ReportData) -> str:
    return f"{_metric(report)} (bars: 95 % interval)"
