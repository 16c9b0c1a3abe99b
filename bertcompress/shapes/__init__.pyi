"""What travels with a model: families, edits and the classes of an edited model."""

from .cutting import Heads, Layers, Neurons
from .edits import edited, read_record
from .families import FAMILIES
from .families.albert import albert_groups
from .families.anatomy import (
    Anatomy,
    Layer,
    anatomy,
    family_named,
    family_of,
)
from .families.family import PARTS, Family, Units
from .families.views import (
    TABLES,
    Embeddings,
    LinearView,
    ShapeError,
    Stream,
)
from .hidden import Hidden, stream_tensors
from .lowbit import LowBit, QuantizedEmbedding, QuantizedLinear
from .lowrank import Embedding, LowRanks
from .masked import Masked
from .modeling import (
    apply_edit,
    compressed_class,
    compressed_config,
    resume_record,
    working_form,
)
from .parts import FactorizedEmbedding, LowRank, ProjectedDropout
from .record import hidden_size
from .recorded import (
    count_zeros,
    densities,
    forget_zeros,
    has_thin_tables,
    has_zeros,
    imitates,
    keep_zeros,
    kept_layers,
    lost_zeros,
    recorded_zeros,
    stored_bits,
)
from .sharing import Sharing
from .vocabulary import Vocabulary

__all__ = [
    "FAMILIES",
    "PARTS",
    "TABLES",
    "Anatomy",
    "Embedding",
    "Embeddings",
    "FactorizedEmbedding",
    "Family",
    "Heads",
    "Hidden",
    "Layer",
    "Layers",
    "LinearView",
    "LowBit",
    "LowRank",
    "LowRanks",
    "Masked",
    "Neurons",
    "ProjectedDropout",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "ShapeError",
    "Sharing",
    "Stream",
    "Units",
    "Vocabulary",
    "albert_groups",
    "anatomy",
    "apply_edit",
    "compressed_class",
    "compressed_config",
    "count_zeros",
    "densities",
    "edited",
    "family_named",
    "family_of",
    "forget_zeros",
    "has_thin_tables",
    "has_zeros",
    "hidden_size",
    "imitates",
    "keep_zeros",
    "kept_layers",
    "lost_zeros",
    "read_record",
    "recorded_zeros",
    "resume_record",
    "stored_bits",
    "stream_tensors",
    "working_form",
]
