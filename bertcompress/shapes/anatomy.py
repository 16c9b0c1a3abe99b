"""Where the parts of an encoder are, one table row per family.

Axes used everywhere: B batch, T tokens, L layers, H hidden size, D head size, F feed-forward
width. A "layer" is a *physical* one: ALBERT's shared layer counts once, however often it runs.
Nothing outside this file asks which family a model belongs to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

__all__ = [
    "FAMILIES",
    "Anatomy",
    "Family",
    "LayerParts",
    "ShapeError",
    "albert_groups",
    "anatomy",
    "family_of",
]


class ShapeError(ValueError):
    """A shape that this model cannot take."""


@dataclass(frozen=True)
class Family:
    """Paths of the parts, relative to the base model (`layers`, embeddings) or to one layer."""

    name: str
    stock_prefix: str  # class names: BertModel, BertForMaskedLM ...
    base: str  # attribute of the base model inside a model with a head
    encoder: str
    layers: str
    attention: str  # the module that counts heads
    query: str
    key: str
    value: str
    attention_out: str
    attention_norm: str
    ffn_in: str
    activation: str
    ffn_out: str
    ffn_norm: str
    attention_block: tuple[str, ...]  # all of the attention part, its norm included
    ffn_block: tuple[str, ...]
    word_embeddings: str
    decoder: str  # the masked-LM head's last linear, inside the model with that head
    head_attr: str  # on the attention module: number of heads
    width_attr: str  # on the attention module: heads times head size
    ffn_field: str  # config field of F
    depth_field: str  # config field of the number of applied layers
    shared: bool = False  # one physical layer applied several times
    positions_after_padding: bool = False  # the first position has the number padding_idx + 1


_BERT: dict[str, Any] = {
    "encoder": "encoder",
    "layers": "encoder.layer",
    "attention": "attention.self",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "ffn_in": "intermediate.dense",
    "activation": "intermediate.intermediate_act_fn",
    "ffn_out": "output.dense",
    "ffn_norm": "output.LayerNorm",
    "attention_block": ("attention",),
    "ffn_block": ("intermediate", "output"),
    "word_embeddings": "embeddings.word_embeddings",
    "head_attr": "num_attention_heads",
    "width_attr": "all_head_size",
    "ffn_field": "intermediate_size",
    "depth_field": "num_hidden_layers",
}

_ROBERTA: dict[str, Any] = {
    **_BERT,
    "base": "roberta",
    "decoder": "lm_head.decoder",
    "positions_after_padding": True,
}

FAMILIES: dict[str, Family] = {
    "bert": Family(
        name="bert",
        stock_prefix="Bert",
        base="bert",
        decoder="cls.predictions.decoder",
        **_BERT,
    ),
    "roberta": Family(name="roberta", stock_prefix="Roberta", **_ROBERTA),
    "xlm-roberta": Family(name="xlm-roberta", stock_prefix="XLMRoberta", **_ROBERTA),
    "camembert": Family(name="camembert", stock_prefix="Camembert", **_ROBERTA),
    "electra": Family(
        name="electra",
        stock_prefix="Electra",
        base="electra",
        decoder="generator_lm_head",
        **_BERT,
    ),
    "distilbert": Family(
        name="distilbert",
        stock_prefix="DistilBert",
        base="distilbert",
        encoder="transformer",
        layers="transformer.layer",
        attention="attention",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_out="attention.out_lin",
        attention_norm="sa_layer_norm",
        ffn_in="ffn.lin1",
        activation="ffn.activation",
        ffn_out="ffn.lin2",
        ffn_norm="output_layer_norm",
        attention_block=("attention", "sa_layer_norm"),
        ffn_block=("ffn", "output_layer_norm"),
        word_embeddings="embeddings.word_embeddings",
        decoder="vocab_projector",
        head_attr="n_heads",
        width_attr="dim",
        ffn_field="hidden_dim",
        depth_field="n_layers",
    ),
    "albert": Family(
        name="albert",
        stock_prefix="Albert",
        base="albert",
        encoder="encoder",
        layers="encoder.albert_layer_groups",
        attention="attention",
        query="attention.query",
        key="attention.key",
        value="attention.value",
        attention_out="attention.dense",
        attention_norm="attention.LayerNorm",
        ffn_in="ffn",
        activation="activation",
        ffn_out="ffn_output",
        ffn_norm="full_layer_layer_norm",
        attention_block=("attention",),
        ffn_block=("ffn", "ffn_output", "full_layer_layer_norm"),
        word_embeddings="embeddings.word_embeddings",
        decoder="predictions.decoder",
        head_attr="num_attention_heads",
        width_attr="all_head_size",
        ffn_field="intermediate_size",
        depth_field="num_hidden_layers",
        shared=True,
    ),
}


def family_of(config: Any) -> Family:
    """Return the table row for a config; raises ShapeError for a family not known here."""
    name = str(config.model_type).removeprefix("bertcompress-")
    if name not in FAMILIES:
        raise ShapeError(
            f"model family '{name}' is not supported; supported families: {', '.join(FAMILIES)}"
        )
    return FAMILIES[name]


class LayerParts:
    """One physical layer of a model; parts are looked up (and replaced) by the family's paths."""

    def __init__(self, layer: nn.Module, family: Family) -> None:
        self.module = layer
        self.family = family

    def get(self, part: str) -> nn.Module:
        """Return the module called `part` in the table (`query`, `ffn_out` ...)."""
        return self.module.get_submodule(getattr(self.family, part))

    def put(self, part: str, module: nn.Module) -> None:
        """Replace the module called `part`."""
        parent, _, name = getattr(self.family, part).rpartition(".")
        setattr(self.module.get_submodule(parent), name, module)

    @property
    def heads(self) -> int:
        """Heads that this layer has now; 0 when its attention was cut away."""
        # Of what a cut leaves behind, nothing has features that come in.
        if not hasattr(self.get("attention_out"), "in_features"):
            return 0
        return int(getattr(self.get("attention"), self.family.head_attr))

    @property
    def width(self) -> int:
        """Feed-forward neurons that this layer has now; 0 when they were all cut away."""
        return int(getattr(self.get("ffn_in"), "out_features", 0))


@dataclass(frozen=True)
class Anatomy:
    """A model seen through its family's table row."""

    model: nn.Module
    family: Family

    @property
    def config(self) -> Any:
        """The model's config."""
        return self.model.config

    @property
    def base(self) -> nn.Module:
        """The encoder with its embeddings, without a task head."""
        inner = getattr(self.model, self.family.base, None)
        return inner if isinstance(inner, nn.Module) else self.model

    @property
    def encoder(self) -> nn.Module:
        """The stack of layers."""
        return self.base.get_submodule(self.family.encoder)

    @property
    def decoder(self) -> nn.Module | None:
        """The last linear of a masked-LM head, one row per token; None where there is none."""
        try:
            return self.model.get_submodule(self.family.decoder)
        except AttributeError:
            return None

    @property
    def head_size(self) -> int:
        """D, which no edit changes."""
        return int(self.config.hidden_size) // int(self.config.num_attention_heads)

    @property
    def layers(self) -> list[LayerParts]:
        """The physical layers, bottom to top."""
        return [LayerParts(layer, self.family) for layer in self._modules()]

    def owners(self, part: str) -> list[int]:
        """Return for each physical layer the first one that has the very same module at `part`."""
        first: dict[int, int] = {}
        return [first.setdefault(id(each.get(part)), i) for i, each in enumerate(self.layers)]

    @property
    def depth(self) -> int:
        """How many layers an input passes (for ALBERT more than there are physical layers)."""
        if self.family.shared:
            return int(self.encoder.config.num_hidden_layers)  # type: ignore[union-attr,arg-type]
        return len(self.layers)

    @property
    def applications(self) -> list[int]:
        """The physical layer behind each applied one, bottom to top."""
        physical = len(self.layers)
        if not self.family.shared:
            return list(range(physical))
        groups = int(self.config.num_hidden_groups)
        inner = physical // groups
        order = albert_groups(self.depth, groups)
        return [group * inner + j for group in order for j in range(inner)]

    def _modules(self) -> Iterator[nn.Module]:
        stack = self.base.get_submodule(self.family.layers)
        for module in stack:  # type: ignore[attr-defined]
            if self.family.shared:
                yield from module.albert_layers
            else:
                yield module


def albert_groups(depth: int, groups: int) -> list[int]:
    """Return the group of each applied layer, as ALBERT's `num_hidden_groups` does.

    >>> albert_groups(6, 3)
    [0, 0, 1, 1, 2, 2]
    """
    return [int(i / (depth / groups)) for i in range(depth)]


def anatomy(model: nn.Module) -> Anatomy:
    """Return the model seen through its family's row; raises ShapeError for an unknown family."""
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "model_type"):
        raise ShapeError(f"{type(model).__name__} is not a transformers model: it has no config")
    if getattr(config, "is_decoder", False):
        raise ShapeError(f"{type(model).__name__} is a decoder; only encoders are supported")
    return Anatomy(model, family_of(config))
