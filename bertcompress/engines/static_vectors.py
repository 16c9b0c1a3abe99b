"""Static word vectors of an embedder: each token by itself, and a text is the mean of its tokens.

What model2vec does (Tulkens & van Dongen 2024, github.com/MinishLab/model2vec): the vector of each
token of the vocabulary by itself, the first principal components of all of them, and weights that
fall with a token's frequency (SIF: Arora et al. 2017, "A Simple but Tough-to-Beat Baseline for
Sentence Embeddings"). Here the frequencies are those of the user's own texts. No layer is left: a
text costs one row of a table for each of its tokens. Axes: V tokens, H hidden size, D dimensions, B
texts, T tokens of each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from bertcompress.deployment import Product
from bertcompress.heads.pooling import Pooling, normalised
from bertcompress.runtimes import Batch, Logits
from bertcompress.support.progress import bar

__all__ = ["SIZE", "StaticVectors", "principal", "sif_weights", "static_vectors"]

Array = NDArray[Any]

SIZE = 256
"""Dimensions at most, as of model2vec."""
SMOOTHING = 1e-4
"""Tokens that are more frequent than this count for less; as of model2vec."""
WHOLE = 50_000
"""Of a larger vocabulary only the tokens that the texts use get a vector."""
_BATCH = 256
_UNUSED = re.compile(r"\[unused\d+\]")


@dataclass
class StaticVectors:
    """A vector for each token; that of a text is the mean of its tokens', at length 1."""

    table: NDArray[np.float16]
    """Shape: (V, D); zeros for special tokens, and for those that are left out."""
    runtime: str = "numpy"
    precision: str = "fp16"

    def __call__(self, batch: Batch) -> Logits:
        """Return the vector of each text, as a `Predictor` does. Shape: (B, T) -> (B, D)."""
        real = np.asarray(batch["attention_mask"], np.float32)[..., None]
        rows = self.table[np.asarray(batch["input_ids"])].astype(np.float32)
        return np.asarray(normalised((rows * real).sum(axis=1)), np.float32)


def static_vectors(
    product: Product,
    tokenizer: PreTrainedTokenizerBase,
    counts: Mapping[int, int],
    pooling: Pooling,
    size: int = SIZE,
) -> StaticVectors:
    """Return static word vectors of an embedder for the tokens of a tokenizer.

    `tokenizer`: the embedder's, or one with some of its tokens; `counts`: how often each of its
    tokens comes up in the texts, by id; `pooling`: of the embedder.
    """
    ids, own = _pairs(product.tokenizer, tokenizer, counts)
    states = _token_states(product, own, pooling)
    rows = max(tokenizer.get_vocab().values()) + 1  # ids may have gaps
    table = np.zeros((rows, min(size, *states.shape)), np.float16)
    seen = np.array([counts.get(i, 0) for i in ids], float)
    found = principal(states, table.shape[1]) * sif_weights(seen)[:, None]
    table[ids] = found / max(np.abs(found).max(), 1e-12)  # only directions count: 16 bits suffice
    return StaticVectors(table)


def sif_weights(counts: Array, smoothing: float = SMOOTHING) -> Array:
    """Return a / (a + p) for each token, p its share of the texts; each counts once more. (V,)."""
    shares = (counts + 1) / (counts + 1).sum()
    return np.asarray(smoothing / (smoothing + shares))


def principal(vectors: Array, size: int) -> Array:
    """Return the first principal components of vectors, the mean taken off. (V, H) -> (V, size)."""
    centred = np.asarray(vectors, np.float64) - np.mean(vectors, axis=0, dtype=np.float64)
    _, directions = np.linalg.eigh(centred.T @ centred)  # in rising order
    return np.asarray(centred @ directions[:, ::-1][:, :size])


def _pairs(
    known: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase, counts: Mapping[int, int]
) -> tuple[list[int], list[int]]:
    """Return the tokens that get a vector, and what the model itself calls each of them."""
    special, theirs = set(tokenizer.all_special_ids), known.get_vocab()
    whole = len(tokenizer) <= WHOLE
    kept = [
        (i, theirs[token])
        for token, i in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
        if i not in special
        and token in theirs
        and (i in counts or (whole and not _UNUSED.fullmatch(token)))
    ]
    return [i for i, _ in kept], [own for _, own in kept]


def _token_states(product: Product, tokens: Sequence[int], pooling: Pooling) -> Array:
    """Return the pooled states of each token as a text of its own. Shape: (V,) -> (V, H)."""
    model: Any = product.model
    before, after = _wrapping(product.tokenizer)
    plain = pooling.model_copy(update={"normalize": False, "dimensions": None})
    texts = torch.tensor([[*before, token, *after] for token in tokens])
    training, device = model.training, next(model.parameters()).device
    model.eval()
    parts = []
    with torch.inference_mode():
        starts = range(0, len(texts), _BATCH)
        for start in bar(starts, "tokens one by one", len(starts)):
            batch = texts[start : start + _BATCH].to(device)
            mask = torch.ones_like(batch)
            states = model(input_ids=batch, attention_mask=mask).last_hidden_state
            parts.append(plain.vectors(states, mask).cpu().numpy())
    model.train(training)
    return np.concatenate(parts)


def _wrapping(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the special tokens that the tokenizer puts before a text, and behind it."""
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    ids = tokenizer("a")["input_ids"]
    inner = [place for place, token in enumerate(ids) if token not in special]
    first, last = (inner[0], inner[-1]) if inner else (len(ids), len(ids) - 1)
    return ids[:first], ids[last + 1 :]
