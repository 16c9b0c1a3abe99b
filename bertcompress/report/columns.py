"""What a table of a report is made of: columns over lines of a report, as plain text cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from bertcompress.report.cells import NOT_MEASURED, shown
from bertcompress.report.rows import DeploymentRow, ReportData, Stage

__all__ = [
    "BASELINE",
    "COMPRESSED",
    "MB",
    "MODEL",
    "RUNS_ON",
    "Column",
    "Line",
    "Table",
    "build",
    "deployed",
    "on_row",
    "words",
]

BASELINE = "baseline"
COMPRESSED = "compressed"
"""What the two models are called in every table, figure and sentence."""

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


@dataclass(frozen=True)
class Line:
    """A stage and one of its deployments."""

    stage: Stage
    row: DeploymentRow | None
    baseline: bool
    """Whether the stage is the baseline."""

    @property
    def model(self) -> str:
        """Which of the two models that are compared it is."""
        return BASELINE if self.baseline else COMPRESSED

    def of(self, cell: Callable[[DeploymentRow], str]) -> str:
        """Return a figure of the deployment, or that there is none."""
        return cell(self.row) if self.row else NOT_MEASURED


def on_row(name: str, cell: Callable[[DeploymentRow], str]) -> Column[Line]:
    """Return a column of figures of a deployment."""
    return Column(name, lambda line: line.of(cell))


MODEL: Column[Line] = words("model", lambda x: x.model)
RUNS_ON: Column[Line] = words("runs on", lambda x: x.of(lambda row: row.label))
MB = on_row("MB", lambda row: shown(row.size_mb, ".1f"))


def deployed(report: ReportData) -> list[Line]:
    """Return every deployment of the baseline and of the last stage."""
    return [Line(stage, row, stage is report.reference) for stage, row in report.compared]
