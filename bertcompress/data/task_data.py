"""A `Task` becomes rows with a `row_id` and, per tokenizer, encoded sets.

The selection split is cut from the training set here, once, so that nothing which a run chooses was
chosen on the rows that it reports.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from bertcompress.data.encoding import Encoded, collator, numpy_batches
from bertcompress.data.rows import LabelReader, align_labels, check_columns, normalise, permuted
from bertcompress.data.sources import read_splits
from bertcompress.errors import DataError, Notice, TaskError, unknown
from bertcompress.metrics import METRICS
from bertcompress.task import Task, infer_problem

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "TaskData",
    "align_labels",
    "calibration_batches",
    "collator",
    "load_data",
    "numpy_batches",
]

SELECTION_SHARE = 0.1
SELECTION_ROWS = 1_000
CALIBRATION_ROWS = 2_048
# `limit` takes the same rows whatever the seed of a run: "a fixed 10,000 of SST-2".
_LIMIT_SEED = 0
_MUCH_KNOWN = 0.05


@dataclass(frozen=True)
class TaskData:
    """The rows of a task.

    Each split has `row_id` (int64, unique over all splits), `text`, `text_pair` (pairs only) and
    `label`: int64 for one class, float32 for regression, K bits (float32) for multi-label; no label
    where unlabelled.
    """

    task: Task
    """The task with every `auto`, empty and null field filled in."""
    train: Dataset
    selection: Dataset
    """Cut from the training set and never trained on: what a method may judge by."""
    validation: Dataset
    """Read once per stage, for the report."""
    also: Mapping[str, Dataset]
    """Further validation sets."""
    calibration: Dataset
    """Some rows of `train`, in random order, so that the first n of them are a fair sample."""
    labels: tuple[str, ...]
    """Class names in the order of the model's logits; empty for regression."""
    fingerprint: str
    """Hash of rows, splits and length: the same for a local copy as for the Hub."""
    order: tuple[int, ...] | None = None
    """For each class of the task its place in the model's logits, where the model has another
    order. Training goes by the model's order, scores by the task's: F1 is of the task's class 1."""
    _cache: WeakKeyDictionary[Any, dict[Any, Encoded]] = field(
        default_factory=WeakKeyDictionary, repr=False, compare=False
    )

    def in_task_order(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Return logits with the classes in the task's order. Shape: (N, K), both."""
        return logits if self.order is None else logits[:, list(self.order)]

    def references(self, split: str) -> NDArray[Any]:
        """Return the labels of a split, numbered as the task does. Shape: (N,), multi-label (N, K).

        Raises:
            DataError: No split has that name, or the task has no labels.
        """
        rows = self.split(split)
        if "label" not in rows.column_names:
            raise DataError(f"{self.task.name}: split '{split}' has no labels")
        labels = np.asarray(rows["label"][:])
        if self.order is None:
            return labels
        return permuted(labels, tuple(np.argsort(self.order).tolist()))

    def without_validation(self) -> TaskData:
        """Return the same data for a method, which has no business with the reported rows."""
        return replace(self, validation=self.validation.select([]), also={})

    @property
    def num_labels(self) -> int:
        """Width of the logits: classes, 1 for regression; 0 where no classes are known."""
        return 1 if self.task.problem == "regression" else len(self.labels)

    def split(self, name: str) -> Dataset:
        """Return `train`, `selection`, `validation`, `calibration` or one of `also`.

        Raises:
            DataError: No split has that name.
        """
        splits = {**self._holders, "calibration": self.calibration}
        if name not in splits:
            raise DataError(unknown(self.task.name, "split", name, splits))
        return splits[name]

    def encode(self, tokenizer: PreTrainedTokenizerBase, split: str) -> Dataset:
        """Return a split as tokens: `input_ids`, `attention_mask`, `labels`, `row_id`, `length`.

        Also `token_type_ids` where the tokenizer makes them; no `labels` where unlabelled. Texts
        are cut at `task.max_length` tokens or at the tokenizer's own limit. Kept in memory per
        tokenizer.
        """
        return self._encoded(tokenizer, split).dataset

    def rows(
        self, row_ids: Sequence[int] | NDArray[np.int64], tokenizer: PreTrainedTokenizerBase
    ) -> list[dict[str, Any]]:
        """Return encoded rows of any split, in the order asked, ready for `collator(tokenizer)`.

        So a teacher with another tokenizer can be asked about the rows of a batch.
        Shape: row_ids (B,).

        Raises:
            DataError: No split holds such a row.
        """
        out = []
        names = list(self._holders)
        for row_id in map(int, row_ids):
            if not 0 <= row_id < len(self._where) or self._where[row_id, 0] < 0:
                raise DataError(f"{self.task.name}: no row has the id {row_id}")
            holder, position = self._where[row_id]
            out.append(self._encoded(tokenizer, names[holder]).row(int(position)))
        return out

    @property
    def _holders(self) -> dict[str, Dataset]:
        """The splits that hold each row once."""
        return {
            "train": self.train,
            "selection": self.selection,
            "validation": self.validation,
            **self.also,
        }

    @cached_property
    def _where(self) -> NDArray[np.int64]:
        """Split and position of each row id. Shape: (rows, 2)."""
        ids = [np.asarray(split["row_id"][:], np.int64) for split in self._holders.values()]
        where = np.full((1 + max(int(i.max(initial=-1)) for i in ids), 2), -1, dtype=np.int64)
        for number, members in enumerate(ids):
            where[members, 0] = number
            where[members, 1] = np.arange(len(members))
        return where

    def _encoded(self, tokenizer: PreTrainedTokenizerBase, split: str) -> Encoded:
        # With its length: a tokenizer whose vocabulary was changed in place is another one.
        kept, key = self._cache.setdefault(tokenizer, {}), (split, len(tokenizer))
        if key not in kept:
            kept[key] = Encoded.of(self.split(split), tokenizer, self.task.max_length)
        return kept[key]


def calibration_batches(
    data: TaskData, tokenizer: PreTrainedTokenizerBase, rows: int, batch_size: int = 32
) -> list[dict[str, Any]]:
    """Return the first calibration rows as torch batches, rows of like lengths together."""
    encoded = data.encode(tokenizer, "calibration")
    collate = collator(tokenizer)
    shown = encoded.select(range(min(rows, len(encoded))))
    each = sorted(shown, key=itemgetter("length"))
    return [collate(each[i : i + batch_size]) for i in range(0, len(each), batch_size)]


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
    raw = read_splits(task, data_dir)
    for name, part in raw.items():
        check_columns(task, name, part)
    task, reader = _settled(task, raw[task.train])
    raw = {name: _limited(part, limit) for name, part in raw.items()}
    splits = _numbered(task, raw, reader)
    if task.chance is None:
        task = task.model_copy(update={"chance": _chance(task, splits[task.validation])})
    order = _order_of(task, model_labels)
    if order is not None:
        task = task.model_copy(update={"labels": _reordered(task.labels or (), order)})
        splits = {name: _relabelled(part, order) for name, part in splits.items()}
    _check_new(task, splits[task.train], splits[task.validation])
    return _divided(task, splits, seed, order)


def _settled(task: Task, train: Dataset) -> tuple[Task, LabelReader]:
    """Return the task with all fields but `chance` filled in, and the reader of its labels."""
    if task.problem == "auto":
        try:
            problem = infer_problem(train.features[task.label])
        except TaskError as error:
            raise DataError(f"{task.name}: column '{task.label}': {error}") from None
        task = task.model_copy(update={"problem": problem})
    reader = LabelReader.of(task, train)
    return task.resolved(train, reader.names), reader


def _numbered(task: Task, raw: Mapping[str, Dataset], reader: LabelReader) -> dict[str, Dataset]:
    """Return the splits in one form, the row ids counting through them, training rows first."""
    names = list(dict.fromkeys((task.train, task.validation, *task.also.values())))
    splits, first = {}, 0
    for name in names:
        splits[name] = normalise(task, name, raw[name], reader, first)
        first += len(raw[name])
        if name == task.train:  # before the others: what is wrong here is the cause there
            _check_train(task, splits[name])
    return splits


def _divided(
    task: Task, splits: Mapping[str, Dataset], seed: int, order: tuple[int, ...] | None
) -> TaskData:
    whole, validation = splits[task.train], splits[task.validation]
    selected = _selected(task, whole, seed)
    kept = np.setdiff1d(np.arange(len(whole)), selected)
    rng = np.random.default_rng([seed, 1])
    shown = rng.permutation(kept)[:CALIBRATION_ROWS]
    data = TaskData(
        task=task,
        train=whole.select(kept),
        selection=whole.select(selected),
        validation=validation,
        also={name: splits[split] for name, split in task.also.items()},
        calibration=whole.select(shown),
        labels=task.resolved_labels,
        fingerprint="",
        order=order,
    )
    return replace(data, fingerprint=_fingerprint(data))


def _limited(part: Dataset, limit: int | None) -> Dataset:
    if limit is None or len(part) <= limit:
        return part
    rng = np.random.default_rng(_LIMIT_SEED)
    return part.select(np.sort(rng.permutation(len(part))[:limit]))


def _selected(task: Task, whole: Dataset, seed: int) -> NDArray[np.int64]:
    """Return the positions of the selection split, every class (or range of numbers) in its share.

    Rows in the order of their labels, ties at random, and each n-th of them.
    """
    count = max(1, min(SELECTION_ROWS, round(SELECTION_SHARE * len(whole))))
    rng = np.random.default_rng([seed, 0])
    shuffled = rng.permutation(len(whole))
    if task.problem in ("single_label", "regression"):
        labels = np.asarray(whole["label"][:])
        shuffled = shuffled[np.argsort(labels[shuffled], kind="stable")]
    picks = ((np.arange(count) + rng.random()) * len(whole) / count).astype(np.int64)
    return np.sort(shuffled[picks])


def _order_of(task: Task, model_labels: Mapping[int, str] | None) -> tuple[int, ...] | None:
    """Return for each class its output in the model; None, with a warning, where names differ."""
    names = task.labels or ()
    if model_labels is None or len(model_labels) != len(names):
        return None
    order = align_labels(names, model_labels)
    if order is None:
        warnings.warn(
            f"the model's classes ({', '.join(map(str, model_labels.values()))}) are not named as "
            f"those of {task.name}; they are taken to be, in this order, {', '.join(names)}",
            Notice,
            stacklevel=3,
        )
    return order


def _reordered(names: Sequence[str], order: Sequence[int]) -> tuple[str, ...]:
    return tuple(names[i] for i in np.argsort(order))


def _relabelled(part: Dataset, order: Sequence[int]) -> Dataset:
    from datasets import Dataset

    if "label" not in part.column_names:
        return part
    labels = permuted(np.asarray(part["label"][:]), order)
    columns = {name: part[name][:] for name in part.column_names}
    return Dataset.from_dict({**columns, "label": labels.tolist()}, features=part.features)


def _check_train(task: Task, train: Dataset) -> None:
    if len(train) < 2:
        raise DataError(
            f"{task.name}: the split '{task.train}' has one row; selection needs another"
        )
    labels = set(train["label"][:]) if task.problem in ("single_label", "regression") else set()
    if len(labels) == 1:
        value = labels.pop()
        what = f"class, '{task.labels[value]}'" if task.labels else f"value, {value:g}"
        raise DataError(
            f"{task.name}: column '{task.label}' of '{task.train}' holds only one {what}; there is "
            "nothing to learn"
        )


def _check_new(task: Task, train: Dataset, validation: Dataset) -> None:
    seen, rows = set(_keys(train)), _keys(validation)
    known = sum(row in seen for row in rows)
    if known == len(rows):
        raise DataError(
            f"{task.name}: every row of '{task.validation}' is in '{task.train}' too; a score on "
            "it would say nothing about new texts"
        )
    if known > _MUCH_KNOWN * len(rows):
        warnings.warn(
            f"{task.name}: {known} of {len(rows)} rows of '{task.validation}' are in "
            f"'{task.train}' too; scores say that much less about new texts",
            Notice,
            stacklevel=3,
        )


def _keys(part: Dataset) -> list[tuple[str, ...]]:
    columns = [part[name][:] for name in ("text", "text_pair") if name in part.column_names]
    return list(zip(*columns, strict=True))


def _chance(task: Task, validation: Dataset) -> float:
    """Return the headline of the best constant answer on the validation set; 0 without classes."""
    if task.problem not in ("single_label", "multi_label"):
        return 0.0
    labels = np.asarray(validation["label"][:])
    ones = np.ones((1, len(labels)))
    if task.problem == "single_label":
        constants = [np.full_like(labels, c) for c in np.unique(labels)]
    else:
        labels = labels > 0.5
        usual = np.broadcast_to(labels.mean(axis=0) > 0.5, labels.shape)
        constants = [np.zeros_like(labels), np.ones_like(labels), usual]
    score = METRICS[task.headline].weighted
    return round(max(float(score(constant, labels, ones)[0]) for constant in constants), 4)


def _fingerprint(data: TaskData) -> str:
    """Hash what a model sees and is chosen by; not where it came from."""
    task = data.task
    told = f"{task.problem} {data.labels} {data.order} {task.max_length} {task.headline}"
    digest = hashlib.sha256(told.encode())
    for name in ("train", "selection", "validation", "calibration", *data.also):
        part = data.split(name)
        digest.update(f"\0split {name}".encode())
        for row in zip(*(part[column][:] for column in part.column_names), strict=True):
            digest.update(repr(row).encode())
    return digest.hexdigest()
