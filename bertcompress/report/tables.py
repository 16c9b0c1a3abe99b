"""The tables of a report as plain text cells: one content for Markdown, HTML and the terminal.

A cell never stays empty: what was not measured says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bertcompress.measure import Latency
from bertcompress.report.cells import (
    NOT_MEASURED,
    count,
    percent,
    retention_cell,
    score_cell,
    share,
    shown,
    times,
)
from bertcompress.report.rows import Control, DeploymentRow, ReportData, Stage
from bertcompress.report.verdict import judged

__all__ = ["Column", "Table", "cost_line", "tables"]

BASELINE = "baseline"


@dataclass(frozen=True)
class Column:
    """A heading; `brief` columns also fit a terminal of 80 characters."""

    name: str
    brief: bool = True
    number: bool = True


@dataclass(frozen=True)
class Table:
    """Rows of cells under columns; `brief` tables are also shown in a terminal."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    brief: bool = True


def told_by(report: ReportData, stage: Stage) -> DeploymentRow | None:
    """Return the deployment that stands for a stage: the judged one of the last, else torch."""
    final = stage is report.stages[-1] and stage.name != report.verdict.baseline
    return (judged(stage) if final else None) or stage.main


def tables(report: ReportData) -> list[Table]:
    """Return all tables that have something to show, in reading order."""
    every = (
        story(report),
        overview(report),
        quality(report),
        footprint(report),
        speed(report),
        shape(report),
        cost(report),
        controls(report),
        metrics(report),
        environment(report),
    )
    return [table for table in every if table.rows]


def story(report: ReportData) -> Table:
    """Return one row per stage."""
    return Table(
        title="Stage by stage",
        columns=(
            Column("stage", number=False),
            Column("runs on", number=False),
            Column(f"{_headline_name(report)} [95 % interval]"),
            Column("retention"),
            Column("encoder params"),
            Column("MACs", brief=False),
            Column("MB"),
        ),
        rows=tuple(_story_row(report, stage) for stage in report.stages),
        note="MB: 10^6 bytes of what has to be shipped. Retention: score / baseline score.",
    )


def _headline_name(report: ReportData) -> str:
    scores = (told.headline for stage in report.stages if (told := told_by(report, stage)))
    return next((score.metric for score in scores if score), "score")


def _story_row(report: ReportData, stage: Stage) -> tuple[str, ...]:
    row = told_by(report, stage)
    baseline = stage.name == report.verdict.baseline
    return (
        stage.name,
        row.label if row else NOT_MEASURED,
        score_cell(row.headline if row else None),
        BASELINE if baseline else share(row.retention if row else None),
        count(stage.encoder_params),
        count(stage.macs),
        shown(row.size_mb if row else None, ".1f"),
    )


def _compared(report: ReportData) -> list[tuple[str, DeploymentRow]]:
    baseline = report.verdict.baseline
    return [
        (BASELINE if stage.name == baseline else stage.name, row) for stage, row in report.compared
    ]


def overview(report: ReportData) -> Table:
    """Return one row per deployment, with the latency of each setting beside its score and size."""
    settings = list(
        dict.fromkeys((t.batch, t.length) for _, row in report.compared for t in row.latency)
    )
    return Table(
        title="Where it runs, and how fast",
        columns=(
            Column("model", number=False),
            Column("runs on", number=False),
            Column("score"),
            Column("MB"),
            *(Column(f"batch {batch}, {_length(length)}") for batch, length in settings),
        ),
        rows=tuple(
            (
                "compressed" if stage.name != report.verdict.baseline else BASELINE,
                row.label,
                shown(row.headline.value if row.headline else None, ".3f"),
                shown(row.size_mb, ".1f"),
                *(_latency_cell(row, setting) for setting in settings),
            )
            for stage, row in report.compared
        ),
        note="Median ms, and times faster than dense int8 of the same runtime in the same run."
        if settings
        else f"Speed: {NOT_MEASURED}.",
    )


def _length(length: int | str) -> str:
    return f"length {length}" if isinstance(length, int) else "own lengths"


def _latency_cell(row: DeploymentRow, setting: tuple[int, int | str]) -> str:
    time = next((t for t in row.latency if (t.batch, t.length) == setting), None)
    if time is None:
        return NOT_MEASURED
    factor = time.speedup_vs_dense_int8
    return f"{time.p50_ms:.1f} ms" + (f" ({factor:.2f}x)" if factor is not None else "")


def quality(report: ReportData) -> Table:
    """Return how each deployment of the baseline and of the last stage compares by score."""
    return Table(
        title="Quality of each deployment",
        columns=(
            Column("model", number=False),
            Column("runs on", number=False),
            Column("score [95 % interval]"),
            Column("retention [95 % interval]"),
            Column("above chance"),
            Column("flipped"),
            Column("p"),
        ),
        rows=tuple(_quality_row(report, model, row) for model, row in _compared(report)),
        note="Above chance: retention of what exceeds the chance level. Flipped: share of "
        "predictions that differ from the baseline's. p: paired test against the baseline.",
        brief=False,
    )


def _quality_row(report: ReportData, model: str, row: DeploymentRow) -> tuple[str, ...]:
    compared: tuple[str, ...] = (
        retention_cell(row),
        share(row.retention_chance_corrected),
        share(row.flipped),
        shown(row.p_value, ".2g"),
    )
    if row is report.reference.main:
        compared = (BASELINE,) * 4
    return (model, row.label, score_cell(row.headline), *compared)


def footprint(report: ReportData) -> Table:
    """Return size, memory and what is needed to load each deployment."""
    rows = [
        (
            model,
            row.label,
            shown(row.size_mb, ".1f"),
            shown(row.encoder_mb, ".1f"),
            shown(row.memory_mb, ".0f"),
            shown(row.load_s, ".2f"),
            row.loads_in,
        )
        for model, row in _compared(report)
    ]
    return Table(
        title="Size and loading of each deployment",
        columns=(
            Column("model", number=False),
            Column("runs on", number=False),
            Column("MB"),
            Column("encoder MB"),
            Column("memory MB"),
            Column("load s"),
            Column("loads in", number=False),
        ),
        rows=tuple(rows),
        note="Encoder MB: all weights but the embedding tables. Simulated precision is no size.",
        brief=False,
    )


def speed(report: ReportData) -> Table:
    """Return one row per deployment, batch size and length."""
    rows = [_speed_row(name, row, time) for name, row in _compared(report) for time in row.latency]
    return Table(
        title="Speed",
        columns=(
            Column("model", number=False),
            Column("runs on", number=False),
            Column("batch"),
            Column("length"),
            Column("threads"),
            Column("p50 ms"),
            Column("p95 ms"),
            Column("spread"),
            Column("texts/s"),
            Column("vs dense int8"),
            Column("vs torch fp32"),
        ),
        rows=tuple(rows),
        note="Measured interleaved in one run, one process each. Spread: interquartile range of "
        "the rounds' medians over their median.",
        brief=False,
    )


def _speed_row(model: str, row: DeploymentRow, time: Latency) -> tuple[str, ...]:
    return (
        model,
        row.label,
        str(time.batch),
        str(time.length),
        str(time.threads),
        shown(time.p50_ms, ".2f"),
        shown(time.p95_ms, ".2f"),
        percent(time.spread),
        shown(time.throughput_per_s, ".0f"),
        times(time.speedup_vs_dense_int8),
        times(time.speedup_vs_torch),
    )


def shape(report: ReportData) -> Table:
    """Return what is left of each layer after the last stage that cut something."""
    cut = next((stage for stage in reversed(report.stages) if stage.edits), None)
    rows = [
        (
            str(layer.layer),
            f"{layer.heads} of {layer.heads_before}",
            f"{layer.neurons} of {layer.neurons_before}",
        )
        for layer in (cut.edits if cut else ())
    ]
    return Table(
        title="What is left of each layer",
        columns=(Column("layer"), Column("heads"), Column("neurons")),
        rows=tuple(rows),
        brief=False,
    )


def cost(report: ReportData) -> Table:
    """Return one row per stage: time, steps, samples, memory."""
    rows = [
        (
            stage.name,
            shown(stage.cost.seconds / 60, ".1f"),
            shown(stage.cost.steps, "d"),
            shown(stage.cost.samples, "d"),
            shown(stage.cost.peak_memory_mb, ".0f"),
            "yes" if stage.cost.reused else "no",
        )
        for stage in report.stages
        if stage.cost
    ]
    return Table(
        title="What compressing cost",
        columns=(
            Column("stage", number=False),
            Column("minutes"),
            Column("steps"),
            Column("samples"),
            Column("peak memory MB"),
            Column("reused", number=False),
        ),
        rows=tuple(rows),
        note="A reused stage came from the store; its figures are those of the run that made it.",
        brief=False,
    )


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


def controls(report: ReportData) -> Table:
    """Return each result next to its control at equal steps."""
    rows = [
        (
            stage.name,
            score_cell(stage.main.headline if stage.main else None),
            stage.control.name,
            score_cell(stage.control.score),
        )
        for stage in report.stages
        if isinstance(stage.control, Control)
    ]
    return Table(
        title="Controls at equal data and steps",
        columns=(
            Column("stage", number=False),
            Column("result"),
            Column("control", number=False),
            Column("its score"),
        ),
        rows=tuple(rows),
        brief=False,
    )


def metrics(report: ReportData) -> Table:
    """Return every metric of every deployment compared."""
    rows = [
        (model, row.label, score.metric, score.split, score_cell(score), str(score.n))
        for model, row in _compared(report)
        for score in row.scores
    ]
    return Table(
        title="All metrics",
        columns=(
            Column("model", number=False),
            Column("runs on", number=False),
            Column("metric", number=False),
            Column("split", number=False),
            Column("value [95 % interval]"),
            Column("rows"),
        ),
        rows=tuple(rows),
        brief=False,
    )


def environment(report: ReportData) -> Table:
    """Return the machine and versions that the figures hold for."""
    rows = [(key, _plain(value)) for key, value in report.environment.items()]
    return Table(
        title="Environment",
        columns=(Column("what", number=False), Column("value", number=False)),
        rows=tuple(rows),
        brief=False,
    )


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(_plain(inner) for inner in value)
    return str(value)
