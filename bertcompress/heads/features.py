"""Features: what the rows of a task become for a model. One a row, or several, as windows are.

A head encodes rows and joins what a model answers to their features; what most heads share is here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from bertcompress.support.spooling import SpooledNumbers

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from bertcompress.heads.pooling import Pooling

__all__ = [
    "CHUNK",
    "TOKENS",
    "UNBOUNDED",
    "USUAL",
    "Columns",
    "Encoded",
    "TaskFields",
    "encode_texts",
    "end_to_end",
    "limit_of",
    "numbers_of",
    "plain_texts",
    "text_columns",
    "tokens_of",
]

TOKENS = ("input_ids", "attention_mask", "token_type_ids")
"""Columns of a feature that a model reads, one value for each token."""
UNBOUNDED = 1_000_000
USUAL = 512
CHUNK = 2_000
"""Rows that are tokenized together."""
_ON_DISK: Mapping[str, type[np.signedinteger[Any]]] = {
    "input_ids": np.int32,
    "attention_mask": np.int8,
    "token_type_ids": np.int8,
}


class TaskFields(Protocol):
    """What a head reads of a task."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def text(self) -> tuple[str, ...]:
        """The columns of the texts."""

    @property
    def label(self) -> str | None:
        """The column of the label; None without labels."""

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The names of the classes; None where there are none, or they are not known yet."""

    @property
    def pooling(self) -> Pooling | None:
        """How hidden states become a vector; None: as the model's folder says."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """The name of each text column's prompt; empty: the model's default."""

    @property
    def dimensions(self) -> tuple[int, ...]:
        """The dimensions of vectors that are trained besides all of them."""

    @property
    def max_length(self) -> int | None:
        """Tokens of a feature at most; None: as many as the tokenizer allows."""


@dataclass(frozen=True)
class Columns:
    """The columns that a data set must have for a task, and what the labels become."""

    texts: tuple[str, ...]
    label: str | None
    """None without labels."""
    label_type: Literal["int64", "float32"] = "int64"
    """Of a label once it is read as a number."""
    label_form: Literal["value", "bits", "sequence", "own"] = "value"
    """One such number a row, one 0 or 1 for each class, a class for each word, or what the head
    itself reads (`Head.read_labels`)."""

    text_form: Literal["text", "words"] = "text"
    """What a cell of a text column holds: a text, or a list of words."""

    @property
    def names(self) -> tuple[str, ...]:
        """All columns, the texts first."""
        return self.texts if self.label is None else (*self.texts, self.label)


@dataclass(frozen=True)
class Encoded:
    """One split for one tokenizer: a data set, and flat arrays for quick access to single features.

    N rows, F features; F is N where each row is one feature.
    """

    dataset: Dataset
    """The features: token columns, `row_id`, `length`, `labels` where there are any, and `part`,
    the place of a feature among those of its row, where a row has several."""
    flat: Mapping[str, NDArray[np.int64]]
    """Token columns, all features end to end. Shape: (tokens,)."""
    offsets: NDArray[np.int64]
    """Where each feature begins, and the end. Shape: (F + 1,)."""
    single: Mapping[str, Sequence[Any] | NDArray[Any]]
    """Columns with one value (or one list of bits) for each feature."""
    row_of_feature: NDArray[np.int64]
    """Position of the row of each feature, in order. Shape: (F,)."""
    rows: int
    """N."""
    cut: int = 0
    """How many rows were longer than they are here."""
    longest: int = 0
    """Tokens of the longest row, uncut."""

    @classmethod
    def of(
        cls,
        flat: Mapping[str, NDArray[np.int64]],
        lengths: Sequence[int] | NDArray[np.int64],
        rows: Dataset,
        row_of_feature: Sequence[int] | NDArray[np.int64] | None = None,
        *,
        cut: int = 0,
        longest: int | None = None,
        own: Mapping[str, Sequence[Any]] | None = None,
    ) -> Encoded:
        """Return features of rows, from `end_to_end`. A feature has the label of its row.

        `own`: further columns with a value for each feature, `labels` instead of the rows'.

        `row_of_feature`: position of each feature's row, in order; None: one feature a row.
        `longest`: None where no row was cut. Raises ValueError for rows without a feature.
        """
        from datasets import Dataset
        from datasets.fingerprint import generate_random_fingerprint

        count = len(rows)
        owners = np.arange(count) if row_of_feature is None else np.asarray(row_of_feature)
        owners = owners.astype(np.int64)
        parts = _parts(owners, count)
        sizes = np.asarray(lengths, np.int64)
        single: dict[str, Any] = {"row_id": numbers_of(rows, "row_id"), "length": sizes}
        if "label" in rows.column_names and "labels" not in (own or {}):
            single["labels"] = rows["label"][:]
        if len(owners) != count:
            single["row_id"] = single["row_id"][owners]
            if "labels" in single:
                single["labels"] = [single["labels"][i] for i in owners.tolist()]
            single["part"] = parts
        single |= own or {}
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        most = int(sizes.max(initial=0)) if longest is None else longest
        # Its own fingerprint would be computed from a copy of the whole table.
        table, fingerprint = _table(flat, offsets, single), generate_random_fingerprint()
        dataset = Dataset(table, fingerprint=fingerprint)
        return cls(dataset, flat, offsets, single, owners, count, cut, most)

    def feature(self, position: int) -> dict[str, Any]:
        """Return one feature, as `dataset[position]` but without its cost."""
        start, end = self.offsets[position], self.offsets[position + 1]
        tokens = {name: values[start:end] for name, values in self.flat.items()}
        return {**tokens, **{name: values[position] for name, values in self.single.items()}}

    def feature_of(self, row: int, part: int = 0) -> int:
        """Return the position of a row's feature. Raises IndexError where it has no such part."""
        first, end = np.searchsorted(self.row_of_feature, [row, row + 1])
        if not first <= first + part < end:
            raise IndexError(f"row {row} has {end - first} features, and no part {part}")
        return int(first) + part

    def first(self, rows: int) -> Dataset:
        """Return the features of the first rows."""
        return self.dataset.select(range(int(np.searchsorted(self.row_of_feature, rows))))


def _parts(owners: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """Return the place of each feature among those of its row. Shape: (F,), both."""
    steps = np.diff(owners, prepend=-1, append=rows)
    if not len(owners) and not rows:
        return np.zeros(0, np.int64)
    # From one row to the next, or within one: a single step of 1 leads behind the last.
    if steps[0] != 1 or steps[-1] != 1 or ((steps != 0) & (steps != 1)).any():
        raise ValueError("features come in the order of their rows, and every row has one")
    firsts = np.searchsorted(owners, np.arange(rows))
    return np.asarray(np.arange(len(owners)) - firsts[owners], np.int64)


def encode_texts(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> Encoded:
    """Return each row as one feature, cut at `max_length` tokens or the tokenizer's own limit.

    Rows have `text` and, for pairs, `text_pair`; an empty second text leaves the first alone.
    """
    found = tokens_of(rows.iter(CHUNK), tokenizer, max_length)
    return Encoded.of(found.flat, found.lengths, rows, cut=found.cut, longest=found.longest)


def text_columns(rows: Dataset) -> list[str]:
    """Return the columns of a split's texts: one, or the two of a pair."""
    return [name for name in ("text", "text_pair") if name in rows.column_names]


def plain_texts(rows: Dataset) -> Iterator[Sequence[str]]:
    """Yield the texts of a split in chunks, one column after the other."""
    columns = text_columns(rows)
    for chunk in rows.select_columns(columns).iter(CHUNK):
        yield from (chunk[column] for column in columns)


@dataclass(frozen=True)
class Tokens:
    """The tokens of texts, end to end, each text cut at the same length."""

    flat: Mapping[str, NDArray[Any]]
    """Shape of each: (tokens,)."""
    lengths: NDArray[np.int64]
    """Of each text. Shape: (F,)."""
    cut: int
    """How many texts were longer than they are here."""
    longest: int
    """Tokens of the longest text, uncut."""


def tokens_of(
    chunks: Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
) -> Tokens:
    """Return the tokens of texts that come in chunks, of `text` and perhaps `text_pair`.

    Many of them are in a file, which is mapped.
    """
    limit = limit_of(tokenizer)
    limit = min(limit, max_length or (USUAL if limit == UNBOUNDED else limit))
    spools = {name: SpooledNumbers(_ON_DISK[name]) for name in TOKENS}
    made = {"input_ids", "attention_mask"}
    lengths, cut, longest = [np.zeros(0, np.int64)], 0, 0
    with contextlib.ExitStack() as stack:
        for spool in spools.values():
            stack.callback(spool.close)
        for chunk in chunks:
            tokens = _tokenized(chunk, tokenizer, limit)
            full = [i for i, ids in enumerate(tokens["input_ids"]) if len(ids) >= limit]
            uncut = _uncut_lengths(chunk, full, tokenizer)
            flat, counts = end_to_end({name: tokens[name] for name in TOKENS if name in tokens})
            for name, values in flat.items():
                spools[name].append(values)
            made.update(flat)
            lengths.append(np.asarray(counts, np.int64))
            cut += sum(n > limit for n in uncut)
            longest = max(longest, *counts, *uncut)
        whole = {name: spool.whole() for name, spool in spools.items() if name in made}
    return Tokens(whole, np.concatenate(lengths), cut, longest)


def numbers_of(rows: Dataset, column: str) -> NDArray[np.int64]:
    """Return a column of whole numbers, read as such and not one by one. Shape: (N,)."""
    # Not by the format `numpy`, which makes an object of each number on the way.
    table = rows.select_columns([column]).with_format("arrow")[:]
    return np.asarray(table.column(column).to_numpy(), np.int64)


def end_to_end(
    tokens: Mapping[str, Sequence[Sequence[int] | NDArray[np.int64]]],
) -> tuple[dict[str, NDArray[np.int64]], list[int]]:
    """Return token columns with all features end to end, and the length of each feature."""
    flat = {
        name: np.concatenate([np.asarray(each) for each in features]).astype(np.int64)
        for name, features in tokens.items()
    }
    return flat, list(map(len, tokens["input_ids"]))


def limit_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the most tokens that a tokenizer allows; `UNBOUNDED` where it states none."""
    return min(int(tokenizer.model_max_length), UNBOUNDED)


def _tokenized(
    rows: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, limit: int | None
) -> dict[str, list[Any]]:
    """Return the token columns of rows; a pair whose second text is empty is a single text."""
    options: dict[str, Any] = {"truncation": limit is not None, "max_length": limit}
    options |= {"return_attention_mask": True, "verbose": False}
    if "text_pair" not in rows:
        return dict(tokenizer(rows["text"], **options))
    pairs = [i for i, other in enumerate(rows["text_pair"]) if other]
    alone = [i for i, other in enumerate(rows["text_pair"]) if not other]
    found: dict[str, list[Any]] = {}
    for positions in filter(None, (pairs, alone)):
        texts = [[rows[name][i] for i in positions] for name in ("text", "text_pair")]
        for name, values in tokenizer(*texts[: 2 if positions is pairs else 1], **options).items():
            column = found.setdefault(name, [[]] * len(rows["text"]))
            for i, ids in zip(positions, values, strict=True):
                column[i] = ids
    return found


def _uncut_lengths(
    rows: Mapping[str, Any], positions: Sequence[int], tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    """Return how many tokens some rows have when nothing is cut."""
    if not positions:
        return []
    some = {n: [rows[n][i] for i in positions] for n in ("text", "text_pair") if n in rows}
    return list(map(len, _tokenized(some, tokenizer, None)["input_ids"]))


def _table(flat: Mapping[str, Any], offsets: NDArray[np.int64], single: Mapping[str, Any]) -> Any:
    import pyarrow as pa

    columns = {
        name: pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
        for name, values in flat.items()
    }
    for name, values in single.items():
        kind = None
        if name == "labels":
            first = values[0] if len(values) else None
            whole = isinstance(first, list) and bool(first) and isinstance(first[0], int)
            kind = pa.list_(pa.float32()) if isinstance(first, list) and not whole else None
            kind = pa.float32() if isinstance(first, float) else kind
        columns[name] = pa.array(values, type=kind)
    return pa.table(columns)
