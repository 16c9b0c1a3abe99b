"""What travels with a model: anatomy, edits and the classes of an edited model."""

from bertcompress.shapes.anatomy import FAMILIES, ShapeError, anatomy
from bertcompress.shapes.cutting import Heads, Layers, Neurons
from bertcompress.shapes.edits import read_record
from bertcompress.shapes.modeling import apply_edit, compressed_class, edited

__all__ = [
    "FAMILIES",
    "Heads",
    "Layers",
    "Neurons",
    "ShapeError",
    "anatomy",
    "apply_edit",
    "compressed_class",
    "edited",
    "read_record",
]
