"""The tables of a report that show speed, against the best dense deployment of any runtime."""

from __future__ import annotations

from dataclasses import replace

from bertcompress.measure.timing.candidates import Latency
from bertcompress.measure.timing.claims import speed_claim
from bertcompress.report.cells import NOT_MEASURED, percent, shown
from bertcompress.report.columns import (
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
from bertcompress.report.rows import DeploymentRow, ReportData, Stage
from bertcompress.report.speed import best_dense, served, torch_claim

__all__ = ["overview", "shape_words", "speed"]


def overview(report: ReportData) -> Table:
    """Return one row per deployment, with the latency of each setting beside its score and size."""
    settings = dict.fromkeys((t.batch, t.length) for _, row in report.compared for t in row.latency)
    columns: list[Column[Line]] = [
        MODEL,
        RUNS_ON,
        on_row("score", lambda row: shown(row.headline.value if row.headline else None, ".3f")),
        MB,
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
    own = (t for _, row in report.compared for t in row.latency if t.texts != "texts")
    if named := dict.fromkeys(served(t.batch, t.texts) for t in own):
        note += f" They are {' and '.join(named)}."
    return build("Where it runs, and how fast", deployed(report), columns, note, brief=True)


def _latency(reference: Stage, batch: int, length: int | str) -> Column[Line]:
    def cell(row: DeploymentRow) -> str:
        time = next((t for t in row.latency if (t.batch, t.length) == (batch, length)), None)
        if time is None:
            return NOT_MEASURED
        return f"{time.batch_ms:.1f} ms{_factor(reference, time)}"

    return on_row(shape_words(batch, length), cell)


def shape_words(batch: int, length: int | str) -> str:
    """Return the heading of a batch size and length."""
    return f"batch {batch}, {f'length {length}' if isinstance(length, int) else _length(length)}"


def _length(length: int | str, texts: str = "texts") -> str:
    if isinstance(length, int):
        return str(length)
    return "own lengths" if texts == "texts" else f"own lengths of {texts}"


def _factor(reference: Stage, time: Latency) -> str:
    """Return in brackets how much faster than the best dense deployment, where that stands."""
    dense = best_dense(reference, time.batch, time.length)
    if dense is None:
        return ""
    if time is dense[1]:
        return " (best dense)"
    claim = speed_claim(dense[1], time)
    return f" ({claim.words})" if claim.stands else ""


def _first_pass(batch: int) -> Column[Line]:
    def cell(row: DeploymentRow) -> str:
        first = [t.first_batch_ms for t in row.latency if (t.batch, t.length) == (batch, "task")]
        return NOT_MEASURED if not first or first[0] is None else f"{first[0]:.1f} ms"

    return replace(on_row(f"first pass, batch {batch}", cell), brief=False)


def speed(report: ReportData) -> Table:
    """Return one row per deployment, batch size and length."""
    columns: list[Column[tuple[Line, Latency]]] = [
        words("model", lambda x: MODEL.cell(x[0])),
        words("runs on", lambda x: RUNS_ON.cell(x[0])),
        Column("batch", lambda x: str(x[1].batch)),
        Column("length", lambda x: _length(x[1].length, x[1].texts)),
        words("served", lambda x: x[1].serving),
        Column("threads", lambda x: str(x[1].threads)),
        Column("median ms", lambda x: shown(x[1].p50_ms, ".2f")),
        Column("95 % ms", lambda x: shown(x[1].p95_ms, ".2f")),
        Column("spread", lambda x: percent(x[1].spread)),
        Column("texts/s", lambda x: shown(x[1].throughput_per_s, ".0f")),
        Column("ms/text", lambda x: shown(x[1].text_ms, ".2f")),
        Column("ms/text, first pass", lambda x: shown(x[1].first_pass_ms, ".2f")),
        Column("faster than best dense", lambda x: _against_dense(report.reference, x[1])),
        Column("faster than torch fp32", lambda x: _against_torch(x[1])),
    ]
    timed = [(line, time) for line in deployed(report) if line.row for time in line.row.latency]
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


def _against_torch(time: Latency) -> str:
    if time.speedup_vs_torch is None:
        return NOT_MEASURED
    if time.speedup_vs_torch == 1:
        return "itself"
    return torch_claim(time).words
