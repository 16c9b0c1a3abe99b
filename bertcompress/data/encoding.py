"""Texts to tokens, and rows of tokens to padded batches, for torch and for any `Predictor`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bertcompress.errors import ModelError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = ["UNBOUNDED", "USUAL", "Encoded", "collator", "limit_of", "numpy_batches"]

_TOKENS = ("input_ids", "attention_mask", "token_type_ids")
_CHUNK = 2_000
UNBOUNDED = 1_000_000
USUAL = 512


@dataclass(frozen=True)
class Encoded:
    """One split for one tokenizer: a data set, and flat arrays for quick access to single rows."""

    dataset: Dataset
    flat: Mapping[str, NDArray[np.int64]]
    """Token columns, all rows end to end. Shape: (tokens,)."""
    offsets: NDArray[np.int64]
    """Where each row begins, and the end. Shape: (N + 1,)."""
    single: Mapping[str, Sequence[Any]]
    """Columns with one value (or one list of bits) per row: `row_id`, `labels`, `length`."""
    cut: int = 0
    """How many rows were longer than they are here."""
    longest: int = 0
    """Tokens of the longest row, uncut."""

    @classmethod
    def of(
        cls, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None
    ) -> Encoded:
        """Return the rows encoded, each cut at `max_length` tokens or the tokenizer's own limit."""
        from datasets import Dataset

        parts: dict[str, list[NDArray[np.int64]]] = {}
        lengths: list[int] = []
        limit = limit_of(tokenizer)
        limit = min(limit, max_length or (USUAL if limit == UNBOUNDED else limit))
        uncut: list[int] = []
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            tokens = _tokenized(chunk, tokenizer, limit)
            lengths += map(len, tokens["input_ids"])
            full = [i for i, ids in enumerate(tokens["input_ids"]) if len(ids) >= limit]
            uncut += _uncut_lengths(chunk, full, tokenizer)
            for name in _TOKENS:
                if name in tokens:
                    parts.setdefault(name, []).append(
                        np.concatenate([np.asarray(r) for r in tokens[name]])
                    )
        if not len(rows):
            parts = {name: [np.zeros(0, np.int64)] for name in ("input_ids", "attention_mask")}
        flat = {name: np.concatenate(chunks).astype(np.int64) for name, chunks in parts.items()}
        single: dict[str, Sequence[Any]] = {"row_id": rows["row_id"][:], "length": lengths}
        if "label" in rows.column_names:
            single["labels"] = rows["label"][:]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        cut, longest = sum(n > limit for n in uncut), max([*lengths, *uncut], default=0)
        return cls(Dataset(_table(flat, offsets, single)), flat, offsets, single, cut, longest)

    def row(self, position: int) -> dict[str, Any]:
        """Return one row, as `dataset[position]` but without its cost."""
        start, end = self.offsets[position], self.offsets[position + 1]
        tokens = {name: values[start:end] for name, values in self.flat.items()}
        return {**tokens, **{name: values[position] for name, values in self.single.items()}}


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


def limit_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the most tokens that a tokenizer allows; `UNBOUNDED` where it states none."""
    return min(int(tokenizer.model_max_length), UNBOUNDED)


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
            kind = pa.list_(pa.float32()) if isinstance(first, list) else None
            kind = pa.float32() if isinstance(first, float) else kind
        columns[name] = pa.array(values, type=kind)
    return pa.table(columns)


def _padded(
    rows: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, multiple: int | None
) -> dict[str, NDArray[np.int64]]:
    """Return the token columns padded to the longest row. Shape: (B, T)."""
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"{type(tokenizer).__name__} has no padding token, so texts cannot be batched"
        )
    width = max(len(row["input_ids"]) for row in rows)
    if multiple:
        # Never past the tokenizer's limit: the position table may end there.
        width = max(width, min(-(-width // multiple) * multiple, limit_of(tokenizer)))
    fills = dict(
        zip(_TOKENS, (tokenizer.pad_token_id, 0, tokenizer.pad_token_type_id), strict=True)
    )
    left = tokenizer.padding_side == "left"
    batch = {}
    for name in (name for name in _TOKENS if name in rows[0]):
        batch[name] = np.full((len(rows), width), fills[name], dtype=np.int64)
        for out, row in zip(batch[name], rows, strict=True):
            values = row[name]
            out[slice(width - len(values), None) if left else slice(len(values))] = values
    return batch


def collator(
    tokenizer: PreTrainedTokenizerBase, pad_to_multiple_of: int | None = None
) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]:
    """Return a function from encoded rows to a batch of torch tensors, padded to its longest row.

    Shape: `input_ids`, `attention_mask`, `token_type_ids` (B, T); `labels` (B,) or (B, K); `row_id`
    (B,). `length` is dropped.
    """
    import torch

    def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        arrays = _padded(rows, tokenizer, pad_to_multiple_of)
        batch = {name: torch.from_numpy(values) for name, values in arrays.items()}
        for name in ("labels", "row_id"):
            if name in rows[0]:
                batch[name] = torch.as_tensor([row[name] for row in rows])
        return batch

    return collate


def numpy_batches(
    encoded: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    sort_by_length: bool = True,
) -> Iterator[tuple[NDArray[np.int64], dict[str, NDArray[np.int64]]]]:
    """Yield positions in `encoded` and the batch for a `Predictor`, longest rows first if sorted.

    Shape: positions (B,); each value of the batch (B, T).
    """
    order = np.arange(len(encoded))
    if sort_by_length:
        order = np.argsort(-np.asarray(encoded["length"][:]), kind="stable")
    for start in range(0, len(order), batch_size):
        positions = order[start : start + batch_size]
        columns = encoded[positions.tolist()]
        names = [name for name in _TOKENS if name in columns]
        rows = [
            dict(zip(names, row, strict=True)) for row in zip(*map(columns.get, names), strict=True)
        ]
        yield positions, _padded(rows, tokenizer, None)
