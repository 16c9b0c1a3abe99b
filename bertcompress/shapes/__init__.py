"""What travels with a model: anatomy, edits and the classes of an edited model."""

from bertcompress.shapes.anatomy import (
    FAMILIES,
    LayerParts,
    ShapeError,
    albert_groups,
    anatomy,
)
from bertcompress.shapes.cutting import Heads, Layers, Neurons
from bertcompress.shapes.edits import read_record
from bertcompress.shapes.lowbit import LowBit, QuantizedEmbedding, QuantizedLinear
from bertcompress.shapes.lowrank import LINEARS, TABLES, Embedding, LowRanks
from bertcompress.shapes.modeling import apply_edit, compressed_class, edited, working_form
from bertcompress.shapes.parts import FactorizedEmbedding, LowRank, ProjectedDropout
from bertcompress.shapes.sharing import PARTS, Sharing
from bertcompress.shapes.vocabulary import Vocabulary

__all__ = [
    "FAMILIES",
    "LINEARS",
    "PARTS",
    "TABLES",
    "Embedding",
    "FactorizedEmbedding",
    "Heads",
    "LayerParts",
    "Layers",
    "LowBit",
    "LowRank",
    "LowRanks",
    "Neurons",
    "ProjectedDropout",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "ShapeError",
    "Sharing",
    "Vocabulary",
    "albert_groups",
    "anatomy",
    "apply_edit",
    "compressed_class",
    "edited",
    "read_record",
    "working_form",
]
