"""Tables and JSON as people save them, every cell read as it was written, or refused by name."""

from __future__ import annotations

import csv
import gzip
import io
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bertcompress.data.tables import Table, needed
from bertcompress.errors import DataError, unknown
from bertcompress.heads.kinds import Written
from bertcompress.task import Task

__all__ = ["decoded", "read_csv"]

_SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
_TABBED = (".tsv", ".tab")
# Excel's first line: which separator follows.
_EXCEL = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_ARCHIVES = {b"PK\x03\x04": "a zip archive or an Excel workbook", b"\x1f\x8b": "gzip within gzip"}


def decoded(path: Path) -> str:
    """Return the text of a file: UTF-8, with or without its mark, UTF-16 with it; also of a .gz.

    Raises DataError with the line of what is no text.
    """
    raw = path.read_bytes()
    if raw.startswith(b"\x1f\x8b"):
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, ValueError) as error:
            raise DataError(f"{path}: a damaged gzip file: {error}") from None
    for start, what in _ARCHIVES.items():
        if raw.startswith(start):
            raise DataError(f"{path}: {what}, not text; save it as CSV (UTF-8)")
    wide = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        name = "UTF-16" if wide else "UTF-8"
        raise DataError(
            f"{path}:{line}: not {name} (byte 0x{raw[error.start]:02x} at position {error.start}); "
            f"convert it, for example: iconv -f latin1 -t utf-8 {path.name}"
        ) from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DataError(
            f"{path}:{line}: a zero byte within the text: UTF-16 without its mark, or a damaged "
            f"file; convert it, for example: iconv -f utf-16le -t utf-8 {path.name}"
        )
    return text


def read_csv(path: Path, task: Task) -> Table:
    """Return a table whose labels are the cells as written. Raises DataError with the line."""
    text = decoded(path)
    told = _EXCEL.match(text)
    text, first = (text[told.end() :], 2) if told else (text, 1)
    if not text.strip():
        raise DataError(f"{path}: the file is empty")
    wanted = needed(task)
    tabbed = path.name.lower().removesuffix(".gz").endswith(_TABBED)
    separators = told.group(1) if told else "\t" if tabbed else "".join(_SEPARATORS)
    separator = _separator(text, separators, wanted)
    header, rows = _even_rows(path, text, separator, first)
    for column in wanted:
        if header.count(column) > 1:
            raise DataError(f"{path}: the header names column '{column}' twice")
        if column not in header:
            how = _SEPARATORS.get(separator, f"'{separator}'")
            found = unknown(str(path), "column", column, header)
            raise DataError(found if len(header) > 1 else f"{found} (cells parted by {how})")
    columns: dict[str, list[str]] = {}
    for column in wanted:
        place = header.index(column)
        kind = Written if column == task.label else str
        columns[column] = [kind(row[place]) for row in rows]
    if task.label:
        _check_swallowed(path, rows, separator, header.index(task.label))
    return Table(str(path), columns, tuple(header))


def _separator(text: str, separators: str, wanted: Sequence[str]) -> str:
    """Return the separator by which the header holds the wanted columns, else the most columns."""
    best, most = separators[0], 0
    for separator in separators:
        try:
            header = next(_cells(text, separator, quoted=True), (1, []))[1]
        except csv.Error:
            continue
        if all(column in header for column in wanted):
            return separator
        if len(header) > most:
            best, most = separator, len(header)
    return best


def _is_quoted(text: str) -> bool:
    """Return whether the cells of a tab-separated file that hold a quote are quoted, all of them.

    Most writers quote nothing there: a stray quote is a character like others.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    marked = [cell for line in lines for cell in line.split("\t") if '"' in cell]
    return bool(marked) and all(_QUOTED.fullmatch(cell) for cell in marked)


def _cells(text: str, separator: str, *, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with the number of its last line. Raises csv.Error."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    lines = io.StringIO(text, newline="")
    if quoted:
        reader = csv.reader(lines, delimiter=separator, strict=True)
    else:
        reader = csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE, strict=True)
    for row in reader:
        if row:
            yield reader.line_num, row


def _even_rows(
    path: Path, text: str, separator: str, first: int
) -> tuple[list[str], list[list[str]]]:
    """Return header and rows by the first way of quoting that leaves no row uneven."""
    ways = (True,) if separator != "\t" else (True, False) if _is_quoted(text) else (False, True)
    refusal: DataError | None = None
    for quoted in ways:
        try:
            return _rows(path, text, separator, quoted, first)
        except DataError as error:
            refusal = refusal or error
    assert refusal is not None
    raise refusal


def _check_swallowed(path: Path, rows: list[list[str]], separator: str, label: int) -> None:
    """Raise DataError where two stray quotes made one cell of several rows."""
    labels = {row[label] for row in rows if not any("\n" in cell for cell in row)}
    for number, row in enumerate(rows, 1):
        for cell in row:
            for line in cell.splitlines()[:-1] if "\n" in cell else ():
                cells = line.split(separator)
                if len(cells) == len(row) and cells[label] in labels:
                    raise DataError(
                        f"{path}: row {number}: one quoted cell holds what looks like rows "
                        f"('{line[:60]}'): a quote that is not closed; double it or quote the cell"
                    )


def _rows(
    path: Path, text: str, separator: str, quoted: bool, first: int
) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows, all as wide as it. Raises DataError with line numbers."""
    header: list[str] = []
    rows, uneven = [], []
    last = first - 1
    try:
        for line, row in _cells(text, separator, quoted=quoted):
            last = line + first - 1
            if not header:
                header = [name.strip() for name in row]
            elif len(row) == len(header):
                rows.append(row)
            else:
                uneven.append((last, len(row)))
    except csv.Error as error:
        raise DataError(
            f"{path}: line {last + 1} or after: not a readable table ({error}): a quote that is "
            'not closed, or not doubled ("") within a quoted cell'
        ) from None
    if uneven:
        raise DataError(_unevenness(path, separator, header, len(rows), uneven))
    return header, rows


def _unevenness(
    path: Path, separator: str, header: list[str], even: int, uneven: list[tuple[int, int]]
) -> str:
    line, cells = uneven[0]
    others = ", ".join(str(number) for number, _ in uneven[1:4])
    more = f" and {len(uneven) - 4} more" if len(uneven) > 4 else ""
    too = f"; so have lines {others}{more} another number" if others else ""
    how = _SEPARATORS.get(separator, f"'{separator}'")
    hint = f"a text that holds {how} has to be quoted"
    if separator == "\t":
        hint = "a text that holds a tab or a line end does not fit a tab-separated file"
    if not even and len(header) > 1 and {count for _, count in uneven} == {len(header) + 1}:
        hint = "the header lacks the name of one column, such as that of row names"
    return (
        f"{path}: line {line} has {cells} cell{'s' if cells > 1 else ''}, the header {len(header)} "
        f"({', '.join(header[:6])}){too}; {hint}"
    )
