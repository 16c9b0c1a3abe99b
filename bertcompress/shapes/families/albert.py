"""ALBERT: Lan et al. 2020 (1909.11942)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from bertcompress.shapes.families.bert_like import BertLike

__all__ = ["AlbertFamily", "albert_groups"]


class AlbertFamily(BertLike):
    """ALBERT: one physical layer (or one of each group) that is applied several times."""

    name: ClassVar[str] = "albert"
    stock_prefix: ClassVar[str] = "Albert"
    shared: ClassVar[bool] = True
    base_name: ClassVar[str] = "albert"
    decoder_path: ClassVar[str] = "predictions.decoder"
    layers_path: ClassVar[str] = "encoder.albert_layer_groups"
    attention_path: ClassVar[str] = "attention"
    linear_paths: ClassVar[Mapping[str, str]] = {
        "query": "attention.query",
        "key": "attention.key",
        "value": "attention.value",
        "attention_out": "attention.dense",
        "ffn_in": "ffn",
        "ffn_out": "ffn_output",
    }
    norm_paths: ClassVar[Mapping[str, str]] = {
        "attention": "attention.LayerNorm",
        "ffn": "full_layer_layer_norm",
    }
    part_paths: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "attention": ("attention",),
        "ffn": ("ffn", "ffn_output", "full_layer_layer_norm"),
    }
    projection_path: ClassVar[str | None] = "encoder.embedding_hidden_mapping_in"
    albert_heads: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "Model": {"pooler": "pooler"},
        "ForSequenceClassification": {
            "albert.pooler": "albert.pooler",
            "classifier": "classifier",
        },
        "ForMultipleChoice": {"albert.pooler": "albert.pooler", "classifier": "classifier"},
        "ForTokenClassification": {"classifier": "classifier"},
        "ForQuestionAnswering": {"qa_outputs": "qa_outputs"},
        "ForMaskedLM": {
            "predictions.dense": "predictions.dense",
            "predictions.LayerNorm": "predictions.LayerNorm",
            "predictions.bias": "predictions.bias",
        },
    }

    def layers(self, model: nn.Module) -> list[nn.Module]:
        """Return the physical layers, group by group."""
        groups = super().layers(model)
        return [
            each for group in groups for each in group.get_submodule("albert_layers").children()
        ]

    def depth(self, model: nn.Module) -> int:
        """Return how many layers an input passes, which the encoder's own config counts."""
        return self.depth_of(self.encoder(model).config)

    def applications(self, model: nn.Module) -> list[int]:
        """Return the physical layer behind each applied one, bottom to top."""
        config: Any = self.encoder(model).config
        groups = int(config.num_hidden_groups)
        inner = len(self.layers(model)) // groups
        order = albert_groups(self.depth(model), groups)
        return [group * inner + j for group in order for j in range(inner)]

    def layers_obstacle(self, model: nn.Module, kept: Sequence[int]) -> str | None:
        """Return what is wrong with an ALBERT of several physical layers."""
        if len(self.layers(model)) > 1:
            return "only an ALBERT with one shared layer can lose layers"
        return None

    def keep_layers(self, model: nn.Module, kept: Sequence[int]) -> None:
        """Apply the one layer as many times as layers are kept, in place."""
        # The config keeps the original depth (a reload starts from it): the encoder counts on
        # a copy of its own.
        encoder = self.encoder(model)
        config: Any = copy.copy(encoder.config)
        self.resize(config, depth=len(kept))
        encoder.config = config


def albert_groups(depth: int, groups: int) -> list[int]:
    """Return the group of each applied layer, as ALBERT's `num_hidden_groups` does.

    >>> albert_groups(6, 3)
    [0, 0, 1, 1, 2, 2]
    """
    return [int(i / (depth / groups)) for i in range(depth)]
