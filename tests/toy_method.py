"""Halve the feed-forward parts that answer least, as a method of somebody else's.

Nobody et al. 2026 (2601.00001). Costs nothing. Not for use: a test adds it from outside. Every
layer gets faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import nn

from bertcompress.deployment import Findings, Product
from bertcompress.method import Context, Leaves, Method, Need
from bertcompress.shapes import Neurons, anatomy, apply_edit

__all__ = ["Toy", "toy"]


def toy(model: nn.Module, keep: float = 0.5, first: bool = True) -> nn.Module:
    """Keep the first or the last neurons of each layer, in place, and return the model."""
    widths = [layer.width for layer in anatomy(model).layers]
    counts = [max(1, round(keep * width)) for width in widths]
    rows = [
        list(range(count)) if first else list(range(width - count, width))
        for count, width in zip(counts, widths, strict=True)
    ]
    return apply_edit(model, Neurons(counts, rows))


class Toy(Method):
    """Halve the feed-forward parts, blindly."""

    key: ClassVar[str] = "toy"
    paper: ClassVar[str] = "Nobody et al. 2026, arXiv:2601.00001"
    leaves: ClassVar[Leaves] = "shape"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.HEAD, Need.BASELINE, Need.ORIGINAL})
    tags: ClassVar[tuple[str, ...]] = ("toyed",)
    speeds_up: ClassVar[bool] = True

    keep: float = Field(0.5, gt=0, le=1, description="Share of the neurons that stays")
    first: bool = Field(True, description="The first neurons of each layer, or the last")

    def plan_shape(self, model: nn.Module) -> None:
        """Halve the feed-forward parts."""
        toy(model, self.keep)

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the product with fewer neurons."""
        assert anatomy(ctx.models.baseline.model).layers[0].width == 24
        assert anatomy(ctx.models.original.model).layers[0].width == 24
        assert ctx.phase("one").workdir.parent == ctx.workdir
        toy(product.model, self.keep, self.first)
        findings = Findings(samples=0, notes=("cut blindly",), free={"blind": True})
        return Product(product.model, product.tokenizer, (), findings)

    def controls(self) -> Mapping[str, Method]:
        """Return the other neurons, and all of them."""
        return {
            "the other neurons": self.model_copy(update={"first": not self.first}),
            "nothing cut": self.model_copy(update={"keep": 1.0}),
        }
