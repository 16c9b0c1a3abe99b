"""The student of a run: what is known of it beforehand, and the rows as it reads them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertcompress.data import TaskData
from bertcompress.deployment import Product
from bertcompress.errors import ModelError
from bertcompress.measure.footprint import macs
from bertcompress.method import Method
from bertcompress.models.io import max_tokens
from bertcompress.models.tokenizers import check_vocabulary

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

__all__ = ["Successor", "fit_rows", "shape_of", "successor_of"]


@dataclass(frozen=True)
class Successor:
    """The model that a run goes on with in place of its own."""

    data: TaskData
    """The rows as it reads them."""
    shape: nn.Module
    """What it is, without weights."""
    tokenizer: PreTrainedTokenizerBase
    work: float
    """Multiply-accumulates of a text, as a share of the model's."""
    notes: tuple[str, ...] = ()


def successor_of(
    methods: Sequence[Method], product: Product, rows: TaskData, data: TaskData, seed: int
) -> Successor | None:
    """Return the student that a method begins; None where a run keeps to its own model.

    `rows`: not cut yet; `data`: as the model reads them. Raises ShapeError and ModelError for one
    that cannot be, or that cannot read these texts.
    """
    method = next((each for each in methods if each.replaces_model), None)
    if method is None:
        return None
    method.check(product.model)
    made = method.other_model(product, data, seed)
    shape, work = shape_of(made.model), macs(made.model) / macs(product.model)
    if made.tokenizer is product.tokenizer:
        return Successor(data, shape, made.tokenizer, work)
    name = method.checkpoint[0] if method.checkpoint else method.key
    check_vocabulary(made.tokenizer, data.train["text"], name)
    own = fit_rows(rows, made, f"student '{name}'")
    notes = [f"the student's texts: {line}" for line in own.notes[len(rows.notes) :]]
    ours, theirs = data.task.max_length, own.task.max_length
    if ours != theirs:
        notes.insert(0, f"the student's tokenizer differs: its max_length is {theirs}, not {ours}")
    return Successor(own, shape, made.tokenizer, work, tuple(notes))


def fit_rows(rows: TaskData, product: Product, whose: str) -> TaskData:
    """Return rows with the length at which they are cut for a model.

    `whose`: the model in words, such as `the model`. Raises ModelError for a task whose own length
    is beyond the model.
    """
    limit, asked = max_tokens(product.model), rows.task.max_length
    if asked is not None and asked > limit:
        raise ModelError(
            f"task '{rows.task.name}': max_length {asked} is beyond the position table of {whose}, "
            f"{limit} tokens; set max_length to at most {limit}"
        )
    return rows.fitted(product.tokenizer, limit)


def shape_of(model: Any) -> nn.Module:
    """Return a model of the same class and config without weights."""
    import torch

    with torch.device("meta"):
        shape: nn.Module = type(model)(copy.deepcopy(model.config))
    return shape
