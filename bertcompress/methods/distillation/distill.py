"""Train the smaller model on the answers and the hidden states of the larger one.

The loss is a weighted sum of the labels' loss, the distance to the teacher's softened logits
(Hinton et al. 2015, 1503.02531) and the mean squared error to its hidden states in every layer and
token (Sun et al. 2019, 1908.09355; Kurtic et al. 2023, 2302.04089). The rate is held until the
score on the selection split stalls, then falls to zero; the best step is kept.

Costs a training step and, while hidden states are compared, a teacher's forward pass: a third more.
With logits alone the answers are computed once and kept (K floats per row). Not before anything was
cut: the student would be its own teacher. Works without labels. Changes no shape: no speed-up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from bertcompress.data.batches import Batches
from bertcompress.deployment import Product
from bertcompress.engines.distillation.settings import (
    LABELS_ONLY,
    WITHOUT_TEACHER,
    DistillationSettings,
)
from bertcompress.method import Context, Leaves, Method, Need
from bertcompress.training import TrainSettings, fit_batches, fit_stage

__all__ = ["Distill", "distill"]


def distill(
    model: nn.Module,
    teacher: nn.Module,
    loader: Batches,
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    **knobs: Any,
) -> nn.Module:
    """Train `model` in place on the teacher's answers to the loader's batches, and return it.

    Both models read the same tokens; `labels` in the batches are used where there are any. `knobs`
    are the fields of `Distill`; three epochs by default. Raises ModelError for models of different
    vocabularies.
    """
    method = Distill(**knobs)
    objective = method.loader_objective(model, teacher, seed=seed, device=device)
    fit_batches(model, objective, loader, settings=method, seed=seed, device=device)
    return model


class Distill(Method, DistillationSettings, TrainSettings):
    """Train the smaller model on the answers and hidden states of the larger one."""

    key: ClassVar[str] = "distill"
    paper: ClassVar[str] = "Hinton et al. 2015, arXiv:1503.02531; Sun et al. 2019, arXiv:1908.09355"
    leaves: ClassVar[Leaves] = "weights"
    tags: ClassVar[tuple[str, ...]] = ("distilled",)
    requires: ClassVar[frozenset[Need]] = frozenset({Need.HEAD, Need.TEACHER, Need.CUT})

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the trained product. Raises RecipeError without a teacher."""
        return fit_stage(product, ctx, self.stage_objective(product, ctx), self)

    def controls(self) -> Mapping[str, Distill]:
        """Return the same training on the labels alone."""
        return {WITHOUT_TEACHER: self.model_copy(update=LABELS_ONLY)}
