"""Recognises a shape that a stock class holds exactly, and converts to it (rung 1 of the ladder).

Fewer layers and a uniform feed-forward width fit the family's own config; shared layers and
factorised tables fit ALBERT's, see `stock_albert`. Fewer heads do not: the
stock classes compute the head size from the hidden size and the number of heads.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from bertcompress.shapes.edits import edited
from bertcompress.shapes.families.anatomy import anatomy
from bertcompress.shapes.families.family import PARTS
from bertcompress.shapes.recorded import has_thin_tables, keep_zeros
from bertcompress.shapes.stock_albert import albert_obstacle, shape_obstacle, to_albert

__all__ = ["plain_config", "stock_obstacle", "to_stock"]


def stock_obstacle(model: PreTrainedModel) -> str | None:
    """Return why no stock class holds this shape, or None where one does."""
    if not edited(model):
        return None
    if _needs_albert(model):
        return albert_obstacle(model)
    return shape_obstacle(model)


def _needs_albert(model: PreTrainedModel) -> bool:
    """Return whether the family's own class has no room for what was shared or factorised."""
    view = anatomy(model)
    whole = list(range(len(view.layers)))
    shared = any(view.owners(part) != whole for part in PARTS)
    return shared or has_thin_tables(model)


def plain_config(model: PreTrainedModel) -> Any:
    """Return the family's stock config nearest to the model: exact where `stock_obstacle` is None.

    Depth is always the true one. Where widths differ the original width stays, which is what tools
    that read only names and sizes (tokenizers, optimum) need beside an ONNX file.
    """
    view = anatomy(model)
    name = type(model).__name__.removeprefix("Compressed")
    config_class = view.family.stock_class("Config")
    fields = view.config.to_dict()
    for ours in ("bertcompress", "auto_map", "model_type", "architectures", "transformers_version"):
        fields.pop(ours, None)
    config = config_class(**fields)
    widths = {layer.width for layer in view.layers}
    even = len(widths) == 1 and widths != {0}
    view.family.resize(config, depth=view.depth, width=widths.pop() if even else None)
    if stock_obstacle(model) is None:
        view.family.narrow(config, hidden=view.hidden, heads=view.layers[0].heads)
    config.architectures = [name]
    return config


def to_stock(model: PreTrainedModel) -> PreTrainedModel:
    """Return the same model as a stock class, or the model itself where none can hold its shape.

    The config of a stock class keeps one record, which that class ignores: how many zeros there
    are. `resume_record` gives it back its meaning.
    """
    if not edited(model) or stock_obstacle(model) is not None:
        return model
    stock = to_albert(model) if _needs_albert(model) else _same_names(model)
    keep_zeros(model, stock)
    return stock


def _same_names(model: PreTrainedModel) -> PreTrainedModel:
    config = plain_config(model)
    family = anatomy(model).family
    stock = family.stock_class(config.architectures[0].removeprefix(family.stock_prefix))(config)
    stock.load_state_dict(model.state_dict(), strict=True)
    stock.tie_weights()
    stock.train(model.training)
    return stock.to(device=model.device, dtype=model.dtype)  # type: ignore[no-any-return]
