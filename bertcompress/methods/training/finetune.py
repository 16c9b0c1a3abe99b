"""Train all weights on the task's labels and keep the best evaluation.

The baseline of every comparison and the usual first step; skipped by a model whose classes' names
say that it is fine-tuned for the task (Devlin et al. 2018, 1810.04805, section 4.1). A baseline
that stopped early flatters everything that is compared with it: the rate is held until the score on
the selection split stalls, then falls to zero (Hu et al. 2024, 2404.06395). With `epochs` it falls
over as many instead. Where a cap ends the training while the score still rises, the report says so
first.

Costs three forward passes' worth of arithmetic per row and epoch. Not for data without labels.
Changes no shape: no speed-up on any device.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from bertcompress.data.batches import Batches
from bertcompress.deployment import Product
from bertcompress.errors import DataError
from bertcompress.method import Context, Leaves, Method, Need
from bertcompress.training import LabelLoss, TrainSettings, fit_batches, fit_stage

__all__ = ["Finetune", "finetune"]


def finetune(
    model: nn.Module,
    loader: Batches,
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    **knobs: Any,
) -> nn.Module:
    """Train `model` in place on batches with `labels`, for all epochs, and return it.

    `knobs` are the fields of `Finetune`. There is no selection split here, so nothing stops early:
    give `epochs`, three by default. Raises DataError for batches without labels.
    """
    settings = Finetune(**knobs)
    fit_batches(model, LabelLoss(), loader, settings=settings, seed=seed, device=device)
    return model


class Finetune(Method, TrainSettings):
    """Train on the task's labels and keep the best evaluation."""

    key: ClassVar[str] = "finetune"
    paper: ClassVar[str] = "Devlin et al. 2018, arXiv:1810.04805"
    leaves: ClassVar[Leaves] = "weights"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.LABELS})
    trains_head: ClassVar[bool] = True

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the trained product; its head has to fit the task already."""
        width = product.model.config.num_labels
        bare = ctx.task.head.auto_class is None
        if not bare and width != ctx.data.num_labels:
            raise DataError(
                f"finetune: the model answers with {width} numbers, task '{ctx.task.name}' has "
                f"{ctx.data.num_labels}; load the model with a fresh head"
            )
        return fit_stage(product, ctx, LabelLoss(ctx.task.head), self)
