"""Columns of words and tags, or of questions and answers, told by what data sets call them."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from bertcompress.errors import TaskError
from bertcompress.support.formats import format_of

__all__ = [
    "QUESTIONS",
    "TAGS",
    "WORDS",
    "columns_of",
    "columns_of_rows",
    "word_columns",
    "words_and_tags",
]

WORDS = ("tokens", "words")
"""What a column of lists of words is called."""
TAGS = ("ner_tags", "tags", "labels")
"""What the column of their tags is called."""
QUESTIONS: tuple[tuple[str, ...], str] = (("question", "context"), "answers")
"""What the columns of a question and its context, and that of the answers, are called."""

_READ = 1_000_000
"""Characters of a file of JSON lines that its first row has at most, to be looked at."""


def word_columns(names: Iterable[str]) -> tuple[str | tuple[str, ...], str] | None:
    """Return the columns of words and tags among some, or of a question, its context and answers.

    None where not all are there.
    """
    there = set(names)
    if there >= {*QUESTIONS[0], QUESTIONS[1]}:
        return QUESTIONS
    words = next((name for name in WORDS if name in there), None)
    tags = next((name for name in TAGS if name in there), None)
    return (words, tags) if words and tags else None


def columns_of(path: str | os.PathLike[str]) -> tuple[str | tuple[str, ...], str] | None:
    """Return the columns of a local file as `word_columns`; None where its names do not tell."""
    form, file = format_of(path), Path(path).expanduser()
    if form == "conll":  # it names none
        return WORDS[0], TAGS[0]
    if not file.is_file():
        return None
    if form == "json":
        return word_columns(_first_row(file)) or (QUESTIONS if _is_squad(file) else None)
    if form == "parquet":
        import pyarrow.parquet as pq

        try:
            return word_columns(pq.read_schema(file).names)
        except (OSError, ValueError):
            return None
    return None


def columns_of_rows(splits: Mapping[str, Any]) -> tuple[str | tuple[str, ...], str] | None:
    """Return the columns of rows in memory as `word_columns`; None where names do not tell."""
    first = next(iter(splits.values()), None)
    names = getattr(first, "column_names", None)
    if names is None:
        names = getattr(first, "columns", None)
    return None if names is None else word_columns(map(str, names))


def words_and_tags(
    where: str,
    found: tuple[str | tuple[str, ...], str] | None,
    label: str | None,
    text: str | Sequence[str] | None = None,
) -> tuple[str | Sequence[str], str]:
    """Return the text and the label column where not both are given. Raises TaskError for none."""
    if found is None:
        raise TaskError(f"{where}: text: which column holds the text?")
    return text or found[0], label or found[1]


def _is_squad(file: Path) -> bool:
    """Return whether a file begins as SQuAD's own do: articles, their paragraphs, questions."""
    if file.suffix.lower() == ".gz":
        return False
    with file.open("rb") as opened:
        start = opened.read(_READ).lstrip(b"\xef\xbb\xbf \t\r\n")
    return start.startswith(b"{") and b'"paragraphs"' in start and b'"qas"' in start


def _first_row(file: Path) -> Iterable[str]:
    """Return the columns of the first of some JSON lines; none where that is no object."""
    packed = file.suffix.lower() == ".gz"
    try:
        with (gzip.open if packed else open)(file, "rt", encoding="utf-8-sig") as lines:
            first = next((line for line in islice(lines, 10) if line.strip()), "")
            row = json.loads(first) if len(first) <= _READ else None
    except (OSError, ValueError, EOFError):
        return ()
    return row if isinstance(row, dict) else ()
