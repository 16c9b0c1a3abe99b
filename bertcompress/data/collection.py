"""`Collection`: documents, queries and which documents are relevant for which query, checked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertcompress.data.beir_parts import (
    CORPUS,
    DOCUMENT,
    ID,
    QUERIES,
    QUERY,
    TITLE,
    Parts,
    Reader,
    find_parts,
)
from bertcompress.data.labels import rows_named
from bertcompress.data.rows import text_cells
from bertcompress.data.tables import Table
from bertcompress.errors import DataError, unknown
from bertcompress.support.formats import VALIDATION_NAMES
from bertcompress.task import Task

__all__ = ["Collection", "Judged", "read_collection"]

Judged = Mapping[str, Mapping[str, float]]
"""Query to its relevant documents, each with its grade above 0."""

_MUCH_EMPTY = 0.05


@dataclass(frozen=True)
class Collection:
    """What is searched, by what, and what should be found."""

    documents: Mapping[str, str]
    """Id to text, in the order of the corpus."""
    queries: Mapping[str, str]
    """Id to text, of all splits."""
    training: Judged | None
    """None where there are no training judgements."""
    reported: Judged | None
    """Of the task's validation split; None where there is none."""
    also: Mapping[str, Judged]
    """Of the further validation splits."""
    task: Task
    """With the name of the validation split as it is."""
    notes: tuple[str, ...]


def read_collection(task: Task, data_dir: str | Path | None = None) -> Collection:
    """Read and check what a retrieval task searches. Raises DataError naming the rows."""
    parts = find_parts(task, data_dir)
    notes: list[str] = []
    documents = _documents(task, parts.corpus, notes)
    queries = _texts(task, QUERIES, *_columns(parts.queries, (ID, task.text[0])))
    if empty := [i for i, text in enumerate(queries.values()) if not text.strip()]:
        raise DataError(
            f"{task.name}: {QUERIES}: column '{task.text[0]}' has no text in {rows_named(empty)}"
        )
    read = _Judgements(task, parts, documents, queries, notes)
    train, validation = _splits(task, parts)
    if validation != task.validation and validation is not None:
        notes.append(f"no split '{task.validation}': judged on '{validation}'")
        task = task.model_copy(update={"validation": validation})
    return Collection(
        documents,
        queries,
        None if train is None else read.split(train),
        None if validation is None else read.split(validation),
        {name: read.split(split) for name, split in task.also.items()},
        task,
        tuple(notes),
    )


def _splits(task: Task, parts: Parts) -> tuple[str | None, str | None]:
    """Return the splits to train and to report on, None for one that is not there."""
    there = parts.judgements
    for name, usual in ((task.train, "train"), (task.validation, "validation")):
        if name not in there and name != usual:
            raise DataError(unknown(task.name, "split", name, there))
    train = task.train if task.train in there else None
    # BEIR reports on `test`.
    names = (task.validation, "test", *VALIDATION_NAMES)
    validation = next((name for name in names if name in there and name != train), None)
    if train is None and validation is None:
        raise DataError(unknown(task.name, "split", task.validation, there))
    return train, validation


def _columns(read: Reader, columns: tuple[str, ...]) -> tuple[Table, tuple[str, ...]]:
    """Return a table with these columns. Raises DataError for one that is not there."""
    table = read(columns)
    for column in columns:
        if column not in table.columns:
            raise DataError(unknown(table.where, "column", column, table.column_names))
    if not len(table):
        raise DataError(f"{table.where}: there are no rows")
    return table, columns


def _documents(task: Task, read: Reader, notes: list[str]) -> dict[str, str]:
    """Return the corpus, each title and a blank before its text, as BEIR does."""
    columns: tuple[str, ...] = (ID, task.text[0])
    table, _ = _columns(read, columns)
    if TITLE in table.column_names and TITLE not in columns:
        columns = (ID, TITLE, task.text[0])
        table, _ = _columns(read, columns)
    documents = _texts(task, CORPUS, table, columns)
    documents = {name: text.strip() for name, text in documents.items()}
    empty = [name for name, text in documents.items() if not text]
    if len(empty) > _MUCH_EMPTY * len(documents):
        raise DataError(
            f"{task.name}: {CORPUS}: {len(empty):,} of {len(documents):,} documents have no text "
            f"in {' or '.join(map(repr, columns[1:]))}, the first is '{empty[0]}'"
        )
    if empty:
        notes.append(
            f"{len(empty):,} of {len(documents):,} documents have no text, the first is "
            f"'{empty[0]}'; they are searched as they are"
        )
    return documents


def _texts(task: Task, part: str, table: Table, columns: Sequence[str]) -> dict[str, str]:
    """Return texts by their id, those of several columns with a blank between."""
    where = f"{task.name}: {part}"
    ids = _ids(where, columns[0], table)
    if twice := [name for name, count in Counter(ids).items() if count > 1]:
        rows = [i for i, name in enumerate(ids) if name == twice[0]]
        raise DataError(f"{where}: the id '{twice[0]}' stands in {rows_named(rows)}")
    texts = [text_cells(where, column, table.columns[column]) for column in columns[1:]]
    return dict(zip(ids, map(" ".join, zip(*texts, strict=True)), strict=True))


def _ids(where: str, column: str, table: Table) -> list[str]:
    """Return ids as texts: one file writes them as numbers, another does not."""
    cells = table.columns[column]
    wrong = [i for i, cell in enumerate(cells) if not _is_id(cell)]
    if wrong:
        raise DataError(
            f"{where}: column '{column}' holds {type(cells[wrong[0]]).__name__}, no id, in "
            f"{rows_named(wrong)}"
        )
    return [str(cell) for cell in cells]


def _is_id(cell: Any) -> bool:
    whole = isinstance(cell, int) and not isinstance(cell, bool)
    return whole or (isinstance(cell, str) and bool(cell.strip()))


@dataclass(frozen=True)
class _Judgements:
    """Reads the judgements of a split against the corpus and the queries."""

    task: Task
    parts: Parts
    documents: Mapping[str, str]
    queries: Mapping[str, str]
    notes: list[str]

    def split(self, name: str) -> Judged:
        """Return the relevant documents of each query. Raises DataError naming the rows."""
        if name not in self.parts.judgements:
            raise DataError(unknown(self.task.name, "split", name, self.parts.judgements))
        label = str(self.task.label)
        table, _ = _columns(self.parts.judgements[name], (QUERY, DOCUMENT, label))
        where = f"{self.task.name}: {name}"
        queries, documents = _ids(where, QUERY, table), _ids(where, DOCUMENT, table)
        self._check(where, QUERY, queries, QUERIES, self.queries)
        self._check(where, DOCUMENT, documents, CORPUS, self.documents)
        grades = [_grade(where, label, i, cell) for i, cell in enumerate(table.columns[label])]
        found: dict[str, dict[str, float]] = {}
        for i, (query, document, grade) in enumerate(zip(queries, documents, grades, strict=True)):
            known = found.setdefault(query, {})
            if known.setdefault(document, grade) != grade:
                raise DataError(
                    f"{where}: row {i + 1} grades document '{document}' for query '{query}' "
                    f"{grade:g}, and a row before it {known[document]:g}"
                )
        return self._relevant(where, found)

    def _relevant(self, where: str, found: Judged) -> Judged:
        """Return what is graded above 0, as in trec_eval, without queries that have no such."""
        relevant = {
            query: {document: grade for document, grade in known.items() if grade > 0}
            for query, known in found.items()
        }
        without = [query for query, known in relevant.items() if not known]
        if len(without) == len(relevant):
            raise DataError(f"{where}: no query has a relevant document: no grade is above 0")
        if without:
            self.notes.append(
                f"{where}: {len(without):,} of {len(relevant):,} queries have no relevant document "
                f"and are left out, the first is '{without[0]}'"
            )
        return {query: known for query, known in relevant.items() if known}

    def _check(
        self, where: str, column: str, names: Sequence[str], part: str, known: Mapping[str, str]
    ) -> None:
        wrong = [i for i, name in enumerate(names) if name not in known]
        if wrong:
            raise DataError(
                f"{where}: column '{column}': '{names[wrong[0]]}' is not in {part} "
                f"({rows_named(wrong)} of {len(names):,}); a judgement of what is not searched "
                "would lower every score"
            )


def _grade(where: str, column: str, row: int, cell: Any) -> float:
    """Return a grade as a number. Raises DataError for what is none."""
    try:
        grade = math.nan if isinstance(cell, bool) else float(cell)
    except (TypeError, ValueError):
        grade = math.nan
    if not math.isfinite(grade):
        raise DataError(f"{where}: column '{column}' holds {cell!r}, no grade, in row {row + 1}")
    return grade
