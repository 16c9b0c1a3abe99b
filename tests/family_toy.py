"""A family from outside the package: a post-norm encoder under names of its own.

Its attention scores have a second term, of how far two tokens are apart: a table that goes through
the linear of the keys, as in DeBERTa. It counts layers, neurons and positions in fields of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from bertcompress.shapes.families.bert_like import BertLike

__all__ = ["ToyConfig", "ToyFamily", "ToyForSequenceClassification", "ToyModel"]


class ToyConfig(PretrainedConfig):
    model_type = "toy"

    def __init__(
        self, vocab_size=29, hidden_size=16, num_attention_heads=4, blocks=3, inner=24, span=40,
        pad_token_id=0, **more: Any,
    ) -> None:  # fmt: skip
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.num_attention_heads = num_attention_heads
        self.blocks, self.inner, self.span = blocks, inner, span
        super().__init__(pad_token_id=pad_token_id, **more)


class ToyMix(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        size = config.hidden_size
        self.n, self.wide = config.num_attention_heads, size
        self.q, self.k, self.v, self.o = (nn.Linear(size, size) for _ in range(4))

    def forward(self, hidden: Tensor, mask: Tensor, table: Tensor) -> Tensor:
        def heads(features: Tensor) -> Tensor:
            return features.unflatten(-1, (self.n, -1)).transpose(-3, -2)

        q, k, v = heads(self.q(hidden)), heads(self.k(hidden)), heads(self.v(hidden))
        places = torch.arange(hidden.shape[1], device=hidden.device)
        far = (places[:, None] - places).abs().clamp(max=table.shape[0] - 1)
        apart = (q @ heads(self.k(table)).transpose(-1, -2)).gather(
            -1, far.expand(*q.shape[:3], -1)
        )
        scores = (q @ k.transpose(-1, -2) + apart) / (self.wide // self.n) ** 0.5
        shares = scores.masked_fill(~mask[:, None, None], -1e9).softmax(-1)
        return self.o((shares @ v).transpose(1, 2).flatten(2))


class ToyBlock(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        size = config.hidden_size
        self.mix = ToyMix(config)
        self.up, self.down = nn.Linear(size, config.inner), nn.Linear(config.inner, size)
        self.after_mix, self.after_down = nn.LayerNorm(size), nn.LayerNorm(size)

    def forward(self, hidden: Tensor, mask: Tensor, table: Tensor) -> Tensor:
        hidden = self.after_mix(hidden + self.mix(hidden, mask, table))
        return self.after_down(hidden + self.down(functional.gelu(self.up(hidden))))


class ToyTables(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.places = nn.Embedding(config.span, config.hidden_size)
        self.even = nn.LayerNorm(config.hidden_size)
        self.drop = nn.Dropout(0.1)

    def forward(self, input_ids: Tensor, **_: Any) -> Tensor:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        return self.drop(self.even(self.words(input_ids) + self.places(places)))


class ToyBase(PreTrainedModel):
    config_class = ToyConfig
    base_model_prefix = "trunk"

    def _init_weights(self, module: nn.Module) -> None:
        for parameter in module.parameters(recurse=False):
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.3)


class ToyModel(ToyBase):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.tables = ToyTables(config)
        self.tower = nn.Module()
        self.tower.blocks = nn.ModuleList(ToyBlock(config) for _ in range(config.blocks))
        self.far = nn.Parameter(torch.randn(8, config.hidden_size))
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> Any:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        hidden = self.tables(input_ids)
        for block in self.tower.blocks:
            hidden = block(hidden, mask.bool(), self.far)
        return BaseModelOutput(last_hidden_state=hidden)


class ToyForSequenceClassification(ToyBase):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.trunk = ToyModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> Any:
        hidden = self.trunk(input_ids, attention_mask).last_hidden_state
        return SequenceClassifierOutput(logits=self.classifier(hidden[:, 0]))


class ToyFamily(BertLike):
    """The names of the toy, and what it has that BERT has not."""

    name: ClassVar[str] = "toy"
    stock_prefix: ClassVar[str] = "Toy"
    base_name: ClassVar[str] = "trunk"
    decoder_path: ClassVar[str] = "no_decoder"
    encoder_path: ClassVar[str] = "tower"
    layers_path: ClassVar[str] = "tower.blocks"
    attention_path: ClassVar[str] = "mix"
    heads_name: ClassVar[str] = "n"
    features_name: ClassVar[str] = "wide"
    linear_paths: ClassVar[Mapping[str, str]] = {
        "query": "mix.q",
        "key": "mix.k",
        "value": "mix.v",
        "attention_out": "mix.o",
        "ffn_in": "up",
        "ffn_out": "down",
    }
    norm_paths: ClassVar[Mapping[str, str]] = {"attention": "after_mix", "ffn": "after_down"}
    part_paths: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "attention": ("mix", "after_mix"),
        "ffn": ("up", "down", "after_down"),
    }
    embeddings_path: ClassVar[str] = "tables"
    embedding_names: ClassVar[Mapping[str, str]] = {
        "word": "words",
        "position": "places",
        "norm": "even",
        "dropout": "drop",
    }
    depth_field: ClassVar[str] = "blocks"
    width_field: ClassVar[str] = "inner"

    def stock_class(self, ending: str) -> Any:
        return globals().get(f"Toy{ending}")

    def max_tokens(self, config: Any) -> int | None:
        return int(config.span)

    def extra_inputs(self, layer: nn.Module) -> frozenset[str]:
        return frozenset({"key"})
