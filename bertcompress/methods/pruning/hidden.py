"""Remove features of the residual stream, the weakest by the size of the weights that use them.

Each feature is scored by the sum of squares of all weights that write it or read it (magnitude; Han
et al. 2015, 1506.02626; of whole hidden dimensions as Xia et al. 2022, 2204.00408, prune them by
learned masks). Tables, linears and norms lose the same features, so every matrix gets smaller, the
word table too.

Costs nothing but the cut. Not without `distill` or `finetune` after it: a norm over fewer features
is another norm, and answers fall to chance at half the width. Every device gets faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bertcompress.deployment import Findings, Product
from bertcompress.method import Context, Leaves, Method, Need
from bertcompress.shapes import Hidden, ShapeError, anatomy, apply_edit, stream_tensors

__all__ = ["PruneHidden", "feature_norms", "features_left", "prune_hidden"]


def feature_norms(model: nn.Module) -> Tensor:
    """Return the sum of squares of all weights on each feature of the stream. Shape: (H,)."""
    total = torch.zeros(anatomy(model).hidden, dtype=torch.float64)
    for tensor, axis in stream_tensors(anatomy(model)):
        others = [i for i in range(tensor.ndim) if i != axis]
        squares = tensor.detach().double().square()
        total += (squares.sum(others) if others else squares).cpu()
    return total


def features_left(width: int, keep: float, multiple: int) -> int:
    """Return how many of `width` features stay; ShapeError where `multiple` is more than all."""
    size = max(multiple, int(keep * width) // multiple * multiple)
    if size > width:
        raise ShapeError(f"prune_hidden: multiple {multiple} of a stream of {width} features")
    return size


def prune_hidden(
    model: nn.Module,
    keep: float,
    *,
    multiple: int = 8,
    scores: Literal["magnitude", "random"] = "magnitude",
    seed: int = 0,
) -> nn.Module:
    """Keep this share of the stream's features, in place, and return the model.

    `multiple`: the number that stays is rounded down to a multiple, 1 times it at least. Raises
    ShapeError where the stream has not so many features.
    """
    width = anatomy(model).hidden
    size = features_left(width, keep, multiple)
    ranked = feature_norms(model)
    if scores == "random":
        ranked = torch.rand(width, generator=torch.Generator().manual_seed(seed))
    kept = sorted(ranked.topk(size).indices.tolist())
    return apply_edit(model, Hidden(size, kept))


class PruneHidden(Method):
    """Remove features of the residual stream, the weakest by magnitude."""

    key: ClassVar[str] = "prune_hidden"
    paper: ClassVar[str] = "Han et al. 2015, arXiv:1506.02626; Xia et al. 2022, arXiv:2204.00408"
    leaves: ClassVar[Leaves] = "shape"
    tier: ClassVar[Literal["core", "useful", "research"]] = "useful"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.HEAD})
    tags: ClassVar[tuple[str, ...]] = ("pruned",)
    speeds_up: ClassVar[bool] = True

    keep: float = Field(0.75, gt=0, le=1, description="Share of the stream's features that stays")
    multiple: int = Field(8, ge=1, description="The number that stays is a multiple of this")
    scores: Literal["magnitude", "random"] = Field(
        "magnitude", description="How features are ranked; random is the control"
    )

    @property
    def share_left(self) -> float:
        """`keep`."""
        return self.keep

    def plan_shape(self, model: nn.Module) -> None:
        """Narrow the stream."""
        apply_edit(model, Hidden(features_left(anatomy(model).hidden, self.keep, self.multiple)))

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the product with a narrower stream."""
        before = anatomy(product.model).hidden
        prune_hidden(
            product.model, self.keep, multiple=self.multiple, scores=self.scores, seed=ctx.seed
        )
        left = {"hidden_before": before, "hidden": anatomy(product.model).hidden}
        return Product(product.model, product.tokenizer, (), Findings(free=left))

    def controls(self) -> Mapping[str, Method]:
        """Return the same number of features, drawn."""
        if self.scores == "random":
            return {}
        return {"random features": self.model_copy(update={"scores": "random"})}
