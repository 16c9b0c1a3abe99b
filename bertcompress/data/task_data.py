"""A `Task` becomes rows with a `row_id` and, per tokenizer, encoded sets.

The selection split is cut from the training set here, once, so that nothing which a run chooses was
chosen on the rows that it reports.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import itemgetter
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from bertcompress.data.encoding import collator
from bertcompress.data.lengths import MEASURED, Lengths, cut_note, sampled
from bertcompress.data.matching import permuted
from bertcompress.data.rows import text_digest, text_rows
from bertcompress.data.text_column import BATCH
from bertcompress.errors import DataError, unknown
from bertcompress.heads.features import UNBOUNDED, USUAL, Encoded, limit_of, numbers_of
from bertcompress.task import Task

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = ["TaskData", "calibration_batches", "fingerprint_of", "judged_digest"]

# Lengths are rounded up to what kernels like.
_MULTIPLE = 8


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
    transfer: Dataset | None = None
    """Further texts without labels, which nothing but a teacher answers; None: there are none."""
    reported: frozenset[bytes] = frozenset()
    """Digests (`text_digest`) of the reported rows that `without_validation` took away, so that
    what is made of the other rows can be held against them."""
    last_id: int = -1
    """The highest row id of those rows; -1 where none was taken away."""
    notes: tuple[str, ...] = ()
    """What the report says of the data, a line each: rows cut, or split off to judge on."""
    said: tuple[str, ...] = ()
    """What was decided without being asked, a line each: what the labels are, and the length."""
    cut: Mapping[str, float] = field(default_factory=dict)
    """Share of the rows of each split that `fitted` cuts, 0 to 1; empty before it."""
    asked_length: int | None = None
    """The `max_length` that the task asked for, once `fitted`; None: it was chosen by the rows.
    Texts to come may be longer than those rows."""
    by_order: str | None = None
    """In words that a model's classes are taken to be the task's in this order; None: by name."""
    _cache: WeakKeyDictionary[Any, dict[Any, Encoded]] = field(
        default_factory=WeakKeyDictionary, repr=False, compare=False
    )

    def fitted(self, tokenizer: PreTrainedTokenizerBase, longest: int | None = None) -> TaskData:
        """Return the same data with `task.max_length` settled for a model.

        A task that gives none gets what its longest row needs. `longest`: the most tokens that the
        model takes; None: what its tokenizer says. A note says which share of the rows is cut.
        """
        asked, bound = self.task.max_length, min(limit_of(tokenizer), longest or UNBOUNDED)
        bound = USUAL if bound == UNBOUNDED and asked is None else bound
        data = self._cut_at(min(asked or bound, bound))
        lengths = {name: data.lengths(tokenizer, name) for name in data._holders}
        whole = max(each.longest for each in lengths.values())
        length = asked or min(bound, max(_MULTIPLE, -(-whole // _MULTIPLE) * _MULTIPLE))
        note = cut_note(min(length, bound), bound, lengths)
        said = f"max_length {length}: the longest row has {whole:,} tokens"
        # Nothing is longer than it was cut at: what is encoded stays good.
        task = self.task.model_copy(update={"max_length": length})
        done = replace(
            data,
            task=task,
            notes=(*self.notes, *note),
            cut={name: each.cut / max(1, each.rows) for name, each in lengths.items()},
            said=(*self.said, *([said] if asked is None else [])),
            asked_length=asked,
        )
        return replace(done, fingerprint=fingerprint_of(done))

    def lengths(self, tokenizer: PreTrainedTokenizerBase, split: str) -> Lengths:
        """Return how long the rows of a split are in tokens, and how many of them are cut."""
        rows = self.split(split)
        if len(rows) > MEASURED:
            return sampled(rows, tokenizer, self.task)
        return Lengths.of(self.encoded(tokenizer, split))

    def _cut_at(self, length: int) -> TaskData:
        task = self.task.model_copy(update={"max_length": length})
        return replace(self, task=task, _cache=WeakKeyDictionary())

    def in_task_order(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Return outputs with the classes in the task's order. Shape: (..., K), both."""
        return logits if self.order is None else logits[..., list(self.order)]

    def references(self, split: str) -> NDArray[Any]:
        """Return the labels of a split, numbered as the task does. Shape: (N,), multi-label (N, K).

        Raises:
            DataError: No split has that name, or the task has no labels.
        """
        rows = self.split(split)
        if "label" not in rows.column_names:
            raise DataError(f"{self.task.name}: split '{split}' has no labels")
        labels = self.task.head.references(rows)
        if self.order is None:
            return labels
        return permuted(labels, tuple(np.argsort(self.order).tolist()))

    @property
    def learned(self) -> tuple[str, ...]:
        """The splits that a student of a teacher is trained on."""
        return ("train",) if self.transfer is None else ("train", "transfer")

    def without_validation(self) -> TaskData:
        """Return the same data for methods: no reported row, and none that was encoded before.

        What is encoded of the other splits is handed on; from then on each keeps its own. Of the
        texts of the reported rows digests stay.
        """
        reported = {"validation", *self.also}
        handed_on: WeakKeyDictionary[Any, dict[Any, Encoded]] = WeakKeyDictionary()
        for tokenizer, encoded in self._cache.items():
            handed_on[tokenizer] = {k: v for k, v in encoded.items() if k[0] not in reported}
        nothing = type(self.validation).from_dict(
            {name: [] for name in self.validation.column_names}, features=self.validation.features
        )
        away = (self.validation, *self.also.values())
        last = max(max(rows["row_id"][:], default=-1) for rows in away)
        return replace(
            self,
            validation=nothing,
            also={},
            reported=self.reported | self._digests,
            last_id=max(self.last_id, int(last)),
            _cache=handed_on,
        )

    @property
    def num_labels(self) -> int:
        """Width of the logits: classes, 1 for regression; 0 where no classes are known."""
        return self.task.head.width(self.labels)

    def split(self, name: str) -> Dataset:
        """Return `train`, `selection`, `validation`, `calibration`, `transfer` or one of `also`.

        Raises:
            DataError: No split has that name.
        """
        splits = {**self._holders, "calibration": self.calibration}
        if name not in splits:
            raise DataError(unknown(self.task.name, "split", name, splits))
        return splits[name]

    def encode(self, tokenizer: PreTrainedTokenizerBase, split: str) -> Dataset:
        """Return the features of a split: `input_ids`, `attention_mask`, `labels`, `row_id` ...

        Also `length`, `token_type_ids` where the tokenizer makes them, and `part` where the head
        makes several features of a row; no `labels` where unlabelled. They are cut at
        `task.max_length` tokens or at the tokenizer's own limit; `fitted` says at how many where
        the task does not. Kept in memory per tokenizer.
        """
        return self.encoded(tokenizer, split).dataset

    def encoded(self, tokenizer: PreTrainedTokenizerBase, split: str) -> Encoded:
        """Return the same with the row of each feature, as the task's head encodes them."""
        rows = self.split(split)
        # With their lengths: a vocabulary may be changed in place, and a split be cut by `replace`.
        kept, key = self._cache.setdefault(tokenizer, {}), (split, len(rows), len(tokenizer))
        if key not in kept:
            kept[key] = self.task.head.encode(rows, tokenizer, self.task)
        return kept[key]

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[..., dict[str, Any]]:
        """Return a function from features to a batch of torch tensors, as the head collates."""
        return collator(tokenizer, head=self.task.head)

    def rows(
        self,
        row_ids: Sequence[int] | NDArray[np.int64],
        tokenizer: PreTrainedTokenizerBase,
        parts: Sequence[int] | NDArray[np.int64] | None = None,
    ) -> list[dict[str, Any]]:
        """Return features of rows of any split, in the order asked, ready for `collator`.

        So a teacher with another tokenizer can be asked about the rows of a batch. `parts`: which
        of a row's features; None: its first. Shape: row_ids and parts (B,).

        Raises:
            DataError: No split holds such a row, or it has no such part.
        """
        out = []
        names = list(self._holders)
        chosen = [0] * len(row_ids) if parts is None else [int(part) for part in parts]
        for row_id, part in zip(map(int, row_ids), chosen, strict=True):
            if not 0 <= row_id < len(self._where) or self._where[row_id, 0] < 0:
                raise DataError(f"{self.task.name}: no row has the id {row_id}")
            holder, position = self._where[row_id]
            encoded = self.encoded(tokenizer, names[holder])
            try:
                out.append(encoded.feature(encoded.feature_of(int(position), part)))
            except IndexError as error:
                raise DataError(f"{self.task.name}: row id {row_id}: {error}") from None
        return out

    @property
    def _holders(self) -> dict[str, Dataset]:
        """The splits that hold each row once."""
        return {
            "train": self.train,
            "selection": self.selection,
            "validation": self.validation,
            **self.also,
            **({} if self.transfer is None else {"transfer": self.transfer}),
        }

    @cached_property
    def _digests(self) -> frozenset[bytes]:
        """Digests of the reported rows, where texts without labels may be read beside them."""
        if not self.task.head.reads_unlabelled:
            return frozenset()
        splits = (self.validation, *self.also.values())
        return frozenset(text_digest(row) for rows in splits for row in text_rows(rows))

    @cached_property
    def _where(self) -> NDArray[np.int64]:
        """Split and position of each row id. Shape: (rows, 2)."""
        ids = [numbers_of(split, "row_id") for split in self._holders.values()]
        where = np.full((1 + max(int(i.max(initial=-1)) for i in ids), 2), -1, dtype=np.int64)
        for number, members in enumerate(ids):
            where[members, 0] = number
            where[members, 1] = np.arange(len(members))
        return where


def calibration_batches(
    data: TaskData,
    tokenizer: PreTrainedTokenizerBase,
    rows: int,
    batch_size: int = 32,
    *,
    by_length: bool = True,
) -> list[dict[str, Any]]:
    """Return the first calibration rows as torch batches.

    `by_length`: features of like lengths together; else each batch is a sample of the rows.
    """
    collate = data.collator(tokenizer)
    each = [*data.encoded(tokenizer, "calibration").first(rows)]
    if by_length:
        each.sort(key=itemgetter("length"))
    return [collate(each[i : i + batch_size]) for i in range(0, len(each), batch_size)]


def fingerprint_of(data: TaskData) -> str:
    """Hash what a model sees and is chosen by; not where it came from."""
    task = data.task
    told = f"{task.problem} {data.labels} {data.order} {task.max_length} {task.headline}"
    if task.pooling is not None:
        told += f" {task.pooling.model_dump_json()} {task.prompts} {task.dimensions}"
    digest = hashlib.sha256(told.encode())
    more = () if data.transfer is None else ("transfer",)
    for name in ("train", "selection", "validation", "calibration", *data.also, *more):
        part = data.split(name)
        digest.update(f"\0split {name}".encode())
        for batch in part.iter(BATCH):
            for row in zip(*(batch[column] for column in part.column_names), strict=True):
                digest.update(repr(row).encode())
    return digest.hexdigest()


def judged_digest(data: TaskData) -> str:
    """Hash the rows that scores are reported of, classes by their names, as no model reads them.

    Two runs with the same digest were judged on the same texts and labels, in the same order.
    """
    digest = hashlib.sha256()
    for name in ("validation", *data.also):
        part = data.split(name)
        digest.update(f"\0split {name}".encode())
        columns = [column for column in part.column_names if column != "row_id"]
        for batch in part.iter(BATCH):
            for row in zip(*(batch[column] for column in columns), strict=True):
                told = [
                    _named(cell, data.labels) if column == "label" else cell
                    for column, cell in zip(columns, row, strict=True)
                ]
                digest.update(repr(told).encode())
    return digest.hexdigest()


def _named(label: Any, names: Sequence[str]) -> Any:
    """Return a label with the names of its classes, which two readings may number otherwise."""
    if isinstance(label, list):
        return [_named(each, names) for each in label]
    known = isinstance(label, int) and 0 <= label < len(names)
    return names[label] if known else label
