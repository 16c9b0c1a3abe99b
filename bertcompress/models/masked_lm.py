"""The masked-LM head of a checkpoint: whether one was trained, and the model with it."""

from __future__ import annotations

from bertcompress.deployment import Product
from bertcompress.models.config import OWN, read_config, read_fields
from bertcompress.models.io import load
from bertcompress.models.locate import locate
from bertcompress.models.tensors import Tensors, holds_head

__all__ = ["has_masked_lm", "load_masked_lm"]

_HEAD = "ForMaskedLM"


def has_masked_lm(name: str, revision: str | None = None) -> bool:
    """Return whether the files of a stock checkpoint hold every tensor of a masked-LM head.

    Reads headers alone. Raises as `load` does.
    """
    folder = locate(name, revision=revision)
    fields = read_fields(folder, name)
    config = read_config(fields, folder, name)
    if str(config.model_type).startswith(OWN):  # what was cut is trained for a task by then
        return False
    return holds_head(config, fields, Tensors.of(folder, name), _HEAD)


def load_masked_lm(name: str, revision: str | None = None) -> Product | None:
    """Return a checkpoint as a masked language model; None where its head was never trained.

    So too where its tokenizer has no mask. Raises as `load` does.
    """
    if not has_masked_lm(name, revision):
        return None
    product = load(name, head=_HEAD, revision=revision)
    return None if product.tokenizer.mask_token_id is None else product
