"""`BertLike`: post-norm encoders of six linears a layer, under whatever names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from bertcompress.shapes.families.family import Family
from bertcompress.shapes.families.views import TABLES, Embeddings, LinearView, Stream
from bertcompress.shapes.parts import (
    BiasOnly,
    FirstFeatures,
    bias_of,
    keep_inputs,
    keep_outputs,
    put_module,
)

__all__ = ["BertLike"]


class BertLike(Family):
    """What is laid out as BERT is. A family sets the names that differ; here are BERT's.

    Paths of linears, norms and parts are relative to a layer, the others to the base model.
    """

    base_name: ClassVar[str]
    """Attribute of the base model inside a model with a head."""
    decoder_path: ClassVar[str]
    """Of the masked-LM head's last linear, inside the model with that head."""
    encoder_path: ClassVar[str] = "encoder"
    layers_path: ClassVar[str] = "encoder.layer"
    attention_path: ClassVar[str] = "attention.self"
    """Of the module that counts heads."""
    heads_name: ClassVar[str] = "num_attention_heads"
    """On that module: the number of heads."""
    features_name: ClassVar[str] = "all_head_size"
    """On that module: heads times head size."""
    linear_paths: ClassVar[Mapping[str, str]] = {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "attention_out": "attention.output.dense",
        "ffn_in": "intermediate.dense",
        "ffn_out": "output.dense",
    }
    norm_paths: ClassVar[Mapping[str, str]] = {
        "attention": "attention.output.LayerNorm",
        "ffn": "output.LayerNorm",
    }
    part_paths: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "attention": ("attention",),
        "ffn": ("intermediate", "output"),
    }
    embeddings_path: ClassVar[str] = "embeddings"
    embedding_names: ClassVar[Mapping[str, str]] = {
        "word": "word_embeddings",
        "position": "position_embeddings",
        "token_type": "token_type_embeddings",
        "norm": "LayerNorm",
        "dropout": "dropout",
    }
    projection_path: ClassVar[str | None] = None
    """Of a linear between thin tables and the layers."""
    depth_field: ClassVar[str] = "num_hidden_layers"
    width_field: ClassVar[str] = "intermediate_size"

    def max_tokens(self, config: Any) -> int | None:
        """Return the rows of the position table that tokens use; None without a table."""
        rows = getattr(config, "max_position_embeddings", None)
        if not rows:
            return None
        unused = int(config.pad_token_id or 0) + 1 if self.positions_after_padding else 0
        return int(rows) - unused

    def depth_of(self, config: Any) -> int:
        """Return the number of layers that a config asks for."""
        return int(getattr(config, self.depth_field))

    def width_of(self, config: Any) -> int:
        """Return the number of feed-forward neurons of a layer that a config asks for."""
        return int(getattr(config, self.width_field))

    def resize(self, config: Any, *, depth: int, width: int | None = None) -> None:
        """Let a config ask for so many layers, and neurons of each, in place."""
        setattr(config, self.depth_field, depth)
        if width is not None:
            setattr(config, self.width_field, width)

    def narrow(self, config: Any, *, hidden: int, heads: int) -> None:
        """Let a config ask for so many hidden features and attention heads, in place."""
        if getattr(config, "embedding_size", None) == config.hidden_size and not self.shared:
            config.embedding_size = hidden  # ELECTRA's tables on the stream itself
        config.hidden_size, config.num_attention_heads = hidden, heads

    def base(self, model: nn.Module) -> nn.Module:
        """Return the encoder with its embeddings, without a task head."""
        inner = getattr(model, self.base_name, None)
        return inner if isinstance(inner, nn.Module) else model

    def encoder(self, model: nn.Module) -> nn.Module:
        """Return the stack of layers."""
        return self.base(model).get_submodule(self.encoder_path)

    def is_table(self, tensor: str) -> bool:
        """Return whether a tensor of a checkpoint, by its name, belongs to an embedding table."""
        names = (self.embedding_names.get(role) for role in TABLES)
        return any(name is not None and f".{name}." in f".{tensor}" for name in names)

    def is_encoder(self, tensor: str) -> bool:
        """Return whether a tensor belongs to layers or embeddings; named as the base model does."""
        return tensor.startswith((self.embeddings_path, f"{self.encoder_path}."))

    def layers(self, model: nn.Module) -> list[nn.Module]:
        """Return the physical layers, bottom to top."""
        return [*self.base(model).get_submodule(self.layers_path).children()]

    def keep_layers(self, model: nn.Module, kept: Sequence[int]) -> None:
        """Drop all other layers, in place."""
        layers = self.layers(model)
        stack = nn.ModuleList(layers[number] for number in kept)
        put_module(self.base(model), self.layers_path, stack)

    def embeddings(self, model: nn.Module) -> Embeddings:
        """Return the tables and what belongs to them."""
        base = self.base(model)
        projection = None
        if self.projection_path is not None:
            parent, _, name = self.projection_path.rpartition(".")
            projection = getattr(base.get_submodule(parent), name, None)
        return Embeddings(
            base.get_submodule(self.embeddings_path),
            self.embedding_names,
            projection if isinstance(projection, nn.Linear) else None,
        )

    def decoder(self, model: nn.Module) -> nn.Module | None:
        """Return the last linear of a masked-LM head, one row per token; None where none is."""
        try:
            return model.get_submodule(self.decoder_path)
        except AttributeError:
            return None

    def token_parameters(self, model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
        """Yield each parameter with one row per token: the module that holds it, and its name."""
        table = self.embeddings(model).word_table
        if table is not None:
            yield table, "weight"
        decoder = self.decoder(model)
        if decoder is None:
            return
        yield decoder, "weight"
        holder = model.get_submodule(self.decoder_path.rpartition(".")[0])
        for module in (decoder, holder):
            if isinstance(getattr(module, "bias", None), nn.Parameter):
                yield module, "bias"

    def linears(self, layer: nn.Module) -> dict[str, LinearView]:
        """Return the linears of a layer by name, in the order of a forward pass."""
        return {name: LinearView(layer, path) for name, path in self.linear_paths.items()}

    def norms(self, layer: nn.Module) -> dict[str, nn.Module]:
        """Return the norm of each part."""
        return {part: layer.get_submodule(path) for part, path in self.norm_paths.items()}

    def modules(self, layer: nn.Module, part: str) -> dict[str, nn.Module]:
        """Return the modules that make a part, by their path in the layer."""
        return {path: layer.get_submodule(path) for path in self.part_paths[part]}

    def heads(self, layer: nn.Module) -> int:
        """Return the number of attention heads that a layer has now; 0 where all were cut away."""
        if not self.linears(layer)["attention_out"].in_features:
            return 0
        return int(getattr(layer.get_submodule(self.attention_path), self.heads_name))

    def keep_heads(self, layer: nn.Module, kept: Sequence[int]) -> None:
        """Cut in place: rows of query, key and value, columns of the output projection."""
        linears = self.linears(layer)
        size = linears["attention_out"].in_features // self.heads(layer)
        attention = layer.get_submodule(self.attention_path)
        # With no head left one parameterless stand-in runs: the stock forward cannot view 0
        # features.
        setattr(attention, self.heads_name, max(len(kept), 1))
        setattr(attention, self.features_name, max(len(kept), 1) * size)
        out = linears["attention_out"].module
        index = _index([head * size + i for head in kept for i in range(size)], out)
        for name in ("query", "key", "value"):
            old = linears[name].module
            linears[name].replace(keep_outputs(old, index) if kept else FirstFeatures(size))
        linears["attention_out"].replace(
            keep_inputs(out, index) if kept else BiasOnly(bias_of(out))
        )

    def keep_neurons(self, layer: nn.Module, kept: Sequence[int]) -> None:
        """Cut in place: rows of the first linear, columns of the second."""
        first, second = self.linears(layer)["ffn_in"], self.linears(layer)["ffn_out"]
        if not kept:
            first.replace(nn.Identity())
            second.replace(BiasOnly(bias_of(second.module)))
            return
        index = _index(kept, first.module)
        first.replace(keep_outputs(first.module, index))
        second.replace(keep_inputs(second.module, index))

    def residual(self, layer: nn.Module, part: str) -> Stream:
        """Return what comes into the norm of a part: these layers are post-norm."""
        return Stream(self.norms(layer)[part])


def _index(numbers: Sequence[int], like: nn.Module) -> torch.Tensor:
    device = next(like.parameters()).device
    return torch.tensor(list(numbers), dtype=torch.long).to(device)
