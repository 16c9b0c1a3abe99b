"""Published ways to distil what happens inside a model: rows over `distill`, each with its weights.

`pkd` adds the normalised states of the first token in the layers between (Sun et al. 2019,
1908.09355). `tinybert` learns attention scores and hidden states first and the teacher's answers
after that (Jiao et al. 2020, 1909.10351, the task-specific half; embeddings and layers at once).
`minilm` learns how tokens relate in one layer of the teacher, whatever the widths are, and then the
labels (Wang et al. 2020, 2012.15828).

Costs a forward pass of the teacher in each step besides a training step; the last two train twice.
Not for a teacher whose tokenizer cuts the texts otherwise, but for `pkd`. Changes no shape: no
speed-up.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from bertcompress.data.batches import Batches
from bertcompress.deployment import Product
from bertcompress.engines.distillation.augmentation import with_augmented
from bertcompress.engines.distillation.settings import LABELS_ONLY, WITHOUT_TEACHER
from bertcompress.method import Context
from bertcompress.methods.distillation.distill import Distill
from bertcompress.training import Phase, fit_batches, fit_phases, fit_stage

__all__ = ["DistillInside", "MiniLM", "Pkd", "TinyBert", "minilm", "pkd", "tinybert"]


def pkd(
    model: nn.Module,
    teacher: nn.Module,
    loader: Batches,
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    **knobs: Any,
) -> nn.Module:
    """Train `model` in place by patient knowledge distillation, and return it; see `Pkd`."""
    return _taught(Pkd(**knobs), model, teacher, loader, device=device, seed=seed)


def tinybert(
    model: nn.Module,
    teacher: nn.Module,
    loader: Batches,
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    **knobs: Any,
) -> nn.Module:
    """Train `model` in place on a teacher's layers, then on its answers; see `TinyBert`."""
    return _taught(TinyBert(**knobs), model, teacher, loader, device=device, seed=seed)


def minilm(
    model: nn.Module,
    teacher: nn.Module,
    loader: Batches,
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    **knobs: Any,
) -> nn.Module:
    """Train `model` in place on a teacher's relations, then on the labels; see `MiniLM`."""
    return _taught(MiniLM(**knobs), model, teacher, loader, device=device, seed=seed)


def _taught(
    method: DistillInside,
    model: nn.Module,
    teacher: nn.Module,
    loader: Batches,
    *,
    device: torch.device | str,
    seed: int,
) -> nn.Module:
    """Train on a loader of one's own, in place; both models read the same tokens."""
    for part in method.parts():
        objective = part.loader_objective(model, teacher, seed=seed, device=device)
        fit_batches(model, objective, loader, settings=part, seed=seed, device=device)
    return model


class DistillInside(Distill):
    """Train on what is inside the teacher first, and then to answer; or on all at once."""

    inside_epochs: float = Field(
        3, ge=0, le=1_000, description="Epochs on what is inside alone, first; 0: all at once"
    )

    @model_validator(mode="after")
    def _something_inside_is_learned(self) -> Self:
        if self.inside_epochs and not self.learns_inside:
            raise ValueError(
                "inside_epochs: nothing inside the teacher is learned; give a weight of what is "
                "inside above 0, or inside_epochs 0"
            )
        return self

    def parts(self, labelled: bool = True) -> tuple[Self, ...]:
        """Return the settings of both trainings, in order, or of the one.

        Where nobody has answers to learn, `labelled` being False and no logits asked for, the one
        is on what is inside the teacher alone, as long as this training was to be.
        """
        if not self.inside_epochs:
            return (self,)
        answers = ("label_weight", "logit_weight")
        if not (self.logit_weight or (self.label_weight and labelled)):
            return (self.model_copy(update=dict.fromkeys(answers, 0.0)),)
        inside = [name for name in LABELS_ONLY if name not in answers]
        last = self.model_copy(update=dict.fromkeys(inside, 0.0))
        first = {
            "label_weight": 0.0,
            "logit_weight": 0.0,
            "epochs": self.inside_epochs,
            "max_steps": None,
            "patience": None,
            "evaluation_steps": None,
        }
        return self.model_copy(update=first), last

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the trained product; its training is that of both parts."""
        ctx, made = with_augmented(self.augmentation, ctx, ctx.models.teacher, product.tokenizer)
        *before, last = self.parts(ctx.task.head.teaches(ctx.data.train))

        def train(part: Distill, where: Context, keep_last: bool = False) -> Product:
            return fit_stage(product, where, part.stage_objective(product, where), part, keep_last)

        inside = partial(train, where=ctx.phase("inside"), keep_last=True)
        phases = [Phase(part, inside, "inside_epochs") for part in before]
        done = fit_phases([*phases, Phase(last, partial(train, where=ctx))])
        return self.finished(done, ctx, made)

    def controls(self) -> Mapping[str, Distill]:
        """Return as many steps on the labels alone."""
        alone = {**self.alone, "inside_epochs": 0.0}
        return {WITHOUT_TEACHER: self.model_copy(update=alone)}


class Pkd(DistillInside):
    """Train on the answers and on the first token's states in the layers between."""

    key: ClassVar[str] = "pkd"
    paper: ClassVar[str] = "Sun et al. 2019, arXiv:1908.09355"

    inside_epochs: float = Field(
        0, ge=0, le=1_000, description="Epochs on what is inside the teacher alone, before the rest"
    )
    temperature: float = Field(5.0, ge=1, le=100, description="Softens both answers")
    label_weight: float = Field(0.5, ge=0, description="Weight of the labels' loss")
    logit_weight: float = Field(0.5, ge=0, description="Weight of the teacher's logits")
    hidden_weight: float = Field(0.0, ge=0, description="Weight of the teacher's hidden states")
    patient_weight: float = Field(
        100.0, ge=0, description="Weight of the first tokens' normalised states"
    )


class TinyBert(DistillInside):
    """Train on attention scores and hidden states, then on the teacher's answers."""

    key: ClassVar[str] = "tinybert"
    paper: ClassVar[str] = "Jiao et al. 2020, arXiv:1909.10351"

    temperature: float = Field(1.0, ge=1, le=100, description="Softens both answers")
    label_weight: float = Field(0.0, ge=0, description="Weight of the labels' loss")
    logit_weight: float = Field(1.0, ge=0, description="Weight of the teacher's logits")
    hidden_weight: float = Field(1.0, ge=0, description="Weight of the teacher's hidden states")
    attention_weight: float = Field(1.0, ge=0, description="Weight of the attention scores")


class MiniLM(DistillInside):
    """Train on the relations among tokens in one layer of the teacher, then on the labels."""

    key: ClassVar[str] = "minilm"
    paper: ClassVar[str] = "Wang et al. 2020, arXiv:2012.15828"

    label_weight: float = Field(1.0, ge=0, description="Weight of the labels' loss")
    logit_weight: float = Field(0.0, ge=0, description="Weight of the teacher's logits")
    hidden_weight: float = Field(0.0, ge=0, description="Weight of the teacher's hidden states")
    relation_weight: float = Field(1.0, ge=0, description="Weight of the relations among tokens")
