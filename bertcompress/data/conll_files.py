"""Files of one word a line, its tag in the last column, a blank line after each sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from bertcompress.data.tables import Table
from bertcompress.data.text_files import decoded
from bertcompress.errors import DataError
from bertcompress.task import Task

__all__ = ["read_conll"]

_DOCUMENT = "-DOCSTART-"
_BLANKS = re.compile(r"[ \t]+")


def read_conll(path: Path, task: Task) -> Table:
    """Return a table of sentences: the first column's words and the last one's tags, as lists.

    The file names no columns, so they are what the task calls them. Columns are parted by tabs
    where every line has one, else by blanks. `-DOCSTART-` lines are left out, and comments: `# ...`
    before a sentence, with another number of columns or a last one that is no tag of a word. Raises
    DataError with the line.
    """
    if len(task.text) != 1:
        raise DataError(f"{path}: one column of words, and the task reads {len(task.text)} texts")
    words: list[list[str]] = []
    tags: list[list[str]] = []
    inside = False
    for _, cells in _rows(path, decoded(path)):
        if not cells:
            inside = False
            continue
        if not inside:
            words.append([])
            tags.append([])
            inside = True
        words[-1].append(cells[0])
        tags[-1].append(cells[-1])
    columns = {task.text[0]: words}
    if task.label is not None:
        columns[task.label] = tags
    return Table(str(path), columns, tuple(columns))


def _rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of each line; none of a line that ends a sentence."""
    # At line feeds only: U+2028 and U+0085 may stand in a word.
    lines = [(i, line.rstrip("\r")) for i, line in enumerate(text.split("\n"), 1)]
    full = [line for _, line in lines if _is_word(line) and not line.startswith("#")]
    tabbed = bool(full) and all("\t" in line for line in full)
    known = {_cells(line, tabbed)[-1].strip() for line in full}
    width, fresh = 0, True
    for number, line in lines:
        if not _is_word(line):
            fresh = True
            yield number, []
            continue
        cells = _cells(line, tabbed)
        if fresh and line.startswith("#"):
            columns = width or (len(_cells(full[0], tabbed)) if full else 0)
            # A sentence may begin with the word `#`, whose tag others have too.
            remark = cells[0].split(" ")[0] == "#" and cells[-1].strip() not in known
            if remark or len(cells) != columns:
                continue
        width = width or len(cells)
        if width < 2:
            raise DataError(
                f"{path}:{number}: one column; a word and its tag are expected, with a tab or "
                "blanks between them"
            )
        if len(cells) != width:
            raise DataError(
                f"{path}:{number}: {len(cells)} column{'s' if len(cells) > 1 else ''}, the lines "
                f"before have {width}; a blank line ends a sentence"
            )
        if not cells[-1].strip():
            raise DataError(f"{path}:{number}: the word '{cells[0]}' has no tag")
        fresh = False
        yield number, [cells[0].strip(" "), cells[-1].strip()]


def _is_word(line: str) -> bool:
    """Return whether a line holds a word, and no end of a sentence or a document."""
    return bool(line.strip(" \t")) and not line.startswith(_DOCUMENT)


def _cells(line: str, tabbed: bool) -> list[str]:
    return line.split("\t") if tabbed else _BLANKS.split(line.strip(" \t"))
