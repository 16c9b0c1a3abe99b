"""The tables of a report as plain text cells: one content for Markdown, HTML and the terminal.

A table is a list of columns, each with what it shows of a line. A cell never stays empty: what was
not measured says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from bertcompress.heads import HEADS, has_labels
from bertcompress.measure.scores import Cost, Score
from bertcompress.report.alarms import at_chance
from bertcompress.report.cells import (
    count,
    retention_cell,
    score_cell,
    share,
    shown,
)
from bertcompress.report.columns import (
    BASELINE,
    MB,
    MODEL,
    RUNS_ON,
    Column,
    Line,
    Table,
    build,
    deployed,
    on_row,
    words,
)
from bertcompress.report.opponents import beside
from bertcompress.report.other_models import others
from bertcompress.report.rows import (
    Control,
    DeploymentRow,
    LayerShape,
    Part,
    ReportData,
    Stage,
)
from bertcompress.report.speed import judged
from bertcompress.report.speed_tables import overview, speed

__all__ = ["Column", "Table", "cost", "overview", "shape", "story", "tables"]


def tables(report: ReportData) -> list[Table]:
    """Return all tables that have something to show, in reading order."""
    every = (
        *(story, overview, quality, beside, others, parts),
        *(footprint, speed, shape, cost, controls, metrics),
    )  # fmt: skip
    made = [*(table(report) for table in every), *measurements(report), environment(report)]
    return [table for table in made if table.rows]


SCORE = "score [95 % interval]"

_RETENTION: tuple[Column[Line], ...] = (
    Column("score kept", lambda x: BASELINE if x.baseline else x.of(lambda r: share(r.retention))),
)


def _kept(report: ReportData) -> bool:
    """Return whether retention means anything: not where the baseline is at chance."""
    main = report.reference.main
    return not at_chance(main.headline if main else None, report.task)


def _told(report: ReportData) -> list[Line]:
    """Return every stage with its torch deployment, the last one with the judged one."""
    told = []
    for stage in report.stages:
        if stage.measurement:
            continue
        baseline = stage.name == report.verdict.baseline
        final = stage is report.last and not baseline
        told.append(Line(stage, (judged(stage) if final else None) or stage.main, baseline))
    return told


def story(report: ReportData) -> Table:
    """Return one row per stage."""
    told = _told(report)
    scores = [line.row.headline for line in told if line.row and line.row.headline]
    columns: list[Column[Line]] = [
        words("stage", lambda x: x.stage.name),
        RUNS_ON,
        on_row(
            f"score ({scores[0].metric}) [95 % interval]" if scores else SCORE,
            lambda row: score_cell(row.headline),
        ),
        *(_RETENTION if _kept(report) else ()),
        Column("encoder parameters", lambda x: count(x.stage.encoder_params)),
        Column("MACs at 128 tokens", lambda x: count(x.stage.macs), brief=False),
        MB,
    ]
    note = "MB: 10^6 bytes of what has to be shipped."
    if _kept(report):
        note += " Score kept: score / baseline score."
    return build("Stage by stage", told, columns, note, brief=True)


def quality(report: ReportData) -> Table:
    """Return how each deployment of the baseline and of the last stage compares by score."""
    reference = report.reference.main

    def compared(name: str, cell: Callable[[DeploymentRow], str]) -> Column[Line]:
        return on_row(name, lambda row: BASELINE if row is reference else cell(row))

    kept = _kept(report)
    columns = [
        MODEL,
        RUNS_ON,
        on_row(SCORE, lambda row: score_cell(row.headline)),
        *([compared("score kept [95 % interval]", retention_cell)] if kept else ()),
        compared("flipped", lambda row: share(row.flipped)),
        compared("p", lambda row: shown(row.p_value, ".2g")),
    ]
    note = (
        "Flipped: share of predictions that differ from the baseline's. "
        "p: paired test against the baseline."
    )
    if any(row.batch_flips is not None for _, row in report.compared):
        columns.append(on_row("changed in batches", lambda row: share(row.batch_flips)))
        note += " Changed in batches: against one text at a time, as int8 is scored."
    if kept and (has_labels(report.task) or _has_chance(report)):
        above = compared("kept above chance", lambda row: share(row.retention_chance_corrected))
        columns.insert(4, above)
        note = f"Kept above chance: share of what exceeds the chance level. {note}"
    return build("Quality of each deployment", deployed(report), columns, note)


def _has_chance(report: ReportData) -> bool:
    """Return whether a chance level is known of what is compared without labels."""
    return any(row.retention_chance_corrected is not None for _, row in report.compared)


def parts(report: ReportData) -> Table:
    """Return the score of each part of the validation split, before and after."""
    before, last = report.reference.main, report.last
    after = judged(last) or last.main
    sides = [{part.name: part for part in row.parts} if row else {} for row in (before, after)]
    names = sorted({name for side in sides for name in side})

    def value(side: Mapping[str, Part]) -> Callable[[str], str]:
        return lambda name: shown(side[name].value if name in side else 0.0, ".3f")

    columns: list[Column[str]] = [
        words("part", lambda name: name),
        Column("given", lambda name: str(next(s[name].n for s in sides if name in s))),
        Column(BASELINE, value(sides[0])),
        Column(f"compressed ({after.label})" if after else "compressed", value(sides[1])),
    ]
    head = HEADS.get(str(report.task.get("problem")))
    title, told = (head.parts_title, head.parts_note) if head else ("", "")
    note = f"Given: how many of each the validation split has. {told}".strip()
    return build(title or "Parts", names, columns, note)


def footprint(report: ReportData) -> Table:
    """Return size, memory and what is needed to load each deployment."""
    columns = [
        MODEL,
        RUNS_ON,
        MB,
        on_row("encoder MB", lambda row: shown(row.encoder_mb, ".1f")),
        on_row("memory MB", lambda row: shown(row.memory_mb, ".0f")),
        on_row("load s", lambda row: shown(row.load_s, ".2f")),
        words("loads in", lambda x: x.of(lambda row: row.loads_in)),
    ]
    note = "Encoder MB: all weights but the embedding tables. Simulated precision is no size."
    return build("Size and loading of each deployment", deployed(report), columns, note)


def shape(report: ReportData) -> Table:
    """Return what the layers are after the last stage that changed them."""
    changed = next((stage.edits for stage in reversed(report.stages) if stage.edits), ())
    columns: list[Column[LayerShape]] = [Column("layer", lambda x: str(x.layer))]
    if any(layer.cut for layer in changed):
        columns += [
            Column("heads", lambda x: f"{x.heads} of {x.heads_before}"),
            Column("neurons", lambda x: f"{x.neurons} of {x.neurons_before}"),
        ]
    if any(layer.shared for layer in changed):
        columns += [
            words("attention weights", lambda x: _owner(x.attention_of)),
            words("feed-forward weights", lambda x: _owner(x.ffn_of)),
        ]
    for part in dict.fromkeys(part for layer in changed for part in layer.ranks):
        columns.append(Column(f"rank of {part}", partial(_rank, part)))
    return build("What is left of each layer", changed, columns)


def _owner(layer: int | None) -> str:
    return "its own" if layer is None else f"of layer {layer}"


def _rank(part: str, layer: LayerShape) -> str:
    return str(layer.ranks.get(part, "full"))


def cost(report: ReportData) -> Table:
    """Return one row per stage: time, steps, samples, memory."""
    columns: list[Column[tuple[str, Cost]]] = [
        words("stage", lambda x: x[0]),
        Column("minutes", lambda x: shown(x[1].seconds / 60, ".1f")),
        Column("steps", lambda x: shown(x[1].steps, "d")),
        Column("samples", lambda x: shown(x[1].samples, "d")),
        Column("peak memory MB", lambda x: shown(x[1].peak_memory_mb, ".0f")),
        words("reused", lambda x: "yes" if x[1].reused else "no"),
    ]
    paid = [(stage.name, stage.cost) for stage in report.stages if stage.cost]
    note = "A reused stage came from the store; its figures are those of the run that made it."
    return build("What compressing cost", paid, columns, note)


def controls(report: ReportData) -> Table:
    """Return each method next to its control at equal steps, and which of the two went on."""
    columns: list[Column[tuple[Stage, Control]]] = [
        words("stage", lambda x: x[0].name),
        Column("score of the method", lambda x: score_cell(_of_method(*x))),
        words("control", lambda x: x[1].name),
        Column("score of the control", lambda x: score_cell(x[1].score)),
        words("goes on", lambda x: "control" if x[1].goes_on else "method"),
    ]
    controlled = [(stage, each) for stage in report.stages for each in stage.controls]
    note = "What goes on was decided on the selection split; a control that is larger never does."
    return build("Controls at equal data and steps", controlled, columns, note)


def _of_method(stage: Stage, control: Control) -> Score | None:
    if control.method is not None:
        return control.method.score
    return stage.main.headline if stage.main else None


def measurements(report: ReportData) -> list[Table]:
    """Return what each probe measured, with its words below."""
    columns: list[Column[tuple[str, float]]] = [
        words("figure", lambda x: x[0]),
        Column("value", lambda x: f"{x[1]:.4g}"),
    ]
    return [
        build(
            f"{stage.name}: {stage.measurement.title}",
            stage.measurement.figures.items(),
            columns,
            " ".join(stage.measurement.words),
            brief=True,
        )
        for stage in report.stages
        if stage.measurement
    ]


def metrics(report: ReportData) -> Table:
    """Return every metric of every deployment compared."""
    columns: list[Column[tuple[Line, Score]]] = [
        words("model", lambda x: MODEL.cell(x[0])),
        words("runs on", lambda x: RUNS_ON.cell(x[0])),
        words("metric", lambda x: x[1].metric),
        words("split", lambda x: x[1].split),
        Column(SCORE, lambda x: score_cell(x[1])),
        Column("rows", lambda x: str(x[1].n)),
    ]
    scored = [(line, one) for line in deployed(report) if line.row for one in line.row.scores]
    return build("All metrics", scored, columns)


def environment(report: ReportData) -> Table:
    """Return the machine and versions that the figures hold for."""
    columns: list[Column[tuple[str, Any]]] = [
        words("what", lambda x: x[0]),
        words("value", lambda x: _plain(x[1])),
    ]
    return build("Environment", report.environment.items(), columns)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(_plain(inner) for inner in value)
    return str(value)
