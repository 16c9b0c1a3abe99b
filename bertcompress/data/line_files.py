"""Files of one text a line, read as a stream: a corpus may be larger than memory."""

from __future__ import annotations

import codecs
import gzip
from collections.abc import Iterable, Iterator
from io import TextIOWrapper
from itertools import islice
from pathlib import Path

from bertcompress.data.tables import Table
from bertcompress.data.text_column import BATCH, TextColumn, file_key
from bertcompress.errors import DataError
from bertcompress.support.spooling import spooled_texts
from bertcompress.task import Task

__all__ = ["numbered_lines", "read_lines"]


def read_lines(path: Path, task: Task) -> Table:
    """Return the lines of a file as the texts of a task; blank ones are left out.

    Raises DataError with the line of what is no UTF-8, and for a task of two text columns or of
    labels.
    """
    if len(task.text) != 1 or task.label is not None:
        raise DataError(
            f"{path}: holds one text a line, and task '{task.name}' needs the columns "
            f"{', '.join(task.columns.names)}; write a table (CSV or JSON lines)"
        )
    texts = TextColumn(spooled_texts(_batches(path), f"lines {file_key(path, task)}"))
    if not len(texts):
        raise DataError(f"{path}: no line with a text in it")
    return Table(str(path), {task.text[0]: texts}, (task.text[0],))


def _batches(path: Path) -> Iterator[list[str]]:
    lines = (line for _, line in numbered_lines(path))
    while batch := list(islice(lines, BATCH)):
        yield batch


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of the lines that are not blank, white space around them left out.

    UTF-8, or UTF-16 with its mark; the file may be packed by gzip. Raises DataError with the line
    of what is neither.
    """
    with path.open("rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        stream = gzip.GzipFile(fileobj=plain) if packed else plain
        number, wide = 0, False
        try:
            wide = stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            stream.seek(0)
            lines: Iterable[str | bytes] = (
                TextIOWrapper(stream, "utf-16", newline="\n") if wide else stream
            )
            raw: str | bytes
            for number, raw in enumerate(lines, start=1):
                mark = "utf-8-sig" if number == 1 else "utf-8"
                text = (raw if isinstance(raw, str) else raw.decode(mark)).strip()
                if "\0" in text:
                    raise DataError(f"{path}:{number}: a zero byte within the text")
                if text:
                    yield number, text
        except UnicodeDecodeError as error:
            # UTF-16 is decoded in pieces of many lines.
            at, name = (f" behind line {number}", "UTF-16") if wide else (f"{number}", "UTF-8")
            raise DataError(
                f"{path}:{at}: not {name} (byte 0x{error.object[error.start]:02x}); convert "
                f"it, for example: iconv -f latin1 -t utf-8 {path.name}"
            ) from None
        except (OSError, EOFError) as error:
            raise DataError(f"{path}: cannot be read: {error}") from None
