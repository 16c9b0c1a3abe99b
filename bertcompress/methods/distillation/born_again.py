"""Train the model anew, generation after generation, each on the answers of the one before.

Born-again networks (Furlanello et al. 2018, 1805.04770): the student has its teacher's shape and
begins where the teacher began, as the model came, new head included. The first generation learns
from the model at hand, each later one from the generation before it. The last goes on; what all
generations answer together is reported as their ensemble.

With `begins: here`, also after a cut, each generation has the shape and the weights of the model at
hand, and the first is taught by that model trained on the labels alone: a student that is its own
teacher, beside which a larger teacher can be judged.

Costs a whole training for each generation, which the teacher's answers, computed once, hardly
prolong; one more with `begins: here`. Not after a cut otherwise: it makes a better model to start
from. Changes no shape: no speed-up.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from bertcompress.data.batches import Batches
from bertcompress.deployment import Findings, Product, Trained
from bertcompress.engines.distillation.augmentation import with_augmented
from bertcompress.engines.distillation.settings import WITHOUT_TEACHER
from bertcompress.engines.distillation.teachers import LiveTeacher
from bertcompress.heads.scoring import compute
from bertcompress.measure.scores import predict
from bertcompress.method import Context, Need
from bertcompress.methods.distillation.distill import Distill
from bertcompress.runtimes.torch import scoring
from bertcompress.shapes import ShapeError, edited
from bertcompress.training import LabelLoss, Phase, fit_batches, fit_phases, fit_stage

__all__ = ["BornAgain", "born_again"]


def born_again(
    model: nn.Module,
    teacher: nn.Module,
    loader: Batches,
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    **knobs: Any,
) -> nn.Module:
    """Train `model` in place, a model that no task has trained yet, and return its last generation.

    Each generation begins as `model` comes. `knobs` are the fields of `BornAgain`.
    """
    method = BornAgain(**knobs)
    begun = copy.deepcopy(model.state_dict())
    for generation in range(method.generations):
        model.load_state_dict(begun)
        objective = method.loader_objective(model, teacher, seed=seed, device=device)
        fit_batches(
            model, objective, loader, settings=method, seed=seed + generation + 1, device=device
        )
        teacher = copy.deepcopy(model)
    return model


class BornAgain(Distill):
    """Train the model anew on its own answers, generation after generation."""

    key: ClassVar[str] = "born_again"
    paper: ClassVar[str] = "Furlanello et al. 2018, arXiv:1805.04770"
    tier: ClassVar[Literal["core", "useful", "research"]] = "useful"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.HEAD, Need.ORIGINAL})

    begins: Literal["original", "here"] = Field(
        "original",
        description="What a generation begins as: the model as it came, or the one at hand, cut as "
        "it is, which is trained on the labels first to teach it",
    )
    generations: int = Field(1, ge=1, le=10, description="Trainings, each taught by the one before")
    temperature: float = Field(1.0, ge=1, le=100, description="Softens both answers")
    label_weight: float = Field(0.0, ge=0, description="Weight of the labels' loss")
    logit_weight: float = Field(1.0, ge=0, description="Weight of the teacher's logits")
    hidden_weight: float = Field(0.0, ge=0, description="Weight of the teacher's hidden states")

    @property
    def needs_labels(self) -> bool:
        """Whether the first teacher is trained on them."""
        return self.begins == "here" and not self.labels_only

    def check(self, model: nn.Module) -> None:
        """Raise ShapeError after a change of shape, where generations begin as the model came."""
        if self.begins == "original" and edited(model):
            raise ShapeError(
                "born_again: trains the model as it came anew; put it before what changes the "
                "shape, or let it begin with the model at hand (begins: here)"
            )

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the last generation; the findings say how each did, and all together."""
        self.check(product.model)
        first = LiveTeacher(product.model, product.tokenizer, ctx.data, ctx.device)
        ctx, made = with_augmented(self.augmentation, ctx, first)
        lineage: list[Product] = []
        teachers: list[LiveTeacher] = []
        done = fit_phases(self._trainings(product, ctx, lineage, teachers))
        born = lineage[-self.generations :]
        findings = self._findings(born, done.findings.training, ctx)
        last = Product(done.model, done.tokenizer, (), findings)
        return self.finished(last, ctx, made, teachers)

    def _trainings(
        self, product: Product, ctx: Context, lineage: list[Product], teachers: list[LiveTeacher]
    ) -> Iterator[Phase[BornAgain]]:
        """Yield the trainings, each of which puts at the end of `lineage` what it made.

        That of the first teacher, where there is none yet, then the generations; who taught each of
        these is put at the end of `teachers`.
        """
        if self.needs_labels:
            alone = self.model_copy(update=self.alone)

            def itself(settings: BornAgain) -> Product:
                loss, where = LabelLoss(ctx.task.head), ctx.phase("itself")
                lineage.append(fit_stage(_copied(product), where, loss, settings))
                return lineage[-1]

            yield Phase(alone, itself)

        def generation(settings: BornAgain) -> Product:
            taught_by = lineage[-1] if lineage else product
            teacher = LiveTeacher(taught_by.model, taught_by.tokenizer, ctx.data, ctx.device)
            teachers.append(teacher)
            number = len(teachers)
            phase = replace(
                ctx.phase(f"generation-{number}"),
                seed=ctx.seed + number,
                models=replace(ctx.models, teacher=teacher),
            )
            child = ctx.models.original if self.begins == "original" else _copied(product)
            objective = settings.stage_objective(child, phase)
            lineage.append(fit_stage(child, phase, objective, settings))
            return lineage[-1]

        # What `auto` came to for the first holds for all: they differ in order alone.
        for _ in range(self.generations):
            yield Phase(self, generation)

    def _findings(self, born: Sequence[Product], spent: Trained | None, ctx: Context) -> Findings:
        """Return how the generations, and their mean answers, score on the selection split."""
        answers = []
        for child in born:
            with scoring(child.model) as predictor:
                answers.append(predict(predictor, ctx.data, "selection", child.tokenizer))
        head, metric, right = ctx.task.head, ctx.task.headline, ctx.data.references("selection")
        each = [compute(head, [metric], answer, right)[metric] for answer in answers]
        shown = ", ".join(f"{value:.3f}" for value in each)
        note = f"generations: {metric} {shown} on the selection split"
        free: dict[str, Any] = {"generations": each}
        if head.averages:
            together = compute(head, [metric], np.mean(answers, axis=0), right)[metric]
            note += f"; together {together:.3f}" if len(each) > 1 else ""
            free["ensemble"] = together
        return Findings(training=spent, notes=(note,), free=free)

    def controls(self) -> Mapping[str, BornAgain]:
        """Return one more training of the model as it came, on the labels alone."""
        alone = {**self.alone, "generations": 1}
        return {} if self.labels_only else {WITHOUT_TEACHER: self.model_copy(update=alone)}


def _copied(product: Product) -> Product:
    return Product(copy.deepcopy(product.model), product.tokenizer)
