"""Texts without labels that the methods of a recipe want answered: read, or refused beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bertcompress.data import TaskData
from bertcompress.data.transfer import (
    TransferRows,
    TransferText,
    check_unlabelled,
    read_transfer,
)
from bertcompress.deployment import Product
from bertcompress.engines.distillation.whole_words import check_fast
from bertcompress.errors import DataError, ModelError, TaskError
from bertcompress.models.masked_lm import has_masked_lm
from bertcompress.recipe import Recipe

__all__ = ["Say", "check_augmented", "transfer_texts"]

Say = Callable[[str], None]
"""Takes one line at a time about what is going on."""


def transfer_texts(
    recipe: Recipe, data: TaskData, data_dir: str | Path | None, say: Say
) -> dict[TransferText | None, TransferRows]:
    """Return the texts without labels that each method names, none of which is reported."""
    read: dict[TransferText | None, TransferRows] = {}
    for i, method in enumerate(recipe.methods):
        asked = method.transfer_text
        if asked is None or asked in read:
            continue
        try:
            read[asked] = read_transfer(asked, data, data_dir, recipe.seed)
        except (DataError, TaskError) as error:
            raise type(error)(f"methods[{i}].{method.key}: {error}") from None
        say(read[asked].words)
    return read


def check_augmented(recipe: Recipe, data: TaskData, readers: Sequence[Product], say: Say) -> None:
    """Refuse a step that makes texts of rows which allow none, and say how others replace words.

    `readers`: the model, and the teacher that the recipe names.
    """
    for i, method in enumerate(recipe.methods):
        if method.augmentation is None:
            continue
        try:
            check_unlabelled(data.task, "augment")
            for product in readers:
                check_fast(product.tokenizer)
        except (TaskError, ModelError) as error:
            raise type(error)(f"methods[{i}].{method.key}: {error}") from None
        say(f"methods[{i}].{method.key}: augment: {_replacing(recipe, readers[0])}")


def _replacing(recipe: Recipe, product: Product) -> str:
    masked = product.tokenizer.mask_token_id is not None
    if masked and has_masked_lm(recipe.model, recipe.revision):
        return (
            "words of one token are replaced by the masked-LM head of the model, others by "
            "neighbours in the teacher's word table"
        )
    return (
        "words are replaced by neighbours in the teacher's word table, since the model has no "
        "trained masked-LM head"
    )
