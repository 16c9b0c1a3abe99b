"""Train the smaller model on the answers and the hidden states of the larger one.

The loss is a weighted sum of the labels' loss, the distance to the teacher's softened logits
(Hinton et al. 2015, 1503.02531) and the mean squared error to its hidden states in every layer and
token (Sun et al. 2019, 1908.09355; Kurtic et al. 2023, 2302.04089). The rate is held until the
score on the selection split stalls, then falls to zero; the best step is kept.

Costs a training step and, while hidden states are compared, a teacher's forward pass: a third more.
With logits alone the answers are computed once and kept (K floats per row). `transfer` names texts
without labels that join the training rows in each epoch; `augment` makes such texts of the training
rows by replacing words (Jiao et al. 2020, 1909.10351). A sentence embedder may learn at several
`depths`, to be cut there afterwards (Li et al. 2024, 2402.14776). Not before anything was cut: the
student would be its own teacher. Works without labels. Changes no shape: no speed-up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import nn
from transformers import PreTrainedTokenizerBase

from bertcompress.data import TaskData
from bertcompress.data.batches import Batches
from bertcompress.data.transfer import Augmentation, TransferText
from bertcompress.deployment import Product
from bertcompress.engines.distillation.augmentation import Augmented, with_augmented
from bertcompress.engines.distillation.depths import HOW_TO_CUT, depth_scores
from bertcompress.engines.distillation.settings import WITHOUT_TEACHER, DistillationSettings
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

    augment: Annotated[int, Field(ge=1, le=100, strict=True)] | Augmentation | None = Field(
        None,
        description="Texts made of each training row by replacing words, which the teacher alone "
        "answers: how many, or copies, probability and candidates",
    )

    depths: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (),
        description="Vectors: so many layers alone learn the teacher's vectors too; the model may "
        "be cut there afterwards",
    )

    @model_validator(mode="after")
    def _answered_by_a_teacher(self) -> Distill:
        if self.depths and not self.logit_weight:
            raise ValueError("depths: each learns the teacher's vectors, whose weight is 0")
        for name, asked in (("transfer", self.transfer), ("augment", self.augment)):
            if asked is None:
                continue
            if not self.learns_answers:
                raise ValueError(
                    f"{name}: these texts have no labels, and no weight of a teacher's answers is "
                    "above 0"
                )
            if self.targets in ("smoothed", "shuffled"):
                raise ValueError(
                    f"{name}: these texts have no labels, and targets: {self.targets} needs them"
                )
        return self

    @property
    def taught_depths(self) -> tuple[int, ...]:
        """`depths`."""
        return self.depths

    @property
    def transfer_text(self) -> TransferText | None:
        """`transfer`, spelt out."""
        named = self.transfer
        return TransferText(source=named) if isinstance(named, str) else named

    @property
    def augmentation(self) -> Augmentation | None:
        """`augment`, spelt out."""
        asked = self.augment
        return Augmentation(copies=asked) if isinstance(asked, int) else asked

    def check_teacher(
        self, teacher: Product, tokenizer: PreTrainedTokenizerBase, data: TaskData
    ) -> None:
        """Raise for a teacher that has not what is learned of it."""
        self.check_taught(teacher, tokenizer, data)

    def loader_objective(
        self, model: nn.Module, teacher: nn.Module | None, *, seed: int, device: torch.device | str
    ) -> Objective:
        """Return what a training on a loader of one's own minimises.

        Raises InputError for `transfer` and `augment`.
        """
        for name, asked in (("transfer", self.transfer), ("augment", self.augment)):
            if asked is not None:
                raise InputError(
                    f"{name}: texts are read by a recipe; with a loader of your own, let it yield "
                    "batches without labels too"
                )
        return super().loader_objective(model, teacher, seed=seed, device=device)

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the trained product. Raises RecipeError without a teacher."""
        ctx, made = with_augmented(self.augmentation, ctx, ctx.models.teacher, product.tokenizer)
        done = fit_stage(product, ctx, self.stage_objective(product, ctx), self)
        return self.finished(done, ctx, made)

    def finished(
        self,
        product: Product,
        ctx: Context,
        made: Augmented | None = None,
        teachers: Sequence[object] | None = None,
    ) -> Product:
        """Return a trained product whose findings say what its depths score and its texts cost.

        `made` and `teachers`: as `with_transfer_cost` has them.
        """
        # First the cost: judging the depths asks the teacher too.
        product = with_transfer_cost(product, ctx, made, teachers)
        return _with_depth_scores(product, ctx, self.depths)

    def controls(self) -> Mapping[str, Distill]:
        """Return the same training on the labels alone, without transfer text."""
        return {WITHOUT_TEACHER: self.model_copy(update=self.alone)}

    @property
    def alone(self) -> dict[str, Any]:
        """The changes that leave the labels alone: no teacher, and no text that only it answers."""
        return {**self.labels_alone, "depths": (), "transfer": None, "augment": None}


def _with_depth_scores(product: Product, ctx: Context, depths: Sequence[int]) -> Product:
    """Return a product whose findings say how its first layers alone do, where they learned."""
    if not depths or ctx.models.teacher is None:
        return product
    metric, scores = depth_scores(
        product.model, depths, ctx.data, product.tokenizer, ctx.models.teacher, ctx.device
    )
    told = ", ".join(f"{depth}: {score:.3f}" for depth, score in sorted(scores.items()))
    note = f"{metric} on the selection rows after so many layers: {told}; " + HOW_TO_CUT
    free = {**product.findings.free, "depths": {str(k): v for k, v in sorted(scores.items())}}
    notes = (*product.findings.notes, note)
    findings = product.findings.model_copy(update={"notes": notes, "free": free})
    return replace(product, findings=findings)


def with_transfer_cost(
    product: Product,
    ctx: Context,
    made: Augmented | None = None,
    teachers: Sequence[object] | None = None,
) -> Product:
    """Return a product whose findings say what texts without labels cost, where there are any.

    `made`: those of its own that a method made of training rows; `teachers`: those that answered,
    None: the context's.
    """
    if ctx.data.transfer is None:
        return product
    asked = [ctx.models.teacher] if teachers is None else teachers
    seconds = sum(each.seconds for each in asked if isinstance(each, LiveTeacher))
    free: dict[str, Any] = {**product.findings.free, "teacher_seconds": seconds}
    notes = [*product.findings.notes]
    rows = len(ctx.data.transfer)
    if made is not None:
        rows -= len(made.rows.rows)
        notes.append(f"{made.rows.words}; making them took {made.seconds:.1f} s")
        free |= {"augmented_rows": len(made.rows.rows), "augment_seconds": made.seconds}
    if rows:
        free["transfer_rows"] = rows
    notes.append(f"the teacher's answers, transfer text included, took {seconds:.1f} s")
    findings = product.findings.model_copy(update={"notes": tuple(notes), "free": free})
    return replace(product, findings=findings)
