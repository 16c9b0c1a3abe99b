"""BERT: Devlin et al. 2018 (1810.04805), and what has its shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from bertcompress.shapes.families.bert_like import BertLike

__all__ = ["BertFamily"]


class BertFamily(BertLike):
    """BERT, whose names are those of `BertLike`."""

    name: ClassVar[str] = "bert"
    stock_prefix: ClassVar[str] = "Bert"
    base_name: ClassVar[str] = "bert"
    decoder_path: ClassVar[str] = "cls.predictions.decoder"
    albert_heads: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "Model": {"pooler": "pooler.dense"},
        "ForSequenceClassification": {
            "albert.pooler": "bert.pooler.dense",
            "classifier": "classifier",
        },
        "ForMultipleChoice": {
            "albert.pooler": "bert.pooler.dense",
            "classifier": "classifier",
        },
        "ForTokenClassification": {"classifier": "classifier"},
        "ForQuestionAnswering": {"qa_outputs": "qa_outputs"},
        "ForMaskedLM": {
            "predictions.dense": "cls.predictions.transform.dense",
            "predictions.LayerNorm": "cls.predictions.transform.LayerNorm",
            "predictions.bias": "cls.predictions.bias",
        },
    }
