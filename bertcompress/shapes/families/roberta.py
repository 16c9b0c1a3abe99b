"""RoBERTa: Liu et al. 2019 (1907.11692), and the families that are RoBERTa in other languages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from bertcompress.shapes.families.bert_like import BertLike

__all__ = ["CamembertFamily", "RobertaFamily", "XLMRobertaFamily"]


class RobertaFamily(BertLike):
    """RoBERTa: BERT whose positions count from behind the padding token's number."""

    name: ClassVar[str] = "roberta"
    stock_prefix: ClassVar[str] = "Roberta"
    base_name: ClassVar[str] = "roberta"
    decoder_path: ClassVar[str] = "lm_head.decoder"
    positions_after_padding: ClassVar[bool] = True
    albert_heads: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "Model": {"pooler": "pooler.dense"},
        # Its pooler is inside the classification head.
        "ForSequenceClassification": {
            "albert.pooler": "classifier.dense",
            "classifier": "classifier.out_proj",
        },
        "ForMultipleChoice": {
            "albert.pooler": "roberta.pooler.dense",
            "classifier": "classifier",
        },
        "ForTokenClassification": {"classifier": "classifier"},
        "ForQuestionAnswering": {"qa_outputs": "qa_outputs"},
        "ForMaskedLM": {
            "predictions.dense": "lm_head.dense",
            "predictions.LayerNorm": "lm_head.layer_norm",
            "predictions.bias": "lm_head.bias",
        },
    }


class XLMRobertaFamily(RobertaFamily):
    """XLM-RoBERTa: Conneau et al. 2019 (1911.02116)."""

    name: ClassVar[str] = "xlm-roberta"
    stock_prefix: ClassVar[str] = "XLMRoberta"


class CamembertFamily(RobertaFamily):
    """CamemBERT: Martin et al. 2019 (1911.03894)."""

    name: ClassVar[str] = "camembert"
    stock_prefix: ClassVar[str] = "Camembert"
