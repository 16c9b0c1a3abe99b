"""Files of one text a line, read as a stream: a corpus may be larger than memory."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bertcompress.data.tables import Table
from bertcompress.errors import DataError, Notice
from bertcompress.task import Task

__all__ = ["MOST", "read_lines"]

MOST = 1_000_000
"""Texts that are kept of a file, drawn evenly where it has more."""


def read_lines(path: Path, task: Task) -> Table:
    """Return the lines of a file as the texts of a task; blank ones are left out.

    Of more than `MOST` lines as many are drawn, always the same, and a warning says so. Raises
    DataError with the line of what is no UTF-8, and for a task of two text columns or of labels.
    """
    if len(task.text) != 1 or task.label is not None:
        raise DataError(
            f"{path}: holds one text a line, and task '{task.name}' needs the columns "
            f"{', '.join(task.columns.names)}; write a table (CSV or JSON lines)"
        )
    kept: list[tuple[int, str]] = []
    rng, seen = np.random.default_rng(0), 0
    for text in _lines(path):
        # Vitter 1985, algorithm R: each line is kept with the same chance.
        if len(kept) < MOST:
            kept.append((seen, text))
        elif (place := int(rng.integers(0, seen + 1))) < MOST:
            kept[place] = (seen, text)
        seen += 1
    if not kept:
        raise DataError(f"{path}: no line with a text in it")
    if seen > MOST:
        warnings.warn(
            f"{path}: {seen:,} texts, of which {MOST:,} are drawn evenly, always the same",
            Notice,
            stacklevel=2,
        )
    column = task.text[0]
    return Table(str(path), {column: [text for _, text in sorted(kept)]}, (column,))


def _lines(path: Path) -> Iterator[str]:
    """Yield the texts of a file, packed by gzip or not, without the white space around them."""
    with path.open("rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        stream = gzip.GzipFile(fileobj=plain) if packed else plain
        number = 0
        try:
            for number, raw in enumerate(stream, start=1):
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if "\0" in text:
                    raise DataError(f"{path}:{number}: a zero byte within the text")
                if text:
                    yield text
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}:{number}: not UTF-8 (byte 0x{error.object[error.start]:02x}); convert "
                f"it, for example: iconv -f latin1 -t utf-8 {path.name}"
            ) from None
        except (OSError, EOFError) as error:
            raise DataError(f"{path}: cannot be read: {error}") from None
