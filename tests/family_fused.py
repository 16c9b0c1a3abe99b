"""A family that is not laid out as BERT: pre-norm, Q, K and V in one weight, a gated feed-forward.

The outline of ModernBERT, without its rotary positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from bertcompress.shapes.families.family import Family, Units
from bertcompress.shapes.families.views import Embeddings, LinearView, Stream
from bertcompress.shapes.parts import keep_inputs, keep_outputs, put_module

__all__ = ["FusedConfig", "FusedFamily", "FusedForSequenceClassification", "FusedModel"]


class FusedConfig(PretrainedConfig):
    model_type = "fused"

    def __init__(
        self, vocab_size=29, hidden_size=16, num_attention_heads=4, num_hidden_layers=3,
        intermediate_size=24, pad_token_id=0, **more: Any,
    ) -> None:  # fmt: skip
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.num_attention_heads, self.num_hidden_layers = num_attention_heads, num_hidden_layers
        self.intermediate_size = intermediate_size
        super().__init__(pad_token_id=pad_token_id, **more)


class FusedLayer(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        size = config.hidden_size
        self.heads, self.head_size = config.num_attention_heads, size // config.num_attention_heads
        self.attn_norm, self.mlp_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.Wqkv, self.Wo = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.Wi = nn.Linear(size, 2 * config.intermediate_size)
        self.Wout = nn.Linear(config.intermediate_size, size)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.Wqkv(self.attn_norm(hidden)).chunk(3, dim=-1)
        )
        context = functional.scaled_dot_product_attention(q, k, v, mask[:, None, None])
        hidden = hidden + self.Wo(context.transpose(1, 2).flatten(2))
        gate, values = self.Wi(self.mlp_norm(hidden)).chunk(2, dim=-1)
        return hidden + self.Wout(functional.gelu(gate) * values)


class FusedBase(PreTrainedModel):
    config_class = FusedConfig
    base_model_prefix = "model"

    def _init_weights(self, module: nn.Module) -> None:
        for parameter in module.parameters(recurse=False):
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.3)


class FusedModel(FusedBase):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.embeddings = nn.Module()
        self.embeddings.tok = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embeddings.norm = nn.LayerNorm(config.hidden_size)
        self.layers = nn.ModuleList(FusedLayer(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> Any:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        hidden = self.embeddings.norm(self.embeddings.tok(input_ids))
        for layer in self.layers:
            hidden = layer(hidden, mask.bool())
        return BaseModelOutput(last_hidden_state=hidden)


class FusedForSequenceClassification(FusedBase):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model = FusedModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> Any:
        hidden = self.model(input_ids, attention_mask).last_hidden_state
        return SequenceClassifierOutput(logits=self.classifier(hidden[:, 0]))


class FusedFamily(Family):
    """Views of rows of the fused weights; a head takes its rows of all three."""

    name: ClassVar[str] = "fused"
    stock_prefix: ClassVar[str] = "Fused"
    units: ClassVar[Mapping[str, Units]] = {
        "attention": Units("heads", ("query", "key", "value"), "attention_out"),
        "ffn": Units("neurons", ("ffn_gate", "ffn_in"), "ffn_out"),
    }

    def stock_class(self, ending: str) -> Any:
        return globals().get(f"Fused{ending}")

    def max_tokens(self, config: Any) -> int | None:
        return None

    def depth_of(self, config: Any) -> int:
        return int(config.num_hidden_layers)

    def width_of(self, config: Any) -> int:
        return int(config.intermediate_size)

    def resize(self, config: Any, *, depth: int, width: int | None = None) -> None:
        config.num_hidden_layers = depth
        config.intermediate_size = config.intermediate_size if width is None else width

    def narrow(self, config: Any, *, hidden: int, heads: int) -> None:
        config.hidden_size, config.num_attention_heads = hidden, heads

    def base(self, model: nn.Module) -> nn.Module:
        return model.model if hasattr(model, "model") else model

    def encoder(self, model: nn.Module) -> nn.Module:
        return self.base(model).layers

    def is_table(self, tensor: str) -> bool:
        return ".tok." in tensor

    def is_encoder(self, tensor: str) -> bool:
        return tensor.startswith(("embeddings.", "layers."))

    def layers(self, model: nn.Module) -> list[nn.Module]:
        return [*self.encoder(model)]

    def layers_obstacle(self, model: nn.Module, kept: Sequence[int]) -> str | None:
        return None if 0 in kept else "the first layer of a fused model has to stay"

    def keep_layers(self, model: nn.Module, kept: Sequence[int]) -> None:
        layers = self.layers(model)
        put_module(self.base(model), "layers", nn.ModuleList(layers[i] for i in kept))

    def embeddings(self, model: nn.Module) -> Embeddings:
        return Embeddings(self.base(model).embeddings, {"word": "tok", "norm": "norm"})

    def decoder(self, model: nn.Module) -> nn.Module | None:
        return None

    def token_parameters(self, model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
        yield self.base(model).embeddings.tok, "weight"

    def linears(self, layer: nn.Module) -> dict[str, LinearView]:
        wide, half = layer.Wqkv.out_features // 3, layer.Wi.out_features // 2
        rows = {
            name: (i * wide, (i + 1) * wide) for i, name in enumerate(("query", "key", "value"))
        }
        return {
            **{name: LinearView(layer, "Wqkv", span) for name, span in rows.items()},
            "attention_out": LinearView(layer, "Wo"),
            "ffn_gate": LinearView(layer, "Wi", (0, half)),
            "ffn_in": LinearView(layer, "Wi", (half, 2 * half)),
            "ffn_out": LinearView(layer, "Wout"),
        }

    def norms(self, layer: nn.Module) -> dict[str, nn.Module]:
        return {"attention": layer.attn_norm, "ffn": layer.mlp_norm}

    def modules(self, layer: nn.Module, part: str) -> dict[str, nn.Module]:
        paths = {"attention": ("attn_norm", "Wqkv", "Wo"), "ffn": ("mlp_norm", "Wi", "Wout")}
        return {path: layer.get_submodule(path) for path in paths[part]}

    def heads(self, layer: nn.Module) -> int:
        return int(layer.heads)

    def keep_heads(self, layer: nn.Module, kept: Sequence[int]) -> None:
        size, wide = layer.head_size, layer.Wo.in_features
        one = torch.tensor([head * size + i for head in kept for i in range(size)])
        layer.Wqkv = keep_outputs(layer.Wqkv, torch.cat([one + i * wide for i in range(3)]))
        layer.Wo = keep_inputs(layer.Wo, one)
        layer.heads = len(kept)

    def keep_neurons(self, layer: nn.Module, kept: Sequence[int]) -> None:
        index, width = torch.tensor(list(kept)), layer.Wout.in_features
        layer.Wi = keep_outputs(layer.Wi, torch.cat([index, index + width]))
        layer.Wout = keep_inputs(layer.Wout, index)

    def residual(self, layer: nn.Module, part: str) -> Stream:
        return Stream(layer.mlp_norm) if part == "attention" else Stream(layer, "output")
