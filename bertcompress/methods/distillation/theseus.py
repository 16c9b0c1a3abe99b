"""Replace the layers of a fine-tuned model by fewer ones, one by one and by chance, as it trains.

BERT-of-Theseus (Xu et al. 2020, 2002.02925): the model's layers are grouped, one group for each
layer that stays. In each training step a group is computed either by its own frozen layers or by
the one that shall stand for them, more and more often by the latter; embeddings and head are frozen
meanwhile. Then what has grown is trained on as it is. There is no distance to a teacher to be
weighed: the labels' loss is the only one.

Costs two trainings, the first between that of the small and that of the large model per step. Not
without labels. The encoder has fewer layers and is as much faster.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from bertcompress.data.batches import Batches, train_loader
from bertcompress.deployment import Product
from bertcompress.engines.distillation.replacing import (
    ReplacedLayer,
    ReplacingRate,
    WithReplacing,
    put_replaced,
)
from bertcompress.method import Context, Leaves, Method, Need, Objective
from bertcompress.methods.pruning.structured import choose_layers
from bertcompress.shapes import Layers, ShapeError, anatomy, apply_edit
from bertcompress.training import (
    LabelLoss,
    Phase,
    TrainSettings,
    epoch_batches,
    fit_batches,
    fit_batches_through,
    fit_phases,
    fit_stage,
    fit_through,
)

__all__ = ["Theseus", "theseus"]

_PLAIN = "the same layers, plainly fine-tuned"


def theseus(
    model: nn.Module,
    loader: Batches,
    layers: int,
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    **knobs: Any,
) -> nn.Module:
    """Replace the layers of `model` by `layers` ones, in place, and return it.

    `loader`: batches with `labels`. `knobs` are the fields of `Theseus`; three epochs of replacing
    and three after it by default. Raises ShapeError for more layers than there are.
    """
    method = Theseus(**{**knobs, "layers": layers})
    method.check(model)
    batches = train_loader(loader)
    predecessor = copy.deepcopy(model)
    method.plan_shape(model)
    if method.replacing_epochs:
        first = method.first_phase()
        wrap = _Wrap(predecessor, first.rate(len(batches)), seed)
        fit_batches_through(
            model, LabelLoss(), batches, wrap, _fold, settings=first, seed=seed, device=device
        )
    fit_batches(model, LabelLoss(), batches, settings=method, seed=seed, device=device)
    return model.eval()


class Theseus(Method, TrainSettings):
    """Replace layers by fewer ones, by chance and ever more often, under the labels' loss alone."""

    key: ClassVar[str] = "theseus"
    paper: ClassVar[str] = "Xu et al. 2020, arXiv:2002.02925"
    leaves: ClassVar[Leaves] = "shape"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.HEAD, Need.LABELS})
    tags: ClassVar[tuple[str, ...]] = ("pruned", "distilled")
    speeds_up: ClassVar[bool] = True

    layers: int = Field(3, ge=1, description="Layers that stay")
    layer_order: Literal["bottom", "spread"] = Field(
        "bottom",
        description="What they begin as: the lowest ones, as published, or evenly spread",
    )
    replacing_epochs: float = Field(
        3,
        ge=0,
        le=1_000,
        description="Epochs of replacing by chance, before the usual training",
    )
    replacing_start: float = Field(
        0.3, ge=0, le=1, description="Chance at first that a new layer is taken; it rises to 1"
    )

    @model_validator(mode="after")
    def _replaces_to_the_end(self) -> Theseus:
        if self.replacing_epochs and self.max_minutes is not None:
            raise ValueError(
                "max_minutes: nothing stops early while layers are replaced; leave it null"
            )
        return self

    def check(self, model: nn.Module) -> None:
        """Raise ShapeError for more layers than there are, and for shared ones."""
        view = anatomy(model)
        if view.family.shared:
            raise ShapeError(f"theseus: {type(model).__name__} has one layer, applied many times")
        if self.layers > view.depth:
            raise ShapeError(f"theseus: layers {self.layers} of {view.depth}")

    def plan_shape(self, model: nn.Module) -> None:
        """Keep the layers that the new ones begin as."""
        depth = anatomy(model).depth
        apply_edit(model, Layers(choose_layers(depth, self.layers, self.layer_order)))

    def first_phase(self) -> Theseus:
        """Return the settings of the training in which layers are replaced: of fixed length."""
        update: dict[str, Any] = {
            "epochs": self.replacing_epochs,
            "max_steps": None,
            "patience": None,
            "evaluation_steps": None,
            "schedule": "constant",
            "cycles": None,
        }
        return self.model_copy(update=update)

    def rate(self, batches: int) -> ReplacingRate:
        """Return the chances of a training with so many batches an epoch: 1 in its last step."""
        return ReplacingRate(self.replacing_start, max(1, self.steps(batches) - 1))

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the product with its new, fewer layers; its training is that of both phases."""
        model = product.model
        self.check(model)
        predecessor = copy.deepcopy(model)
        self.plan_shape(model)
        label_loss = LabelLoss(ctx.task.head)
        if not self.replacing_epochs:
            return fit_stage(product, ctx, label_loss, self)
        first, phase = self.first_phase(), ctx.phase("replacing")
        batches = epoch_batches(ctx.data, product.tokenizer, first)
        wrap = _Wrap(predecessor, first.rate(batches), ctx.seed)

        def replacing(settings: Theseus) -> Product:
            return fit_through(product, phase, label_loss, settings, wrap, _fold, keep_last=True)

        def plainly(settings: Theseus) -> Product:
            return fit_stage(Product(model, product.tokenizer), ctx, label_loss, settings)

        return fit_phases([Phase(first, replacing, "replacing_epochs"), Phase(self, plainly)])

    def controls(self) -> Mapping[str, Theseus]:
        """Return the same layers trained on the labels for as many steps, nothing replaced."""
        if not self.replacing_epochs:
            return {}
        return {_PLAIN: self.model_copy(update={"replacing_epochs": 0.0})}


class _Wrap:
    """Puts chance into a copy of the successor."""

    def __init__(self, predecessor: nn.Module, rate: ReplacingRate, seed: int) -> None:
        self.predecessor, self.rate, self.seed = predecessor, rate, seed

    def __call__(self, successor: nn.Module, inner: Objective) -> Objective:
        return WithReplacing(inner, put_replaced(successor, self.predecessor, self.seed), self.rate)


def _fold(model: nn.Module, trained: nn.Module) -> None:
    """Give the successor, in place, the layers that grew in its copy."""
    grown = [each for each in trained.modules() if isinstance(each, ReplacedLayer)]
    for layer, each in zip(anatomy(model).layers, grown, strict=True):
        layer.module.load_state_dict(each.successor.state_dict())
