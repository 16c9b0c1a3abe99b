"""Features to a padded batch, and the outputs for a batch to those for each feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bertcompress.errors import ModelError
from bertcompress.heads.features import TOKENS, limit_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["collate_texts", "outputs_of_features", "padded", "padded_column"]

Array = NDArray[Any]


def collate_texts(
    features: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    pad_to_multiple_of: int | None = None,
) -> dict[str, Array]:
    """Return a batch: the tokens padded, and `labels`, `row_id` and `part` where there are any.

    A feature without a part, beside others that have one, is the first of its row. Shape: tokens
    (B, T) int64; labels (B,) int64 or float32, or (B, K) float32; the others (B,).
    """
    batch: dict[str, Array] = {**padded(features, tokenizer, pad_to_multiple_of)}
    for name in ("labels", "row_id"):
        if name in features[0]:
            values = np.asarray([feature[name] for feature in features])
            batch[name] = values.astype(np.float32 if values.dtype.kind == "f" else np.int64)
    # A split of which no row was divided lacks this column, and may be batched beside one with it.
    if any("part" in feature for feature in features):
        batch["part"] = np.asarray([feature.get("part", 0) for feature in features], np.int64)
    return batch


def padded(
    features: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    pad_to_multiple_of: int | None = None,
) -> dict[str, NDArray[np.int64]]:
    """Return the token columns padded to the longest feature, on the tokenizer's side.

    Shape: (B, T). Raises ModelError for a tokenizer without a padding token.
    """
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"{type(tokenizer).__name__} has no padding token, so texts cannot be batched"
        )
    width = max(len(feature["input_ids"]) for feature in features)
    if pad_to_multiple_of:
        # Never past the tokenizer's limit: the position table may end there.
        multiple = -(-width // pad_to_multiple_of) * pad_to_multiple_of
        width = max(width, min(multiple, limit_of(tokenizer)))
    fills = dict(zip(TOKENS, (tokenizer.pad_token_id, 0, tokenizer.pad_token_type_id), strict=True))
    return {
        name: padded_column([feature[name] for feature in features], width, fills[name], tokenizer)
        for name in TOKENS
        if name in features[0]
    }


def padded_column(
    values: Sequence[Sequence[int]], width: int, fill: int, tokenizer: PreTrainedTokenizerBase
) -> NDArray[np.int64]:
    """Return values of each token padded on the tokenizer's side. Shape: B of (t,) -> (B, T)."""
    left = tokenizer.padding_side == "left"
    column = np.full((len(values), width), fill, dtype=np.int64)
    for out, each in zip(column, values, strict=True):
        out[slice(width - len(each), None) if left else slice(len(each))] = each
    return column


def outputs_of_features(outputs: Array, attention_mask: Array) -> list[Array]:
    """Return what a model puts out for each feature of a batch, without that for its padding.

    Shape: (B, K), or (B, T, K) for an output for each token; mask (B, T) -> B of (K,) or (t, K).
    """
    if outputs.ndim == 2:
        return list(outputs)
    return [each[shown] for each, shown in zip(outputs, attention_mask.astype(bool), strict=True)]
