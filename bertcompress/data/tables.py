"""`Table`: the rows of one split as they were written, before anything is decided about them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from bertcompress.errors import DataError, unknown
from bertcompress.task import Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Table", "joined", "table_of"]

STREAM_ROWS = 1_000_000
"""What is read of a stream at most: it may have no end."""


@dataclass(frozen=True)
class Table:
    """The columns that a task needs of one split, as plain values of Python.

    Where the label column declares its classes, the labels are their names already; a hidden label
    stays the number -1.
    """

    where: str
    """The file, or the task and split, for messages."""
    columns: Mapping[str, Sequence[Any]]
    column_names: tuple[str, ...]
    """All that there are, the needed ones among them."""
    classes: tuple[str, ...] | None = None
    """The classes that the label column declares, in the order of their numbers."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def take(self, positions: Sequence[int] | NDArray[Any]) -> Table:
        """Return some of the rows, in the order asked."""
        columns = {
            name: [values[int(i)] for i in positions] for name, values in self.columns.items()
        }
        return replace(self, columns=columns)

    def with_column(self, name: str, values: Sequence[Any]) -> Table:
        """Return the table with other values in one column."""
        return replace(self, columns={**self.columns, name: values})

    def declaring(self, classes: Sequence[str]) -> Table:
        """Return the table with these as the declared classes."""
        return replace(self, classes=tuple(classes))


def needed(task: Task) -> tuple[str, ...]:
    """Return the columns that a task reads."""
    return task.columns.names


def joined(parts: Sequence[Table], where: str) -> Table:
    """Return the rows of several files of one split as one table. Raises DataError."""
    if len(parts) == 1:
        return parts[0]
    names = set(parts[0].columns)
    for part in parts[1:]:
        if set(part.columns) != names:
            lacking = sorted(names ^ set(part.columns))
            raise DataError(
                f"{parts[0].where}, {part.where}: their columns differ: '{lacking[0]}' is not in "
                "both"
            )
    columns = {name: [v for part in parts for v in part.columns[name]] for name in names}
    declared = [name for part in parts for name in part.classes or ()]
    return Table(where, columns, parts[0].column_names, tuple(dict.fromkeys(declared)) or None)


def table_of(data: Any, task: Task, where: str, limit: int | None = None) -> Table:
    """Return what people hold, a `Dataset`, a stream or a DataFrame, as a table.

    Of a stream at most `limit` rows are read. Raises DataError for anything else.
    """
    if hasattr(data, "iloc") and hasattr(data, "columns"):
        found = {str(name): data[name].tolist() for name in data.columns}
        columns = {name: list(map(_plain, found[name])) for name in needed(task) if name in found}
        return Table(where, columns, tuple(found))
    if not hasattr(data, "with_format") or not hasattr(data, "features"):
        raise DataError(
            f"{where}: {type(data).__name__} is no table of rows; give a Dataset, a DatasetDict, "
            "an IterableDataset or a DataFrame"
        )
    if not hasattr(data, "__len__"):
        return _streamed(data, task, where, limit)
    plain = data.with_format(None)
    if any(name not in plain.column_names and "." in name for name in needed(task)):
        plain = plain.flatten()
    columns = {name: plain[name][:] for name in needed(task) if name in plain.column_names}
    return _named(where, task, columns, plain.features, tuple(plain.column_names))


def _streamed(data: Any, task: Task, where: str, limit: int | None) -> Table:
    count = min(limit or STREAM_ROWS, STREAM_ROWS)
    rows = list(islice(iter(data.with_format(None)), count + 1))
    if len(rows) > count and limit is None:
        raise DataError(
            f"{where}: a stream of more than {count:,} rows; say how many to read (limit), or "
            "give data.take(n)"
        )
    rows = rows[:count]
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    columns = {
        name: [_plain(row.get(name)) for row in rows] for name in needed(task) if name in names
    }
    return _named(where, task, columns, data.features or {}, names)


def _named(
    where: str, task: Task, columns: dict[str, Any], features: Mapping[str, Any], names: Any
) -> Table:
    """Return a table whose labels are names where the column declares them."""
    feature = features.get(task.label) if task.label else None
    declared = getattr(getattr(feature, "feature", feature), "names", None)
    if declared is not None and task.label in columns:
        columns = {**columns, task.label: by_name(columns[task.label], declared)}
    return Table(where, columns, tuple(names), tuple(declared) if declared else None)


def by_name(labels: Iterable[Any], names: Sequence[str]) -> list[Any]:
    """Return labels with each class number as its name; what is no such number stays."""

    def name(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [name(each) for each in value]
        whole = isinstance(value, int) and not isinstance(value, bool)
        return names[value] if whole and 0 <= value < len(names) else value

    return [name(value) for value in labels]


def _plain(value: Any) -> Any:
    """Return a cell of numpy or pandas as Python has it; None for what marks a missing one."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (str, list, tuple, bool, int, dict)) or value is None:
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    # pandas.NA and NaT are unlike themselves, or answer neither way.
    try:
        return None if bool(value != value) else value
    except TypeError:
        return None


def check_columns(task: Task, split: str, table: Table) -> None:
    """Raise DataError where the split is empty or lacks a column of the task."""
    if table.column_names:
        for column in needed(task):
            if column not in table.columns:
                raise DataError(unknown(table.where, "column", column, table.column_names))
    if len(table) == 0:
        raise DataError(f"{task.name}: the split '{split}' is empty")
