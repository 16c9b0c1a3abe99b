"""`load_data`: splits found and read, labels decided over all of them, the selection split cut.

The selection split is cut from the training set here, once, so that nothing which a run chooses was
chosen on the rows that it reports.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bertcompress.data.labels import LabelReader
from bertcompress.data.matching import align_labels, differ, permuted, same_numbers, spread
from bertcompress.data.retrieval import load_retrieval
from bertcompress.data.rows import check_words, normalise, text_rows, texts_of
from bertcompress.data.splitting import chosen_splits, evenly, split_off, together
from bertcompress.data.tables import Table, check_columns
from bertcompress.data.task_data import TaskData, fingerprint_of
from bertcompress.data.text_column import rows_kept
from bertcompress.errors import DataError, Notice, few
from bertcompress.task import Task

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load_data"]

SELECTION_SHARE = 0.1
SELECTION_ROWS = 1_000
CALIBRATION_ROWS = 2_048
# `limit` takes the same rows whatever the seed of a run: "a fixed 10,000 of SST-2".
_LIMIT_SEED = 0
_MUCH_KNOWN = 0.05


def load_data(
    task: Task,
    *,
    data_dir: str | Path | None = None,
    seed: int = 0,
    limit: int | None = None,
    model_labels: Mapping[int, str] | None = None,
) -> TaskData:
    """Read, check and split a task's data.

    Args:
        task: What to read.
        data_dir: A local copy that stands in for the Hub id; also by `BERTCOMPRESS_DATA_DIR`.
        seed: Of the selection and calibration rows.
        limit: At most so many rows of the training set and of each validation set; the same rows
            for every seed.
        model_labels: A model's `id2label`: labels are numbered as that model numbers them, by name.

    Raises:
        DataError: Anything about files, splits, columns, texts or labels.
        TaskError: Metrics that do not fit the labels.
    """
    if not task.is_open and task.head.searches:
        return load_retrieval(task, data_dir, seed, limit)
    found = chosen_splits(task, data_dir, limit)
    task = found.task
    for name, table in found.tables.items():
        check_columns(task, name, table)
    reader = LabelReader.of(task, found.tables)
    said = (reader.told(),) if task.label and _is_guess(task) else ()
    reader, kept = _with_classes_of(reader, model_labels)
    labels = reader.names if task.label else task.labels
    task = reader.task.model_copy(update={"labels": labels or None})
    task = task.resolved(task.problem)
    splits, told = _numbered(task, found.tables, reader, limit)
    if task.chance is None:
        task = task.model_copy(update={"chance": _chance(task, splits[task.validation])})
    order, by_order = _order_of(task, model_labels)
    if order is not None:
        task = task.model_copy(update={"labels": _reordered(task.labels or (), order)})
        splits = {name: _relabelled(part, order) for name, part in splits.items()}
    if task.train != task.validation:  # else a test file alone, which nothing is trained on
        _check_new(task, splits[task.train], splits[task.validation])
    for line in reader.doubts:
        warnings.warn(line, Notice, stacklevel=2)
    data = _divided(task, splits, seed, None if task.head.by_name else order)
    notes = (*found.notes, *kept, *told)
    return replace(data, notes=notes, said=said, by_order=by_order)


def _is_guess(task: Task) -> bool:
    """Return whether what the labels are was told by the data, not by the task."""
    return task.is_open or task.in_memory is not None


def _with_classes_of(
    reader: LabelReader, model_labels: Mapping[int, str] | None
) -> tuple[LabelReader, tuple[str, ...]]:
    """Return the reader with the classes that a model knows beside the data's, and a line on it."""
    more = spread(reader.names, model_labels) if model_labels and reader.names else ()
    if not more:
        return reader, ()
    shown = ", ".join(more[:8]) + (", ..." if len(more) > 8 else "")
    note = (
        f"the model's {len(reader.names) + len(more)} classes stay, {len(more)} of which no row "
        f"has: {shown}"
    )
    return reader.with_classes(more), (note,)


@dataclass(frozen=True)
class _Part:
    """A split, and its labels as numbers."""

    table: Table
    labels: Sequence[Any] | None

    def take(self, positions: NDArray[np.int64]) -> _Part:
        labels = None if self.labels is None else [self.labels[int(i)] for i in positions]
        return _Part(self.table.take(positions), labels)

    def limited(self, limit: int | None, task: Task) -> _Part:
        """Return so many rows; where groups are judged, as many whole ones as have about those."""
        count = len(self.table)
        if limit is None or count <= limit:
            return self
        rng = np.random.default_rng(_LIMIT_SEED)
        if task.head.judges_groups:
            groups = task.head.groups([self.table.columns[name] for name in task.text])
            if groups is not None:
                return self.take(together(groups, limit, rng))
        return self.take(np.sort(rng.permutation(count)[:limit]))


def _split_off_words(task: Task, judged: int, rows: int, *, labelled: bool) -> str:
    """Return the line about rows that are split off, with what they hold in its share."""
    what = "each class" if task.head.has_classes else "each range of numbers"
    shared = f", {what} in its share" if labelled and task.head.one_value else ""
    if task.head.groups([()] * len(task.text)) is not None:
        shared = ", rows of one query or context together"
    return (
        f"no split to judge on: {judged:,} of {rows:,} rows of '{task.train}' are split off"
        f"{shared}, always the same rows"
    )


def _numbered(
    task: Task, tables: Mapping[str, Table], reader: LabelReader, limit: int | None
) -> tuple[dict[str, Dataset], tuple[str, ...]]:
    """Return the splits in one form, the row ids counting through them, training rows first.

    Where there is no validation split, it is split off the training rows, and a line says so.
    """
    made: dict[str, _Part] = {}
    splits: dict[str, Dataset] = {}
    notes: tuple[str, ...] = ()
    first = 0
    for name in dict.fromkeys((task.train, task.validation, *task.also.values())):
        if name not in made:
            texts = texts_of(task, name, tables[name])  # all rows, so that they have their numbers
            made[name] = _Part(tables[name], reader.read(name) if task.label else None)
            check_words(task, name, tables[name], made[name].labels)
            task.head.check_rows(f"{task.name}: {name}", texts, made[name].labels)
        if name == task.train and task.validation not in tables:
            kept, judged = split_off(task, made[name].table, made[name].labels)
            whole = made[name]
            made |= {task.train: whole.take(kept), task.validation: whole.take(judged)}
            rows = len(judged), len(kept) + len(judged)
            notes = (_split_off_words(task, *rows, labelled=whole.labels is not None),)
        part = made[name].limited(limit, task)
        splits[name] = normalise(task, name, part.table, part.labels, first)
        first += len(part.table)
        # Before the others: what is wrong here is the cause there.
        if name == task.train != task.validation:
            _check_train(task, splits[name])
    return splits, notes


def _divided(
    task: Task,
    splits: Mapping[str, Dataset],
    seed: int,
    order: tuple[int, ...] | None,
) -> TaskData:
    whole, validation = splits[task.train], splits[task.validation]
    if task.train == task.validation:  # a test file alone: nothing is chosen on it
        selected = kept = np.arange(len(whole))
    else:
        selected = _selected(task, whole, seed)
        kept = np.setdiff1d(np.arange(len(whole)), selected)
    rng = np.random.default_rng([seed, 1])
    shown = rng.permutation(kept)[:CALIBRATION_ROWS]
    data = TaskData(
        task=task,
        train=rows_kept(whole, kept),
        selection=whole.select(selected),
        validation=validation,
        also={name: splits[split] for name, split in task.also.items()},
        calibration=whole.select(shown),
        labels=task.resolved_labels,
        fingerprint="",
        order=order,
    )
    return replace(data, fingerprint=fingerprint_of(data))


def _selected(task: Task, whole: Dataset, seed: int) -> NDArray[np.int64]:
    """Return the positions of the selection split: every class or range in its share."""
    count = max(1, min(SELECTION_ROWS, round(SELECTION_SHARE * len(whole))))
    labels = whole["label"][:] if "label" in whole.column_names else None
    groups = None
    if labels is not None:
        names = ("text", "text_pair")[: len(task.text)]
        groups = task.head.groups([whole[name][:] for name in names])
    if groups is not None:
        return together(groups, count, np.random.default_rng([seed, 0]))
    return evenly(task, len(whole), labels, count, np.random.default_rng([seed, 0]))


def _order_of(
    task: Task, model_labels: Mapping[int, str] | None
) -> tuple[tuple[int, ...] | None, str | None]:
    """Return for each class its output in the model; None where names differ or do not tell.

    Where one side has numbers for names, the order is taken for granted, with a warning, which is
    returned too.
    """
    names = task.labels or ()
    if model_labels is None or len(model_labels) != len(names):
        return None, None
    order = align_labels(names, model_labels)
    if order is not None or differ(names, model_labels) or same_numbers(names, model_labels):
        return order, None
    words = (
        f"the model's classes ({few(map(str, model_labels.values()))}) are not named as "
        f"those of {task.name}; they are taken to be, in this order, {few(names)}"
    )
    warnings.warn(words, Notice, stacklevel=3)
    return None, words


def _reordered(names: Sequence[str], order: Sequence[int]) -> tuple[str, ...]:
    return tuple(names[i] for i in np.argsort(order))


def _relabelled(part: Dataset, order: Sequence[int]) -> Dataset:
    from datasets import Dataset

    if "label" not in part.column_names:
        return part
    columns = {name: part[name][:] for name in part.column_names}
    kind = str(getattr(getattr(part.features["label"], "feature", None), "dtype", ""))
    if kind.startswith("int"):  # a class for each word
        moved: list[Any] = [
            [order[tag] if tag >= 0 else tag for tag in row] for row in columns["label"]
        ]
    else:
        moved = permuted(np.asarray(columns["label"]), order).tolist()
    return Dataset.from_dict({**columns, "label": moved}, features=part.features)


def _check_train(task: Task, train: Dataset) -> None:
    if len(train) < 2:
        raise DataError(
            f"{task.name}: the split '{task.train}' has one row; selection needs another"
        )
    labels = set(train["label"][:]) if task.head.one_value else set()
    if len(labels) == 1:
        value = labels.pop()
        what = f"class, '{task.labels[value]}'" if task.labels else f"value, {value:g}"
        raise DataError(
            f"{task.name}: column '{task.label}' of '{task.train}' holds only one {what}; there is "
            "nothing to learn"
        )


def _check_new(task: Task, train: Dataset, validation: Dataset) -> None:
    known = _known(train, validation)
    if known == len(validation):
        raise DataError(
            f"{task.name}: every row of '{task.validation}' is in '{task.train}' too; a score on "
            "it would say nothing about new texts"
        )
    if known > _MUCH_KNOWN * len(validation):
        warnings.warn(
            f"{task.name}: {known} of {len(validation)} rows of '{task.validation}' are in "
            f"'{task.train}' too; scores say that much less about new texts",
            Notice,
            stacklevel=3,
        )


def _known(train: Dataset, validation: Dataset) -> int:
    """Return how many validation rows have the texts of a training row."""
    # The texts of the smaller of both are kept: the other may be larger than memory.
    if len(train) < len(validation):
        seen = set(text_rows(train))
        return sum(row in seen for row in text_rows(validation))
    rows = Counter(text_rows(validation))
    found = {row for row in text_rows(train) if row in rows}
    return sum(rows[row] for row in found)


def _chance(task: Task, validation: Dataset) -> float:
    """Return the headline of the best constant answer on the validation set; 0 without labels."""
    if not task.head.has_labels:
        return 0.0
    labels = task.head.references(validation)
    return task.head.chance(labels, task.head.metrics[task.headline])
