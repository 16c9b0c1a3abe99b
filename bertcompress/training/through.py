"""Training through a stand-in: wrap a copy of a model, train that, fold it into the model itself.

Fake quantisation, gates on components, relaxed masks: the copy computes as the result will, or
closes in on it; the model then takes over what was learned.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from bertcompress.data.batches import Batches
from bertcompress.deployment import Product
from bertcompress.method import Context, Objective
from bertcompress.training.fitting import fit_batches, fit_stage
from bertcompress.training.settings import TrainSettings

__all__ = ["Fold", "Wrap", "fit_batches_through", "fit_through"]

_Done = TypeVar("_Done")

Wrap = Callable[[Any, Objective], Objective]
"""Changes the copy in place, and returns the objective that it is trained with: the given one, or
one around it that knows what was put in."""

Fold = Callable[[Any, Any], object]
"""Gives the model (first), in place, what its trained copy (second) learned."""


def fit_through(
    product: Product,
    ctx: Context,
    objective: Objective,
    settings: TrainSettings,
    wrap: Wrap,
    fold: Fold,
    *,
    keep_last: bool = False,
) -> Product:
    """Return the product with its model trained through a wrapped copy, as one stage of a run.

    `keep_last`: fold the last step, not the best one by the selection split, as `fit` says. Where
    `settings.trains` is false the copy is wrapped and folded as it is.
    """

    def train(trained: Any, wrapped: Objective) -> Product:
        copied = Product(trained, product.tokenizer)
        return fit_stage(copied, ctx, wrapped, settings, keep_last) if settings.trains else copied

    model: Any = product.model
    done = _through(model, objective, wrap, fold, train)
    return Product(model.eval(), product.tokenizer, (), done.findings)


def fit_batches_through(
    model: nn.Module,
    objective: Objective,
    loader: Batches,
    wrap: Wrap,
    fold: Fold,
    *,
    settings: TrainSettings,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Train `model` through a wrapped copy on the user's own loader, in place, and return it."""

    def train(trained: Any, wrapped: Objective) -> None:
        if settings.trains:
            fit_batches(trained, wrapped, loader, settings=settings, seed=seed, device=device)

    _through(model, objective, wrap, fold, train)
    return model.eval()


def _through(
    model: nn.Module,
    objective: Objective,
    wrap: Wrap,
    fold: Fold,
    train: Callable[[Any, Objective], _Done],
) -> _Done:
    trained = copy.deepcopy(model)
    done = train(trained, wrap(trained, objective))
    fold(model, trained)
    return done
