"""Raw rows, checked and brought into one form: `row_id`, `text`, `text_pair`, `label`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bertcompress.data.labels import rows_named
from bertcompress.data.tables import Table
from bertcompress.data.text_column import BATCH, TextColumn
from bertcompress.errors import DataError
from bertcompress.heads.features import text_columns
from bertcompress.task import Task

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["check_words", "normalise", "text_cells", "text_digest", "text_rows", "texts_of"]


def normalise(
    task: Task, split: str, table: Table, labels: Sequence[Any] | None, first_id: int
) -> Dataset:
    """Return the split as `row_id`, `text`, `text_pair` (pairs) and `label` (unless unlabelled).

    Of lists of words also `words`; `text` then has them with a blank between.
    `labels`: as the reader of labels gave them; None: unlabelled. Of a pair one text may be empty:
    the other then stands alone. Raises DataError naming split, column and rows (counted from 1).
    """
    from datasets import Dataset, Features, List, Value

    texts = texts_of(task, split, table)
    if isinstance(texts[0], TextColumn):
        return texts[0].rows(first_id)
    columns: dict[str, Any] = {"row_id": list(range(first_id, first_id + len(table)))}
    features: dict[str, Any] = {"row_id": Value("int64")}
    if len(texts) == 2:
        texts = list(map(list, zip(*map(_alone, *texts), strict=True)))
    for name, column in zip(("text", "text_pair"), texts, strict=False):
        columns[name] = column
        features[name] = Value("string")
    if task.columns.text_form == "words":
        words = [list(row) for row in table.columns[task.columns.texts[0]]]
        columns["words"], features["words"] = words, List(Value("string"))
    if labels is not None:
        columns["label"] = list(labels)
        features["label"] = task.head.label_feature(task)
    return Dataset.from_dict(columns, features=Features(features))


def texts_of(task: Task, split: str, table: Table) -> Sequence[Sequence[str]]:
    """Return the text columns of a split. Raises DataError for a row without any text."""
    where = f"{task.name}: {split}"
    columns = task.columns.texts
    read = _sentences if task.columns.text_form == "words" else text_cells
    texts = [read(where, column, table.columns[column]) for column in columns]
    _check_empty(where, columns, texts)
    return texts


def text_rows(rows: Dataset) -> Iterator[tuple[str, ...]]:
    """Yield the texts of each row of a split: one, or the two of a pair."""
    names = text_columns(rows)
    for batch in rows.select_columns(names).iter(BATCH):
        yield from zip(*(batch[name] for name in names), strict=True)


def text_digest(texts: Sequence[str]) -> bytes:
    """Return a digest of the texts of a row, in which case and white space do not count."""
    plain = [" ".join(text.casefold().split()) for text in texts]
    return hashlib.blake2b(json.dumps(plain).encode(), digest_size=16).digest()


def _alone(first: str, second: str) -> tuple[str, str]:
    """Return a pair whose one text is empty as a single text."""
    return (first, second if second.strip() else "") if first.strip() else (second, "")


def text_cells(where: str, column: str, values: Sequence[Any]) -> Sequence[str]:
    """Return the cells of a column as texts, '' for missing ones. Raises DataError for others."""
    if isinstance(values, TextColumn):
        return values
    wrong = [i for i, value in enumerate(values) if not isinstance(value, str | None)]
    if wrong:
        kind = type(values[wrong[0]]).__name__
        raise DataError(
            f"{where}: column '{column}' holds {kind}, not text, in {rows_named(wrong)}"
        )
    halves = [i for i, value in enumerate(values) if not _is_whole(value or "")]
    if halves:
        raise DataError(
            f"{where}: column '{column}' holds half of a character (a lone surrogate) in "
            f"{rows_named(halves)}"
        )
    return [value or "" for value in values]


def _sentences(where: str, column: str, values: Sequence[Any]) -> Sequence[str]:
    """Return lists of words as texts. Raises DataError for what is no such list."""
    wrong = [i for i, row in enumerate(values) if not _are_words(row)]
    if wrong:
        kind = type(values[wrong[0]]).__name__
        what = "lists of other things than words" if kind in ("list", "tuple") else kind
        raise DataError(
            f"{where}: column '{column}' holds {what}, not lists of words, in {rows_named(wrong)}"
        )
    return text_cells(where, column, [" ".join(row) for row in values])


def _are_words(row: Any) -> bool:
    return isinstance(row, (list, tuple)) and all(isinstance(word, str) for word in row)


def check_words(task: Task, split: str, table: Table, labels: Sequence[Any] | None) -> None:
    """Raise DataError where a row has more tags than words, or fewer."""
    if task.columns.text_form != "words" or labels is None:
        return
    words = table.columns[task.columns.texts[0]]
    sizes = [(len(row), len(tags)) for row, tags in zip(words, labels, strict=True)]
    wrong = [i for i, (row, tags) in enumerate(sizes) if row != tags]
    if wrong:
        row, tags = sizes[wrong[0]]
        where = f"{task.name}: {split}"
        raise DataError(f"{where}: {row} words and {tags} tags in {rows_named(wrong)}")


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_empty(where: str, columns: Sequence[str], texts: Sequence[Sequence[str]]) -> None:
    empty = [i for i, row in enumerate(zip(*texts, strict=True)) if not any(map(str.strip, row))]
    if empty:
        names = " and ".join(f"'{column}'" for column in columns)
        has = "have" if len(columns) > 1 else "has"
        raise DataError(
            f"{where}: column{'s' if len(columns) > 1 else ''} {names} {has} no text in "
            f"{rows_named(empty)}"
        )
