"""`inspect`: where parameters, bytes and multiply-accumulates of a model are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bertcompress.deployment import Product
from bertcompress.measure.footprint import LayerRow, Parameters, count_parameters, layer_table
from bertcompress.models.io import load, rung

__all__ = ["Inspection", "inspect"]


@dataclass(frozen=True)
class Inspection:
    """Where a model's parameters, bytes and multiply-accumulates are."""

    product: Product
    parameters: Parameters
    rows: list[LayerRow]
    loads_in: str


def inspect(model: str | Path, *, length: int = 128, revision: str | None = None) -> Inspection:
    """Return where parameters, bytes and multiply-accumulates are, layer by layer."""
    product = load(model, revision=revision)
    rows = layer_table(product.model, length)
    return Inspection(product, count_parameters(product.model), rows, rung(product.model)[1])
