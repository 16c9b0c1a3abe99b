"""Batches and models that the runtime tests share."""

from __future__ import annotations

from typing import Any

import numpy as np
from tests_support import VOCABULARY, tiny_model, tiny_tokenizer

from bertcompress.deployment import Product
from bertcompress.shapes import Heads, Layers, Neurons, anatomy, apply_edit


def pair_tokenizer() -> Any:
    """A tokenizer that gives token types, as those of BERT do."""
    tokenizer = tiny_tokenizer()
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


def wide_product(**fields: Any) -> Product:
    """A model wide enough for int8 to mean something, answering with numbers of ordinary size."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.15}
    return Product(tiny_model("bert", **sizes, **fields), pair_tokenizer())


def cut(model: Any) -> Any:
    """Cut unevenly in place: a layer without heads, one without neurons, one gone."""
    physical = len(anatomy(model).layers)
    apply_edit(model, Heads([[0, 2], [], [1]][:physical]))
    rows = [[1, 2, 20], list(range(7)), []][:physical]
    apply_edit(model, Neurons([len(row) for row in rows], rows))
    return apply_edit(model, Layers([0, 1]))


def batches(count: int = 8, rows: int = 8) -> list[dict[str, Any]]:
    """Padded batches of several lengths."""
    random = np.random.default_rng(1)
    made = []
    for i in range(count):
        ids = random.integers(5, len(VOCABULARY), (rows, 6 + 3 * (i % 5)))
        mask = np.ones_like(ids)
        mask[::2, -3:] = 0
        ids[mask == 0] = 0
        types = np.zeros_like(ids)
        types[:, 4:] = 1
        made.append({"input_ids": ids, "attention_mask": mask, "token_type_ids": types})
    return made
