"""Transfer text: rows without labels that only a teacher answers, beside a task's own."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from bertcompress.data.rows import normalise, text_digest, text_rows, texts_of
from bertcompress.data.sources import find_splits
from bertcompress.data.tables import Table, check_columns
from bertcompress.data.task_data import TaskData, fingerprint_of
from bertcompress.errors import DataError, TaskError, unknown
from bertcompress.heads.features import Encoded, numbers_of
from bertcompress.support.catalogue import list_names
from bertcompress.support.formats import check_format, format_of, line_files, name_of
from bertcompress.task import Task

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray

__all__ = [
    "Augmentation",
    "TransferRows",
    "TransferText",
    "check_unlabelled",
    "new_texts",
    "read_transfer",
    "unlabelled_rows",
    "with_transfer",
]

Row = tuple[str, ...]


class TransferText(BaseModel):
    """Which texts without labels a teacher answers besides those of the task."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(
        description="File of one text a line, table, JSON lines, data set on the Hub, or a task"
    )
    text: tuple[str, ...] | None = Field(
        None, min_length=1, max_length=2, description="Its text columns; null: named as the task's"
    )
    split: str | None = Field(None, description="Its split; null: the one that is trained on")
    config: str | None = Field(None, description="Its configuration, where it has several")
    rows: int | None = Field(None, ge=1, description="At most so many, drawn by the seed")


class Augmentation(BaseModel):
    """How many texts are made of each training row by replacing words, and how many words."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    copies: int = Field(20, ge=1, le=100, description="Texts made of each training row (N_a)")
    probability: float = Field(
        0.4, gt=0, le=1, description="How likely each word is replaced (p_t)"
    )
    candidates: int = Field(
        15, ge=1, le=1_000, description="So many words may stand in its place (K)"
    )


@dataclass(frozen=True)
class TransferRows:
    """Rows without labels, none of which is reported, chosen by or trained on already."""

    rows: Dataset
    """`row_id`, `text`, `text_pair` (pairs only), as the splits of the task have them."""
    words: str
    """Where they come from, how many they are and how many were left out, for the report."""
    fingerprint: str


def read_transfer(
    asked: TransferText, data: TaskData, data_dir: str | Path | None = None, seed: int = 0
) -> TransferRows:
    """Return the texts that a recipe names for the teacher of a task, in the form of its rows.

    Left out are texts that `data` holds already, in a reported split first of all, and those that
    come again; case and white space do not count. Of more than `asked.rows` as many are drawn by
    the seed. Raises DataError and TaskError for what cannot be read so.
    """
    check_unlabelled(data.task, "transfer")
    task, split = _reading(asked, data.task)
    own = data_dir if task.dataset == data.task.dataset else None
    table = _table(asked, task, split, own)
    kept, left = new_texts(zip(*texts_of(task, split, table), strict=True), data)
    if not len(kept):
        raise DataError(
            f"transfer: '{asked.source}': none of {len(table):,} texts is new to '{data.task.name}'"
        )
    if asked.rows is not None and len(kept) > asked.rows:
        drawn = np.random.default_rng([seed, 2]).permutation(len(kept))[: asked.rows]
        left.append(f"{len(kept) - asked.rows:,} beyond rows: {asked.rows}")
        kept = kept[np.sort(drawn)]
    rows = normalise(task, split, table.take(kept), None, _next_id(data))
    words = f"transfer text: {len(rows):,} rows of '{asked.source}' that the teacher alone answers"
    words += f" (left out: {', '.join(left)})" if left else ""
    return TransferRows(rows, words, fingerprint_of(replace(data, transfer=rows)))


def check_unlabelled(task: Task, setting: str) -> None:
    """Raise TaskError for a task whose rows cannot be read without labels; `setting`: who asks."""
    if not task.head.reads_unlabelled:
        raise TaskError(
            f"{setting}: the rows of a {task.head.key} task cannot be read without its labels"
        )


def unlabelled_rows(data: TaskData, columns: Mapping[str, Sequence[Any]]) -> Dataset:
    """Return texts as rows of a task without labels, in the form of its training rows.

    `columns`: `text`, and `text_pair` and `words` where the training rows have them.
    """
    from datasets import Dataset, Features

    first = _next_id(data)
    numbered = {"row_id": list(range(first, first + len(columns["text"]))), **columns}
    form = data.train.features
    return Dataset.from_dict(numbered, features=Features({name: form[name] for name in numbered}))


def with_transfer(data: TaskData, transfer: TransferRows) -> TaskData:
    """Return the same data with a further split, `transfer`, whose rows have no labels.

    Texts that such a split holds already stay before the new ones.
    """
    from datasets import concatenate_datasets

    before = () if data.transfer is None else (data.transfer,)
    rows = concatenate_datasets([*before, transfer.rows]) if before else transfer.rows
    handed_on: WeakKeyDictionary[Any, dict[Any, Encoded]] = WeakKeyDictionary()
    for tokenizer, encoded in data._cache.items():
        handed_on[tokenizer] = dict(encoded)
    both = hashlib.sha256(f"{data.fingerprint} {transfer.fingerprint}".encode()).hexdigest()
    return replace(data, transfer=rows, fingerprint=both, _cache=handed_on)


def _reading(asked: TransferText, task: Task) -> tuple[Task, str]:
    """Return how to read the texts: a task like the given one, without a label, and the split."""
    source, split = asked.source, asked.split or "train"
    columns = asked.text or task.text
    fields: dict[str, object] = {
        "label": None, "revision": None, "files": {}, "config": None, "train_config": None
    }  # fmt: skip
    lines = line_files(source, None)
    form = format_of(source)
    if asked.config is not None and (lines is not None or form is not None):
        raise TaskError(f"transfer: config: '{asked.config}': the file '{source}' has none")
    if lines is not None:
        fields |= {"dataset": lines["dataset"], "files": {split: lines["files"]["train"]}}
    elif form is not None:
        path = str(Path(source).expanduser().absolute())
        fields |= {"dataset": form, "files": {split: path}}
    elif (other := _other_task(source)) is not None:
        split = asked.split or other.train
        columns = asked.text or other.text
        trained = other.train_config if split == other.train else None
        fields |= {name: getattr(other, name) for name in ("dataset", "files", "revision")}
        fields |= {"config": asked.config or trained or other.config}
    else:
        check_format(source)  # not a format that is read: said so
        fields |= {"dataset": source, "config": asked.config}
    if len(columns) != len(task.text):
        raise TaskError(
            f"transfer: '{source}': {len(columns)} text column{'s' if len(columns) > 1 else ''} "
            f"({', '.join(columns)}), and task '{task.name}' has {len(task.text)}; name as many "
            "(text)"
        )
    fields |= {"text": tuple(columns), "train": split, "name": f"transfer {name_of(source)}"}
    made = task.model_copy(update=fields)
    made._memory = None  # of the task's own rows
    return made, split


def _other_task(source: str) -> Task | None:
    """Return the task of a name in the catalogue or of a YAML file; None where it is none."""
    named = source.endswith((".yaml", ".yml")) or source in list_names("tasks")
    return Task.load(source) if named else None


def _table(asked: TransferText, task: Task, split: str, data_dir: str | Path | None) -> Table:
    splits = find_splits(task, task.config, data_dir)
    if split not in splits:
        raise DataError(unknown(f"transfer: '{asked.source}'", "split", split, splits))
    table = splits[split]()
    check_columns(task, split, table)
    return table


def _splits(data: TaskData) -> dict[str, Dataset]:
    judged = {"validation": data.validation, **data.also}
    more = {} if data.transfer is None else {"transfer": data.transfer}
    return {**judged, "selection": data.selection, "train": data.train, **more}


def _next_id(data: TaskData) -> int:
    """Return a row id that no row has, nor one that is reported."""
    last = [int(numbers_of(part, "row_id").max(initial=-1)) for part in _splits(data).values()]
    return 1 + max(data.last_id, *last)


_NOT_REPORTED = {
    "train": "training rows",
    "selection": "selection rows",
    "transfer": "rows of transfer text",
}


def new_texts(texts: Iterable[Row], data: TaskData) -> tuple[NDArray[np.int64], list[str]]:
    """Return the places of texts that no split has, each once, and in words why others go.

    Texts may be a stream; about 150 bytes are kept of each.
    """
    known: dict[bytes, str] = {}
    for name, rows in reversed(_splits(data).items()):  # a reported row is one before all else
        what = _NOT_REPORTED.get(name, "reported rows")
        known |= dict.fromkeys(map(text_digest, text_rows(rows)), what)
    known |= dict.fromkeys(data.reported, "reported rows")
    kept = array("q")
    gone: Counter[str] = Counter()
    for place, digest in enumerate(map(text_digest, texts)):
        if digest in known:
            gone[known[digest]] += 1
        else:
            kept.append(place)
            known[digest] = "texts that come again"
    left = [f"{count:,} {why}" for why, count in gone.items()]
    return np.frombuffer(kept, np.int64) if kept else np.empty(0, np.int64), left
