"""Features to padded batches by their head, of torch tensors and for any `Predictor`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bertcompress.heads import Head
from bertcompress.heads.features import TOKENS
from bertcompress.heads.padding import collate_texts

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = ["collator", "numpy_batches"]


def collator(
    tokenizer: PreTrainedTokenizerBase,
    pad_to_multiple_of: int | None = None,
    head: Head | None = None,
) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]:
    """Return a function from features to a batch of torch tensors, padded to its longest.

    `head`: of the task; None: whole texts with a label each. Shape: `input_ids`, `attention_mask`,
    `token_type_ids` (B, T); `labels` (B,) or (B, K); `row_id` (B,). `length` is dropped.
    """
    import torch

    arrays = collate_texts if head is None else head.collate

    def collate(features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch = arrays(features, tokenizer, pad_to_multiple_of)
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    return collate


def numpy_batches(
    encoded: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    sort_by_length: bool = True,
    head: Head | None = None,
) -> Iterator[tuple[NDArray[np.int64], dict[str, NDArray[np.int64]]]]:
    """Yield positions in `encoded` and the batch for a `Predictor`, longest first if sorted.

    `head`: as in `collator`. Shape: positions (B,); each value of the batch (B, T).
    """
    arrays = collate_texts if head is None else head.collate
    order = np.arange(len(encoded))
    if sort_by_length:
        order = np.argsort(-np.asarray(encoded["length"][:]), kind="stable")
    for start in range(0, len(order), batch_size):
        positions = order[start : start + batch_size]
        columns = encoded[positions.tolist()]
        features = [
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]
        batch = arrays(features, tokenizer)
        yield positions, {name: batch[name] for name in TOKENS if name in batch}
