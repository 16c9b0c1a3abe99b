"""`Table`: the rows of one split as they were written, before anything is decided about them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from bertcompress.data.text_column import BATCH, TextColumn, is_text_alone
from bertcompress.errors import DataError, unknown
from bertcompress.support.spooling import spooled_texts
from bertcompress.task import Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Table", "joined", "table_of"]

STREAM_ROWS = 1_000_000
"""What is read of a stream at most: it may have no end."""


@dataclass(frozen=True)
class Table:
    """The columns that a task needs of one split, as plain values of Python or a `TextColumn`.

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
        columns = {name: _taken(values, positions) for name, values in self.columns.items()}
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
    columns = {name: _end_to_end([part.columns[name] for part in parts]) for name in names}
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
    column = task.text[0]
    if is_text_alone(task) and column in plain.column_names:
        texts = TextColumn.of_rows(plain, column)
        if texts is not None:
            return Table(where, {column: texts}, tuple(plain.column_names))
    columns = {name: plain[name][:] for name in needed(task) if name in plain.column_names}
    return _named(where, task, columns, plain.features, tuple(plain.column_names))


def _taken(values: Sequence[Any], positions: Sequence[int] | NDArray[Any]) -> Sequence[Any]:
    if isinstance(values, TextColumn):
        return values.take(positions)
    return [values[int(i)] for i in positions]


def _end_to_end(columns: Sequence[Sequence[Any]]) -> Sequence[Any]:
    apart = [values for values in columns if not isinstance(values, TextColumn)]
    # What is no text stays as it is, to be refused by its row.
    if len(apart) < len(columns) and all(isinstance(v, str | None) for each in apart for v in each):
        return TextColumn.joined(columns)
    return [value for values in columns for value in values]


def _streamed(data: Any, task: Task, where: str, limit: int | None) -> Table:
    stream = _bounded(iter(data.with_format(None)), where, limit)
    if is_text_alone(task):
        return _streamed_texts(stream, task.text[0], where)
    rows = list(stream)
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    columns = {
        name: [_plain(row.get(name)) for row in rows] for name in needed(task) if name in names
    }
    return _named(where, task, columns, data.features or {}, names)


def _bounded(rows: Iterator[Any], where: str, limit: int | None) -> Iterator[Any]:
    """Yield at most `limit` rows. Raises DataError for a stream that may have no end."""
    count = limit or STREAM_ROWS
    yield from islice(rows, count)
    if limit is None and next(rows, None) is not None:
        raise DataError(
            f"{where}: a stream of more than {count:,} rows; say how many to read (limit), or "
            "give data.take(n)"
        )


def _streamed_texts(rows: Iterator[Mapping[str, Any]], column: str, where: str) -> Table:
    """Return a column of texts of a stream, which may be longer than memory holds."""
    names: dict[str, None] = {}

    def batches() -> Iterator[list[str | None]]:
        done = 0
        while some := list(islice(rows, BATCH)):
            names.update(dict.fromkeys(name for row in some for name in row))
            texts = [_plain(row.get(column)) for row in some]
            for number, text in enumerate(texts, start=done + 1):
                if not isinstance(text, str | None):
                    kind = type(text).__name__
                    raise DataError(
                        f"{where}: column '{column}' holds {kind}, not text, in row {number}"
                    )
            yield texts
            done += len(some)

    texts = TextColumn(spooled_texts(batches()))
    return Table(where, {column: texts} if column in names else {}, tuple(names))


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
