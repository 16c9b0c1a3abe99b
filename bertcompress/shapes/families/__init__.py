"""The table of families: `model_type` -> (where the class is, one line). Imports no torch.

Adding a family adds a file here and a line below; nothing else names one.
"""

from __future__ import annotations

__all__ = ["FAMILIES", "SHIPPED"]

SHIPPED: dict[str, str] = {}
"""In a source file that is shipped with a model: its own text, by family. Empty in the package."""

FAMILIES: dict[str, tuple[str, str]] = {
    "bert": (
        "bertcompress.shapes.families.bert:BertFamily",
        "BERT and what has its shape: MiniLM, TinyBERT, BERT in other languages",
    ),
    "roberta": (
        "bertcompress.shapes.families.roberta:RobertaFamily",
        "RoBERTa",
    ),
    "xlm-roberta": (
        "bertcompress.shapes.families.roberta:XLMRobertaFamily",
        "XLM-RoBERTa; most of it is the word table: trim_vocabulary",
    ),
    "camembert": (
        "bertcompress.shapes.families.roberta:CamembertFamily",
        "CamemBERT",
    ),
    "electra": (
        "bertcompress.shapes.families.electra:ElectraFamily",
        "ELECTRA, the discriminator",
    ),
    "distilbert": (
        "bertcompress.shapes.families.distilbert:DistilBertFamily",
        "DistilBERT",
    ),
    "albert": (
        "bertcompress.shapes.families.albert:AlbertFamily",
        "ALBERT; its one shared layer is cut once",
    ),
}
"""The encoder families that can be compressed. The class is given as "module:class", so that the
families are listed without torch."""
