"""Which splits a task trains and is judged on, and rows split off where there is only one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertcompress.data.rows import texts_of
from bertcompress.data.sources import Splits, find_splits
from bertcompress.data.tables import Table
from bertcompress.errors import DataError, unknown
from bertcompress.support.formats import VALIDATION_NAMES
from bertcompress.task import Task

__all__ = ["Found", "chosen_splits", "evenly", "split_off", "together"]

_SHARE = 0.1
_AT_LEAST = 100
_AT_MOST = 5_000
_SEED = 0
_COPIES = 3
_TRAIN, _VALIDATION = "train", "validation"


@dataclass(frozen=True)
class Found:
    """The splits of a task by name, training rows first; without the one to be split off."""

    task: Task
    """With the names of the splits as they are."""
    tables: Mapping[str, Table]
    notes: tuple[str, ...]


def chosen_splits(task: Task, data_dir: str | Path | None, limit: int | None) -> Found:
    """Read the splits that a task names, or those that stand for `train` and `validation`.

    Raises DataError for one that is named and is not there.
    """
    splits = find_splits(task, task.config, data_dir, limit)
    other = task.train_config not in (None, task.config)
    training = find_splits(task, task.train_config, data_dir, limit) if other else splits
    notes: list[str] = []
    train = task.train
    if train == _TRAIN and train not in training and len(training) == 1:
        train = next(iter(training))
        notes.append(f"no split '{_TRAIN}': trained on '{train}', the only one")
    tables = {task.train: _split(task, training, train)}
    validation = task.validation
    if validation == _VALIDATION and (validation not in splits or validation == train):
        validation, table = _stand_in(task, splits, train)
        if table is not None:
            tables[validation] = table
            notes.append(f"no split '{_VALIDATION}': judged on '{validation}'")
    else:
        tables[validation] = _split(task, splits, validation)
    for name in task.also.values():
        tables[name] = _split(task, splits, name)
    return Found(task.model_copy(update={"validation": validation}), tables, tuple(notes))


def _split(task: Task, splits: Splits, name: str) -> Table:
    if name not in splits:
        raise DataError(unknown(task.name, "split", name, splits))
    return splits[name]()


def _stand_in(task: Task, splits: Splits, train: str) -> tuple[str, Table | None]:
    """Return the split to judge on that has labels; none where rows are to be split off."""
    for name in VALIDATION_NAMES:
        if name not in splits or name == train or name in task.also.values():
            continue
        table = splits[name]()
        labels = table.columns.get(task.label or "", ())
        if task.label is None or any(str(v) not in ("-1", "None", "") for v in labels):
            return name, table
    return _VALIDATION, None


def split_off(
    task: Task, table: Table, labels: Sequence[Any] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of the rows that stay, and of those to judge on; no text is in both."""
    count = len(table)
    wanted = min(_AT_MOST, max(round(_SHARE * count), min(_AT_LEAST, count // 5), 1))
    groups = task.head.groups([table.columns[name] for name in task.text])
    if groups is not None:
        judged = together(groups, wanted, np.random.default_rng(_SEED))
        return np.setdiff1d(np.arange(count), judged), judged
    picked = evenly(task, count, labels, wanted, np.random.default_rng(_SEED))
    columns = texts_of(task, task.train, table)
    drawn = {tuple(column[int(i)] for column in columns) for i in picked}
    often = Counter(text for text in zip(*columns, strict=True) if text in drawn)
    # Rows of one text stay together; a text that comes again and again stays in training.
    chosen = {text for text in drawn if often[text] <= _COPIES}
    texts = zip(*columns, strict=True)
    judged = np.asarray([i for i, text in enumerate(texts) if text in chosen], np.int64)
    if not len(judged):
        raise DataError(
            f"{task.name}: no rows can be split off '{task.train}' to judge on: hardly any text is "
            "there less than four times; give rows of your own (--validation)"
        )
    return np.setdiff1d(np.arange(count), judged), judged


def evenly(
    task: Task, rows: int, labels: Sequence[Any] | None, count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return positions of some rows in order, every class (or range of numbers) in its share.

    Rows in the order of their labels, ties at random, and each n-th of them.
    """
    shuffled = rng.permutation(rows)
    if labels is not None and task.head.one_value:
        known = np.asarray(labels)
        shuffled = shuffled[np.argsort(known[shuffled], kind="stable")]
    picks = ((np.arange(count) + rng.random()) * rows / count).astype(np.int64)
    return np.sort(shuffled[picks])


def together(groups: Sequence[Any], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return positions of about so many rows in order: whole groups, at random, never all of them.

    `groups`: what each row belongs to.
    """
    _, names = np.unique(np.asarray(groups, object), return_inverse=True)
    sizes = np.bincount(names)
    order = rng.permutation(len(sizes))[: max(1, len(sizes) - 1)]
    enough = 1 + int(np.searchsorted(np.cumsum(sizes[order]), count))
    return np.flatnonzero(np.isin(names, order[:enough])).astype(np.int64)
