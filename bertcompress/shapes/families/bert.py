"""BERT: Devlin et al. 2018 (1810.04805), and what has its shape."""

from __future__ import annotations

from typing import ClassVar

from bertcompress.shapes.families.bert_like import BertLike

__all__ = ["BertFamily"]


class BertFamily(BertLike):
    """BERT, whose names are those of `BertLike`."""

    name: ClassVar[str] = "bert"
    stock_prefix: ClassVar[str] = "Bert"
    base_name: ClassVar[str] = "bert"
    decoder_path: ClassVar[str] = "cls.predictions.decoder"
