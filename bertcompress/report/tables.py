"""The tables of a report as plain text cells: one content for Markdown, HTML and the terminal.

A table is a list of columns, each with what it shows of a line. A cell never stays empty: what was
not measured says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

from bertcompress.measure import Cost, Latency, Score, ratio_claim, speed_claim
from bertcompress.report.alarms import at_chance
from bertcompress.report.cells import (
    NOT_MEASURED,
    count,
    percent,
    retention_cell,
    score_cell,
    share,
    shown,
)
from bertcompress.report.rows import Control, DeploymentRow, LayerShape, ReportData, Stage
from bertcompress.report.speed import best_dense, judged

__all__ = ["Column", "Table", "cost", "overview", "shape", "story", "tables"]

BASELINE = "baseline"

L = TypeVar("L")
"""What a line of a table is about."""


@dataclass(frozen=True)
class Column(Generic[L]):
    """A heading and what stands under it; `brief` columns also fit a terminal of 80 characters."""

    name: str
    cell: Callable[[L], str]
    brief: bool = True
    number: bool = True


def words(name: str, cell: Callable[[L], str]) -> Column[L]:
    """Return a column of words, which are aligned to the left."""
    return Column(name, cell, number=False)


@dataclass(frozen=True)
class Table:
    """Rows of cells under columns; `brief` tables are also shown in a terminal."""

    title: str
    columns: tuple[Column[Any], ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    brief: bool = False


def build(
    title: str,
    lines: Iterable[L],
    columns: Sequence[Column[L]],
    note: str = "",
    brief: bool = False,
) -> Table:
    """Return the table of these lines."""
    rows = tuple(tuple(column.cell(line) for column in columns) for line in lines)
    return Table(title, tuple(columns), rows, note, brief)


def tables(report: ReportData) -> list[Table]:
    """Return all tables that have something to show, in reading order."""
    every = (story, overview, quality, footprint, speed, shape, cost, controls, metrics)
    made = [*(table(report) for table in every), environment(report)]
    return [table for table in made if table.rows]


@dataclass(frozen=True)
class _Line:
    """A stage and one of its deployments."""

    stage: Stage
    row: DeploymentRow | None
    baseline: bool
    """Whether the stage is the baseline."""

    @property
    def model(self) -> str:
        return BASELINE if self.baseline else self.stage.name

    def of(self, cell: Callable[[DeploymentRow], str]) -> str:
        return cell(self.row) if self.row else NOT_MEASURED


def on_row(name: str, cell: Callable[[DeploymentRow], str]) -> Column[_Line]:
    """Return a column of figures of a deployment."""
    return Column(name, lambda line: line.of(cell))


_MODEL: Column[_Line] = words("model", lambda x: x.model)
_RUNS_ON: Column[_Line] = words("runs on", lambda x: x.of(lambda row: row.label))
_MB = on_row("MB", lambda row: shown(row.size_mb, ".1f"))
_RETENTION: tuple[Column[_Line], ...] = (
    Column("retention", lambda x: BASELINE if x.baseline else x.of(lambda r: share(r.retention))),
)


def _kept(report: ReportData) -> bool:
    """Return whether retention means anything: not where the baseline is at chance."""
    main = report.reference.main
    return not at_chance(main.headline if main else None, report.task)


def _told(report: ReportData) -> list[_Line]:
    """Return every stage with its torch deployment, the last one with the judged one."""
    told = []
    for stage in report.stages:
        baseline = stage.name == report.verdict.baseline
        final = stage is report.last and not baseline
        told.append(_Line(stage, (judged(stage) if final else None) or stage.main, baseline))
    return told


def _deployed(report: ReportData) -> list[_Line]:
    """Return every deployment of the baseline and of the last stage."""
    return [_Line(stage, row, stage is report.reference) for stage, row in report.compared]


def story(report: ReportData) -> Table:
    """Return one row per stage."""
    told = _told(report)
    scores = [line.row.headline for line in told if line.row and line.row.headline]
    columns: list[Column[_Line]] = [
        words("stage", lambda x: x.stage.name),
        _RUNS_ON,
        on_row(
            f"{scores[0].metric if scores else 'score'} [95 % interval]",
            lambda row: score_cell(row.headline),
        ),
        *(_RETENTION if _kept(report) else ()),
        Column("encoder params", lambda x: count(x.stage.encoder_params)),
        Column("MACs at 128 tokens", lambda x: count(x.stage.macs), brief=False),
        _MB,
    ]
    note = "MB: 10^6 bytes of what has to be shipped."
    if _kept(report):
        note += " Retention: score / baseline score."
    return build("Stage by stage", told, columns, note, brief=True)


def overview(report: ReportData) -> Table:
    """Return one row per deployment, with the latency of each setting beside its score and size."""
    settings = dict.fromkeys((t.batch, t.length) for _, row in report.compared for t in row.latency)
    columns: list[Column[_Line]] = [
        words("model", lambda x: BASELINE if x.baseline else "compressed"),
        _RUNS_ON,
        on_row("score", lambda row: shown(row.headline.value if row.headline else None, ".3f")),
        _MB,
        *(_latency(report.reference, batch, length) for batch, length in settings),
        *(_first_pass(batch) for batch, length in settings if length == "task"),
    ]
    note = f"Speed: {NOT_MEASURED}."
    if settings:
        note = (
            "Median ms, and times faster than the best dense deployment of any runtime in the same "
            "run, where the rounds' spread allows to say so."
        )
    if any(length == "task" for _, length in settings):
        note += " Own lengths: the mean over the batches of each one's median."
    return build("Where it runs, and how fast", _deployed(report), columns, note, brief=True)


def _latency(reference: Stage, batch: int, length: int | str) -> Column[_Line]:
    def cell(row: DeploymentRow) -> str:
        time = next((t for t in row.latency if (t.batch, t.length) == (batch, length)), None)
        if time is None:
            return NOT_MEASURED
        return f"{time.batch_ms:.1f} ms{_factor(reference, time)}"

    texts = f"length {length}" if isinstance(length, int) else "own lengths"
    return on_row(f"batch {batch}, {texts}", cell)


def _factor(reference: Stage, time: Latency) -> str:
    """Return in brackets how much faster than the best dense deployment, where that stands."""
    dense = best_dense(reference, time.batch, time.length)
    if dense is None:
        return ""
    if time is dense[1]:
        return " (best dense)"
    claim = speed_claim(dense[1], time)
    return f" ({claim.words})" if claim.stands else ""


def _first_pass(batch: int) -> Column[_Line]:
    def cell(row: DeploymentRow) -> str:
        first = [t.first_batch_ms for t in row.latency if (t.batch, t.length) == (batch, "task")]
        return NOT_MEASURED if not first or first[0] is None else f"{first[0]:.1f} ms"

    return replace(on_row(f"first pass, batch {batch}", cell), brief=False)


def quality(report: ReportData) -> Table:
    """Return how each deployment of the baseline and of the last stage compares by score."""
    reference = report.reference.main

    def compared(name: str, cell: Callable[[DeploymentRow], str]) -> Column[_Line]:
        return on_row(name, lambda row: BASELINE if row is reference else cell(row))

    kept = _kept(report)
    columns = [
        _MODEL,
        _RUNS_ON,
        on_row("score [95 % interval]", lambda row: score_cell(row.headline)),
        *([compared("retention [95 % interval]", retention_cell)] if kept else ()),
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
    if (
        kept and report.task.get("problem") != "unlabelled"
    ):  # agreement has no chance level to correct for
        above = compared("above chance", lambda row: share(row.retention_chance_corrected))
        columns.insert(4, above)
        note = f"Above chance: retention of what exceeds the chance level. {note}"
    return build("Quality of each deployment", _deployed(report), columns, note)


def footprint(report: ReportData) -> Table:
    """Return size, memory and what is needed to load each deployment."""
    columns = [
        _MODEL,
        _RUNS_ON,
        _MB,
        on_row("encoder MB", lambda row: shown(row.encoder_mb, ".1f")),
        on_row("memory MB", lambda row: shown(row.memory_mb, ".0f")),
        on_row("load s", lambda row: shown(row.load_s, ".2f")),
        words("loads in", lambda x: x.of(lambda row: row.loads_in)),
    ]
    note = "Encoder MB: all weights but the embedding tables. Simulated precision is no size."
    return build("Size and loading of each deployment", _deployed(report), columns, note)


def speed(report: ReportData) -> Table:
    """Return one row per deployment, batch size and length."""
    columns: list[Column[tuple[_Line, Latency]]] = [
        words("model", lambda x: x[0].model),
        words("runs on", lambda x: _RUNS_ON.cell(x[0])),
        Column("batch", lambda x: str(x[1].batch)),
        Column("length", lambda x: str(x[1].length)),
        words("served", lambda x: x[1].serving),
        Column("threads", lambda x: str(x[1].threads)),
        Column("p50 ms", lambda x: shown(x[1].p50_ms, ".2f")),
        Column("p95 ms", lambda x: shown(x[1].p95_ms, ".2f")),
        Column("spread", lambda x: percent(x[1].spread)),
        Column("texts/s", lambda x: shown(x[1].throughput_per_s, ".0f")),
        Column("ms/text", lambda x: shown(x[1].text_ms, ".2f")),
        Column("ms/text, first pass", lambda x: shown(x[1].first_pass_ms, ".2f")),
        Column("vs best dense", lambda x: _against_dense(report.reference, x[1])),
        Column("vs torch fp32", lambda x: _against_torch(report.reference, x[1])),
    ]
    timed = [(line, time) for line in _deployed(report) if line.row for time in line.row.latency]
    note = (
        "Measured interleaved in one run, one process each. Spread: interquartile range of the "
        "rounds' medians over their median. Times faster: ratio of texts/s. Best dense: the "
        "fastest deployment of the baseline, of any runtime."
    )
    note += (
        " First pass: the first time that an opened model meets the task's texts. Served: dynamic, "
        "or single texts padded to 16, 32, 64 ... tokens, in one warmed model or in buckets, a "
        "static model each."
    )
    return build("Speed", timed, columns, note)


def _against_dense(reference: Stage, time: Latency) -> str:
    dense = best_dense(reference, time.batch, time.length)
    if dense is None:
        return NOT_MEASURED
    return "best dense" if time is dense[1] else speed_claim(dense[1], time).words


def _against_torch(reference: Stage, time: Latency) -> str:
    if time.speedup_vs_torch is None:
        return NOT_MEASURED
    if time.speedup_vs_torch == 1:
        return "itself"
    same = [t for t in (reference.main.latency if reference.main else ()) if t.batch == time.batch]
    spreads = [t.spread for t in same if t.length == time.length]
    return ratio_claim(time.speedup_vs_torch, time.spread, *spreads).words


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
        Column("method", lambda x: score_cell(_of_method(*x))),
        words("control", lambda x: x[1].name),
        Column("its score", lambda x: score_cell(x[1].score)),
        words("goes on", lambda x: "control" if x[1].goes_on else "method"),
    ]
    controlled = [(stage, stage.control) for stage in report.stages if stage.control]
    note = "Which of the two goes on was decided on the selection split."
    return build("Controls at equal data and steps", controlled, columns, note)


def _of_method(stage: Stage, control: Control) -> Score | None:
    if control.method is not None:
        return control.method.score
    return stage.main.headline if stage.main else None


def metrics(report: ReportData) -> Table:
    """Return every metric of every deployment compared."""
    columns: list[Column[tuple[_Line, Score]]] = [
        words("model", lambda x: x[0].model),
        words("runs on", lambda x: _RUNS_ON.cell(x[0])),
        words("metric", lambda x: x[1].metric),
        words("split", lambda x: x[1].split),
        Column("value [95 % interval]", lambda x: score_cell(x[1])),
        Column("rows", lambda x: str(x[1].n)),
    ]
    scored = [(line, one) for line in _deployed(report) if line.row for one in line.row.scores]
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
