"""Tiny sentence embedders for tests: a folder of sentence-transformers, texts, and scored pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tests_support import WORDS, tiny_model, tiny_tokenizer

from bertcompress.heads.pooling import Pooling
from bertcompress.models.io import save


def sentences(rows: int, seed: int = 0, longest: int = 9) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(2, longest))) for _ in range(rows)]


def tiny_embedder(folder: Path, family: str = "bert", **pooling: Any) -> Path:
    """A saved embedder of random weights; `pooling`: fields of it."""
    model, tokenizer = tiny_model(family, "Model"), tiny_tokenizer()
    tokenizer.model_max_length = 32
    Pooling(**{"normalize": True, **pooling}).keep(model.config)
    return save(model, folder, tokenizer)


def write_pairs(path: Path, rows: int, seed: int = 0) -> Path:
    """Pairs, scored by whether both or neither say `good`, and a little by common words."""
    first, second = sentences(rows, seed), sentences(rows, seed + 1)
    lines = []
    for i, (one, other) in enumerate(zip(first, second, strict=True)):
        one = f"{one} good" if i % 3 else one
        other = f"{other} good" if i % 2 else other
        ours, theirs = set(one.split()), set(other.split())
        alike = ("good" in ours) == ("good" in theirs)
        score = 4 * alike + len(ours & theirs) / len(ours | theirs)
        lines.append(json.dumps({"a": one, "b": other, "score": score}))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def write_texts(path: Path, rows: int, seed: int = 0) -> Path:
    path.write_text("\n".join(json.dumps({"text": t}) for t in sentences(rows, seed)))
    return path
