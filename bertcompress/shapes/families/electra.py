"""ELECTRA: Clark et al. 2020 (2003.10555)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from bertcompress.shapes.families.bert_like import BertLike

__all__ = ["ElectraFamily"]


class ElectraFamily(BertLike):
    """ELECTRA: BERT, in small sizes with a linear between thin tables and the layers."""

    name: ClassVar[str] = "electra"
    stock_prefix: ClassVar[str] = "Electra"
    base_name: ClassVar[str] = "electra"
    decoder_path: ClassVar[str] = "generator_lm_head"
    projection_path: ClassVar[str | None] = "embeddings_project"
    albert_heads: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "ForTokenClassification": {"classifier": "classifier"},
        "ForQuestionAnswering": {"qa_outputs": "qa_outputs"},
    }
