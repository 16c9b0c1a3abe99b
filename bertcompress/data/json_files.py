"""JSON lines, lists, and the other forms in which rows are saved as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from bertcompress.data.line_files import numbered_lines
from bertcompress.data.squad_files import is_squad, squad_rows
from bertcompress.data.tables import Table, needed
from bertcompress.data.text_column import BATCH, TextColumn, file_key, is_text_alone
from bertcompress.data.text_files import decoded
from bertcompress.errors import DataError, unknown
from bertcompress.support.spooling import spooled_texts
from bertcompress.task import Task

__all__ = ["read_json"]

LONG = 16_000_000
"""Bytes of a file, packed or not, from which the texts of its lines are read as a stream."""

Rows = list[tuple[str, Any]]
"""Where each row stands, and the row."""


def read_json(path: Path, task: Task) -> Table:
    """Return the rows of a JSON file with the columns of the task. Raises DataError with the line.

    Read are objects line by line, a list of objects, either below one key, and columns of values.
    """
    if is_text_alone(task) and path.stat().st_size > LONG and _are_lines(path):
        texts = spooled_texts(_text_batches(path, task.text[0]), f"json {file_key(path, task)}")
        return Table(str(path), {task.text[0]: TextColumn(texts)}, (task.text[0],))
    rows = list(_rows(path, decoded(path), needed(task)))
    for at, row in rows:
        _check_row(path, at, row)
    names = tuple(dict.fromkeys(name for _, row in rows for name in _names(row)))
    columns: dict[str, list[Any]] = {}
    for column in needed(task):
        if rows and column not in names and not any(column in row for _, row in rows):
            raise DataError(unknown(str(path), "column", column, names))
        columns[column] = [_reached(row, column) for _, row in rows]
        _check_whole(path, column, rows, columns[column])
    for column in task.text:
        _check_texts(path, column, columns[column])
    return Table(str(path), columns, names)


def _are_lines(path: Path) -> bool:
    """Return whether a file holds an object a line; what is wrong with it is not said here."""
    try:
        first = [line for _, line in islice(numbered_lines(path), 2)]
        return len(first) == 2 and isinstance(json.loads(first[0]), dict)
    except (DataError, ValueError):
        return False


def _text_batches(path: Path, column: str) -> Iterator[list[str | None]]:
    """Yield the texts of a file of an object a line. Raises DataError with the line."""
    names: dict[str, None] = {}
    is_there = False
    batch: list[str | None] = []
    decoder = json.JSONDecoder(object_pairs_hook=_once)
    for at, row in _lines(path, numbered_lines(path), decoder):
        _check_row(path, at, row)
        text = _reached(row, column)
        if not isinstance(text, str | None):
            raise DataError(f"{path}{at}: column '{column}' holds {type(text).__name__}, not text")
        _check_whole(path, column, [(at, row)], [text])
        if not is_there:
            names.update(dict.fromkeys(_names(row)))
            is_there = column in names or column in row
        batch.append(text)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if not is_there:
        raise DataError(unknown(str(path), "column", column, names))
    yield batch


def _check_row(path: Path, at: str, row: Any) -> None:
    if not isinstance(row, dict):
        raise DataError(f"{path}{at}: expected an object with columns, found {type(row).__name__}")


def _rows(path: Path, text: str, wanted: Sequence[str]) -> Iterator[tuple[str, Any]]:
    start = text.lstrip()
    decoder = json.JSONDecoder(object_pairs_hook=_once)
    whole: Any = None
    if start.startswith(("[", "{")):
        try:
            whole, end = decoder.raw_decode(start)
            if start[end:].strip():
                whole = None
        except json.JSONDecodeError as error:
            if start.startswith("[") or "\n" not in start.strip():
                line = text[: len(text) - len(start) + error.pos].count("\n") + 1
                raise DataError(f"{path}:{line}: not JSON: {error.msg}") from None
        except _Twice as error:
            if start.startswith("["):
                raise DataError(f"{path}: the key '{error}' stands twice in one row") from None
    if whole is None:
        # At line feeds only: U+2028, U+2029 and U+0085 are characters of a text.
        yield from _lines(path, enumerate(text.split("\n"), 1), decoder)
    else:
        yield from _unfolded(path, whole, wanted)


def _lines(
    path: Path, lines: Iterable[tuple[int, str]], decoder: json.JSONDecoder
) -> Iterator[tuple[str, Any]]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            yield f":{number}", decoder.decode(line.strip())
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}:{number}: not JSON: {error.msg} (column {error.colno})"
            ) from None
        except _Twice as error:
            raise DataError(f"{path}:{number}: the key '{error}' stands twice in one row") from None


class _Twice(ValueError):
    """A key that an object holds twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return found


def _unfolded(path: Path, whole: Any, wanted: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield the rows of one JSON value: a list, columns, or either below a key."""
    if isinstance(whole, list):
        yield from ((f" row {i}", row) for i, row in enumerate(whole, 1))
        return
    if is_squad(whole):
        yield from squad_rows(path, whole)
        return
    if _are_columns(whole, wanted):
        yield from _turned(path, whole)
        return
    if isinstance(whole.get("columns"), list) and _is_list_of(whole.get("data"), list):
        for i, row in enumerate(whole["data"], 1):  # pandas' orient="split"
            yield f" row {i}", dict(zip(whole["columns"], row, strict=False))
        return
    below = {name: rows for name, rows in whole.items() if _is_list_of(rows, dict)}
    if len(below) == 1 and not any(name.partition(".")[0] in whole for name in wanted):
        yield from ((f" row {i}", row) for i, row in enumerate(next(iter(below.values())), 1))
    elif len(below) > 1:
        raise DataError(
            f"{path}: one object with {len(below)} lists of rows ({', '.join(below)}); save each "
            "in a file of its own"
        )
    else:
        yield " row 1", whole


def _are_columns(whole: Mapping[str, Any], wanted: Sequence[str]) -> bool:
    kinds = {type(whole[name]) for name in wanted if name in whole}
    texts = isinstance(whole.get(wanted[0]), (list, dict))
    return texts and (kinds == {list} or kinds == {dict})


def _turned(path: Path, whole: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the rows of columns, each a list, or an object from row names to values."""
    columns = {
        name: list(values.values()) if isinstance(values, dict) else values
        for name, values in whole.items()
        if isinstance(values, (list, dict))
    }
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(f"{path}: its columns are of several lengths: {told}")
    for i, row in enumerate(zip(*columns.values(), strict=True), 1):
        yield f" row {i}", dict(zip(columns, row, strict=True))


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, kind) for v in value)


def _names(row: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """Yield the columns of a row, those of an object within by their path: `review.text`."""
    for name, value in row.items():
        if isinstance(value, dict) and value:
            yield from _names(value, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def _reached(row: Any, column: str) -> Any:
    """Return the cell of a column, or of a path such as `review.text`; None where there is none."""
    if column in row:
        return row[column]
    first, _, rest = column.partition(".")
    inner = row.get(first)
    return _reached(inner, rest) if rest and isinstance(inner, dict) else None


def _check_whole(path: Path, column: str, rows: Rows, cells: Sequence[Any]) -> None:
    """Raise DataError for half of a character, which no tokenizer takes."""
    for (at, _), cell in zip(rows, cells, strict=True):
        if isinstance(cell, str) and not _is_encodable(cell):
            raise DataError(
                f"{path}{at}: column '{column}' holds half of a character (a lone surrogate, as "
                "where an emoji was cut in two)"
            )


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_texts(path: Path, column: str, cells: Sequence[Any]) -> None:
    kinds = {type(cell).__name__ for cell in cells if cell is not None}
    if len(kinds) > 1 and "str" in kinds:
        row = next(i for i, c in enumerate(cells, 1) if c is not None and not isinstance(c, str))
        raise DataError(
            f"{path}: column '{column}' mixes kinds of values ({', '.join(sorted(kinds))}): no "
            f"text in row {row}"
        )
