"""Writes static word vectors as a folder of sentence-transformers: a table, and no layers.

`SentenceTransformer(folder)` opens it: a `StaticEmbedding`, and `Normalize` where vectors have
length 1. The table is kept in 16 bits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase, Sequence
from transformers import PreTrainedTokenizerBase

from bertcompress.errors import ModelError
from bertcompress.heads.pooling import Pooling
from bertcompress.models.sentence import write_modules, write_settings

__all__ = ["write_static"]

_FOLDER = "0_StaticEmbedding"


def write_static(
    folder: Path, table: NDArray[np.float16], tokenizer: PreTrainedTokenizerBase, pooling: Pooling
) -> Path:
    """Write a table of word vectors with its tokenizer into a new folder; return the table's file.

    `pooling`: of the embedder, for its prompts, its similarity and whether texts are lowercased.
    Shape: table (V, D), a row for each token. Raises ModelError for a tokenizer that is not of the
    `tokenizers` package, which nothing else there reads.
    """
    from safetensors.numpy import save

    inside = folder / _FOLDER
    inside.mkdir(parents=True)
    weights = inside / "model.safetensors"
    weights.write_bytes(save({"embedding.weight": np.ascontiguousarray(table)}))
    _plain(tokenizer, lowercase=pooling.lowercase).save(str(inside / "tokenizer.json"))
    write_modules(folder, [("StaticEmbedding", _FOLDER), ("Normalize", "1_Normalize")])
    write_settings(folder, pooling.model_copy(update={"dimensions": None}))
    return weights


def _plain(tokenizer: PreTrainedTokenizerBase, *, lowercase: bool) -> Any:
    """Return a copy of the tokenizer behind this one that neither pads nor cuts."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"static word vectors: a {type(tokenizer).__name__} has no tokenizer.json")
    state = json.loads(backend.to_str()) | {"padding": None, "truncation": None}
    copied = Tokenizer.from_str(json.dumps(state))
    if lowercase:
        own = [copied.normalizer] if copied.normalizer is not None else []
        copied.normalizer = Sequence([Lowercase(), *own])
    return copied
