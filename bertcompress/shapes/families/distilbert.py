"""DistilBERT: Sanh et al. 2019 (1910.01108)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from bertcompress.shapes.families.bert_like import BertLike

__all__ = ["DistilBertFamily"]


class DistilBertFamily(BertLike):
    """DistilBERT: BERT without token types, under other names."""

    name: ClassVar[str] = "distilbert"
    stock_prefix: ClassVar[str] = "DistilBert"
    base_name: ClassVar[str] = "distilbert"
    decoder_path: ClassVar[str] = "vocab_projector"
    encoder_path: ClassVar[str] = "transformer"
    layers_path: ClassVar[str] = "transformer.layer"
    attention_path: ClassVar[str] = "attention"
    heads_name: ClassVar[str] = "n_heads"
    features_name: ClassVar[str] = "dim"
    linear_paths: ClassVar[Mapping[str, str]] = {
        "query": "attention.q_lin",
        "key": "attention.k_lin",
        "value": "attention.v_lin",
        "attention_out": "attention.out_lin",
        "ffn_in": "ffn.lin1",
        "ffn_out": "ffn.lin2",
    }
    norm_paths: ClassVar[Mapping[str, str]] = {
        "attention": "sa_layer_norm",
        "ffn": "output_layer_norm",
    }
    part_paths: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "attention": ("attention", "sa_layer_norm"),
        "ffn": ("ffn", "output_layer_norm"),
    }
    albert_heads: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "ForTokenClassification": {"classifier": "classifier"},
        "ForQuestionAnswering": {"qa_outputs": "qa_outputs"},
    }
    depth_field: ClassVar[str] = "n_layers"
    width_field: ClassVar[str] = "hidden_dim"
