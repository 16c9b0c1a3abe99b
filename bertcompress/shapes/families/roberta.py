"""RoBERTa: Liu et al. 2019 (1907.11692), and the families that are RoBERTa in other languages."""

from __future__ import annotations

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


class XLMRobertaFamily(RobertaFamily):
    """XLM-RoBERTa: Conneau et al. 2019 (1911.02116)."""

    name: ClassVar[str] = "xlm-roberta"
    stock_prefix: ClassVar[str] = "XLMRoberta"


class CamembertFamily(RobertaFamily):
    """CamemBERT: Martin et al. 2019 (1911.03894)."""

    name: ClassVar[str] = "camembert"
    stock_prefix: ClassVar[str] = "Camembert"
