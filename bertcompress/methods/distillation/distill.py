"""Train the smaller model on the answers and the hidden states of the larger one.

The loss is a weighted sum of the labels' loss, the distance to the teacher's softened logits
(Hinton et al. 2015, 1503.02531) and the mean squared error to its hidden states in every layer and
token (Sun et al. 2019, 1908.09355; Kurtic et al. 2023, 2302.04089). The rate is held until the
score on the selection split stalls, then falls to zero; the best step is kept.

Costs a training step and, while hidden states are compared, a teacher's forward pass: a third more.
With logits alone the answers are computed once and kept (K floats per row). `transfer` names texts
without labels that join the training rows in each epoch. Not before anything was cut: the student
would be its own teacher. Works without labels. Changes no shape: no speed-up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import nn
from transformers import PreTrainedTokenizerBase

from bertcompress.data import TaskData
from bertcompress.data.batches import Batches
from bertcompress.data.transfer import TransferText
from bertcompress.deployment import Product
from bertcompress.engines.distillation.settings import (
    LABELS_ONLY,
    WITHOUT_TEACHER,
    DistillationSettings,
)
from bertcompress.engines.distillation.teachers import LiveTeacher
from bertcompress.errors import InputError
from bertcompress.method import Context, Leaves, Method, Need, Objective
from bertcompress.training import TrainSettings, fit_batches, fit_stage

__all__ = ["Distill", "distill", "with_transfer_cost"]


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

    transfer: str | TransferText | None = Field(
        None, description="Texts without labels that the teacher alone answers: a file, a data set"
    )

    @model_validator(mode="after")
    def _answered_by_a_teacher(self) -> Distill:
        if self.transfer is not None and self.labels_only:
            raise ValueError(
                "transfer: these texts have no labels, and no weight of a teacher's answers is "
                "above 0"
            )
        return self

    @property
    def transfer_text(self) -> TransferText | None:
        """`transfer`, spelt out."""
        named = self.transfer
        return TransferText(source=named) if isinstance(named, str) else named

    def check_teacher(
        self, theirs: PreTrainedTokenizerBase, ours: PreTrainedTokenizerBase, data: TaskData
    ) -> None:
        """Raise ModelError for a teacher whose tokens are compared and do not align."""
        self.check_alignment(theirs, ours, data)

    def loader_objective(
        self, model: nn.Module, teacher: nn.Module | None, *, seed: int, device: torch.device | str
    ) -> Objective:
        """Return what a training on a loader of one's own minimises; InputError for `transfer`."""
        if self.transfer is not None:
            raise InputError(
                "transfer: texts are read by a recipe; with a loader of your own, let it yield "
                "batches without labels too"
            )
        return super().loader_objective(model, teacher, seed=seed, device=device)

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the trained product. Raises RecipeError without a teacher."""
        done = fit_stage(product, ctx, self.stage_objective(product, ctx), self)
        return with_transfer_cost(done, ctx)

    def controls(self) -> Mapping[str, Distill]:
        """Return the same training on the labels alone, without transfer text."""
        return {WITHOUT_TEACHER: self.model_copy(update=self.alone)}

    @property
    def alone(self) -> dict[str, Any]:
        """The changes that leave the labels alone: no teacher, and no text that only he answers."""
        return {**LABELS_ONLY, "transfer": None}


def with_transfer_cost(
    product: Product, ctx: Context, teachers: Sequence[object] | None = None
) -> Product:
    """Return a product whose findings say what the teacher's answers cost, with transfer text.

    `teachers`: those that answered; None: the context's.
    """
    if ctx.data.transfer is None:
        return product
    asked = [ctx.models.teacher] if teachers is None else teachers
    seconds = sum(each.seconds for each in asked if isinstance(each, LiveTeacher))
    rows = len(ctx.data.transfer)
    note = f"the teacher's answers, transfer text included, took {seconds:.1f} s"
    free = {**product.findings.free, "transfer_rows": rows, "teacher_seconds": seconds}
    notes = (*product.findings.notes, note)
    findings = product.findings.model_copy(update={"notes": notes, "free": free})
    return replace(product, findings=findings)
