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

__all__ = ["Encoded", "collator", "numpy_batches"]

_TOKENS = ("input_ids", "attention_mask", "token_type_ids")
_CHUNK = 2_000
# Tokenizers without a limit of their own state 10^30.
_NO_LIMIT = 1_000_000


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

    @classmethod
    def of(cls, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
        """Return the rows encoded, each cut at `max_length` tokens or the tokenizer's own limit."""
        from datasets import Dataset

        parts: dict[str, list[NDArray[np.int64]]] = {}
        lengths: list[int] = []
        for start in range(0, len(rows), _CHUNK):
            tokens = _tokenized(rows[start : start + _CHUNK], tokenizer, max_length)
            lengths += map(len, tokens["input_ids"])
            for name in _TOKENS:
                if name in tokens:
                    parts.setdefault(name, []).append(
                        np.concatenate([np.asarray(r) for r in tokens[name]])
                    )
        flat = {name: np.concatenate(chunks).astype(np.int64) for name, chunks in parts.items()}
        single: dict[str, Sequence[Any]] = {"row_id": rows["row_id"][:], "length": lengths}
        if "label" in rows.column_names:
            single["labels"] = rows["label"][:]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return cls(Dataset(_table(flat, offsets, single)), flat, offsets, single)

    def row(self, position: int) -> dict[str, Any]:
        """Return one row, as `dataset[position]` but without its cost."""
        start, end = self.offsets[position], self.offsets[position + 1]
        tokens = {name: values[start:end] for name, values in self.flat.items()}
        return {**tokens, **{name: values[position] for name, values in self.single.items()}}


def _tokenized(rows: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Any:
    limit = min(max_length, _limit_of(tokenizer))
    pair = {"text_pair": rows["text_pair"]} if "text_pair" in rows else {}
    return tokenizer(
        rows["text"], **pair, truncation=True, max_length=limit, return_attention_mask=True
    )


def _limit_of(tokenizer: PreTrainedTokenizerBase) -> int:
    return min(int(tokenizer.model_max_length), _NO_LIMIT)


def _table(flat: Mapping[str, Any], offsets: NDArray[np.int64], single: Mapping[str, Any]) -> Any:
    import pyarrow as pa

    columns = {
        name: pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
        for name, values in flat.items()
    }
    for name, values in single.items():
        kind = None
        if name == "labels":
            first = values[0]
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
        width = max(width, min(-(-width // multiple) * multiple, _limit_of(tokenizer)))
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
