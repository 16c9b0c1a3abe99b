"""Writes a shared or factorised encoder as the stock ALBERT that computes the very same.

ALBERT's encoder is BERT's with its layers in groups and a linear between embeddings and layers.
With as many groups as layers and an identity there it is BERT, bit for bit; contiguous groups of
equal layers are its `num_hidden_groups`; tables at size E with the LayerNorm before the projection
are its `embedding_size`. `Family.albert_heads` names the heads whose arithmetic ALBERT has too. It
numbers positions from the left, so texts have to be padded on the right.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from bertcompress.shapes.families.albert import albert_groups
from bertcompress.shapes.families.anatomy import anatomy
from bertcompress.shapes.families.family import PARTS
from bertcompress.shapes.families.views import Embeddings
from bertcompress.shapes.parts import LowRank
from bertcompress.shapes.recorded import stored_bits

__all__ = ["albert_obstacle", "shape_obstacle", "to_albert"]


def albert_obstacle(model: PreTrainedModel) -> str | None:
    """Return why no stock ALBERT computes what this model does, or None where one does."""
    view = anatomy(model)
    obstacle = shape_obstacle(model) or _head_obstacle(model)
    if obstacle is not None:
        return obstacle
    if view.family.shared and int(view.config.inner_group_num) != 1:
        return "its groups hold several layers each"
    if view.embeddings.factorized:
        return (
            "the word table alone is factorised, with the LayerNorm behind the projection; "
            "ALBERT has it before"
        )
    if not view.family.shared and _activation(view.config) != "gelu":
        return f"its activation is {_activation(view.config)}, proven is gelu"
    owners = _owners(model)
    if isinstance(owners, str):
        return owners
    numbers = sorted(set(owners))
    wanted = albert_groups(len(owners), len(numbers))
    if [numbers.index(owner) for owner in owners] != wanted:
        return f"ALBERT has contiguous groups of one size, here the layers use {owners}"
    placed = {id(p) for part in _placed(model) for p in _parameters(part)}
    left = [name for name, p in model.named_parameters() if id(p) not in placed]
    return f"ALBERT has no place for {left[0]}" if left else None


def shape_obstacle(model: PreTrainedModel) -> str | None:
    """Return why the layers have a shape that no stock class holds, or None where one may."""
    view = anatomy(model)
    if stored_bits(model):
        return "its weights are stored in few bits, and stock classes hold them in floats"
    full = int(view.config.num_attention_heads)
    if view.hidden != int(view.config.hidden_size):
        full, rest = divmod(view.hidden, view.head_size)
        if rest:
            return f"{view.hidden} hidden features are no multiple of the head size"
    for i, layer in enumerate(view.layers):
        if layer.heads != full:
            return (
                f"layer {i} has {layer.heads} of {full} heads, and {view.family.stock_prefix}"
                "Config computes the head size from the hidden size and one number of heads"
            )
    tables = getattr(view.config, "embedding_size", None)
    if (
        view.embeddings.native_projection is not None
        and view.hidden == tables
        and not (view.family.shared)
    ):
        return (
            f"its {view.hidden} hidden features are as many as its tables have, and the stock "
            "class has no projection between the two then"
        )
    widths = {layer.width for layer in view.layers}
    if len(widths) > 1:
        return f"feed-forward widths differ between layers: {sorted(widths)}"
    if widths == {0}:
        return "no layer has feed-forward neurons"
    if any(isinstance(module, LowRank) for module in model.modules()):
        return "some of its linears are products of two"
    return None


def _head_obstacle(model: PreTrainedModel) -> str | None:
    view = anatomy(model)
    name, head = _names(model)
    if head not in view.family.albert_heads:
        return f"ALBERT has no head that computes what {name} does"
    for part in view.family.albert_heads[head].values():
        try:
            attrgetter(part)(model)
        except AttributeError:  # an encoder without its pooler
            return f"it has no {part}"
    if head == "ForMaskedLM" and not _tied(model):
        return "its masked-LM decoder has weights of its own, and here ALBERT's is the word table"
    return None


def _names(model: PreTrainedModel) -> tuple[str, str]:
    """Return the stock name of a model's class, and what of it names the head."""
    name = type(model).__name__.removeprefix("Compressed")
    return name, name.removeprefix(anatomy(model).family.stock_prefix)


def _tied(model: PreTrainedModel) -> bool:
    view = anatomy(model)
    decoder: Any = view.decoder
    return decoder is not None and decoder.weight is view.embeddings.word.weight


def _activation(config: Any) -> str:
    return str(getattr(config, "hidden_act", None) or getattr(config, "activation", ""))


def _owners(model: PreTrainedModel) -> list[int] | str:
    """Return the layer whose weights each layer uses, or why no layer is another as a whole."""
    view = anatomy(model)
    rows = [view.owners(name) for name in (*view.linear_names, *PARTS)]
    if any(row != rows[0] for row in rows):
        return "attention and feed-forward parts are not shared by the same layers"
    return [rows[0][physical] for physical in view.applications]


def _placed(model: PreTrainedModel) -> Iterator[nn.Module | Tensor]:
    """Yield every part of the model that `to_albert` takes over."""
    view = anatomy(model)
    embeddings = view.embeddings
    for layer in view.layers:
        yield from (linear.module for linear in layer.linears.values())
        yield from layer.norms.values()
    yield from embeddings.tables.values()
    yield embeddings.norm
    if embeddings.projection is not None:
        yield embeddings.projection
    _, head = _names(model)
    for part in view.family.albert_heads[head].values():
        yield attrgetter(part)(model)


def _parameters(part: nn.Module | Tensor) -> list[Tensor]:
    return list(part.parameters()) if isinstance(part, nn.Module) else [part]


def to_albert(model: PreTrainedModel) -> PreTrainedModel:
    """Return a stock ALBERT with copies of the weights and the same outputs, bit for bit.

    On texts that are padded on the right. Any model without an `albert_obstacle`, shared or not: a
    plain BERT becomes an ALBERT with as many groups as layers. Raises ValueError for others.
    """
    obstacle = albert_obstacle(model)
    if obstacle is not None:
        raise ValueError(f"no ALBERT computes what this model does: {obstacle}")
    view = anatomy(model)
    _, head = _names(model)
    owners = _owners(model)
    assert not isinstance(owners, str)
    first = sorted(set(owners))
    target: Any = getattr(transformers, f"Albert{head}")(_config(model, len(first)))
    with torch.no_grad():
        after_padding = view.family.positions_after_padding
        _copy_embeddings(view.embeddings, anatomy(target).embeddings, after_padding)
        for layer, number in zip(anatomy(target).layers, first, strict=True):
            source = view.layers[number]
            for name, linear in layer.linears.items():
                linear.load(source.linears[name].values())
            for part, norm in layer.norms.items():
                norm.load_state_dict(source.norms[part].state_dict())
        for ours, theirs in view.family.albert_heads[head].items():
            _copy(target, ours, model, theirs)
    target.tie_weights()
    target.train(model.training)
    return target.to(device=model.device, dtype=model.dtype)  # type: ignore[no-any-return]


def _copy(target: nn.Module, ours: str, source: nn.Module, theirs: str) -> None:
    parent, _, name = theirs.rpartition(".")
    part = getattr(source.get_submodule(parent), name)
    if isinstance(part, nn.Module):
        target.get_submodule(ours).load_state_dict(part.state_dict())
    else:
        parent, _, name = ours.rpartition(".")
        getattr(target.get_submodule(parent), name).copy_(part)


_OURS = ("bertcompress", "auto_map")
"""Fields of a config that say how its shape was edited."""


def _config(model: PreTrainedModel, groups: int) -> Any:
    view = anatomy(model)
    config = view.config
    embeddings = view.embeddings
    positions = _positions(embeddings, view.family.positions_after_padding)
    types = embeddings.tables.get("token_type")
    dropout = getattr(config, "hidden_dropout_prob", getattr(config, "dropout", 0.0))
    attention = getattr(
        config, "attention_probs_dropout_prob", getattr(config, "attention_dropout", 0.0)
    )
    own = getattr(config, "classifier_dropout", getattr(config, "classifier_dropout_prob", None))
    known = view.family.stock_class("Config")().to_dict()
    # What others keep in a config: pooling, a threshold, the activation of a cross-encoder.
    others = {
        field: value
        for field, value in config.to_dict().items()
        if field not in known and field not in _OURS
    }
    kept = {
        field: getattr(config, field)
        for field in ("id2label", "label2id", "problem_type", "pad_token_id", "initializer_range")
        if getattr(config, field, None) is not None
    }
    fields: dict[str, Any] = dict(
        vocab_size=int(embeddings.word.num_embeddings),
        embedding_size=int(embeddings.word.embedding_dim),
        hidden_size=view.hidden,
        num_hidden_layers=view.depth,
        num_hidden_groups=groups,
        inner_group_num=1,
        num_attention_heads=view.layers[0].heads,
        intermediate_size=view.layers[0].width,
        hidden_act=_activation(config),
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=attention,
        classifier_dropout_prob=dropout if own is None else own,
        max_position_embeddings=positions.shape[0],
        type_vocab_size=1 if types is None else int(types.num_embeddings),
        layer_norm_eps=float(embeddings.norm.eps),
        bos_token_id=getattr(config, "bos_token_id", None),
        eos_token_id=getattr(config, "eos_token_id", None),
    )
    return transformers.AlbertConfig(**{**others, **fields, **kept})


def _positions(embeddings: Embeddings, after_padding: bool) -> Tensor:
    """Return the rows that tokens use: some families leave the first ones to padding."""
    positions = embeddings.need("position")
    table: Tensor = positions.weight
    return table[int(positions.padding_idx) + 1 :] if after_padding else table


def _copy_embeddings(old: Embeddings, new: Embeddings, after_padding: bool) -> None:
    new.word.weight.copy_(old.word.weight)
    new.need("position").weight.copy_(_positions(old, after_padding))
    types = old.tables.get("token_type")
    if types is None:
        new.need("token_type").weight.zero_()
    else:
        new.need("token_type").weight.copy_(types.weight)
    new.norm.load_state_dict(old.norm.state_dict())
    into, projection = new.projection, old.projection
    assert into is not None  # every ALBERT has one
    if projection is None:
        into.weight.copy_(torch.eye(into.in_features))
        into.bias.zero_()
    else:
        into.load_state_dict(projection.state_dict())
