"""Train on while more and more weights of the layers become exactly zero.

Zhu & Gupta 2017, "To prune, or not to prune" (1710.01878): the share of zeros rises along a cubic
curve, fast while much can go and slowly at the end; the weights of the smallest magnitude go, and
come back where others have become smaller. Gordon et al. 2020 (2002.08307) did this to BERT: 30 to
40 % of the layers' weights cost nothing, above 60 % the score falls fast. Tables, biases, norms and
the head stay dense. It starts from the weights as they are, so fine-tune before it.

Costs the named epochs, each step like a plain one, and a copy of the layers' matrices. Not for size
or speed by itself: zeros are stored and multiplied like any number, so the file and the latency
stay, and a report says so. It shows how many weights a task needs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import nn

from bertcompress.data.batches import Batches, in_fp32, train_loader
from bertcompress.deployment import Findings, Product
from bertcompress.engines.distillation.settings import TEACHER_WEIGHTS, DistillationSettings
from bertcompress.engines.sparsity.choosing import Ramp, Scores, magnitude
from bertcompress.engines.sparsity.gradual import GradualZeros, leave_masked, maskable
from bertcompress.method import Context, Leaves, Method, Need, Objective
from bertcompress.shapes import Masked, ShapeError, apply_edit, densities, stored_bits
from bertcompress.training import TrainSettings, epoch_batches, fit_batches, fit_stage

__all__ = ["GradualMagnitude", "SparseTraining", "gradual_magnitude"]

_DENSE = "the same steps, dense"
_NOTE = "no smaller and no faster here: zeros are stored and multiplied like any number"
_EVERY = 100


def gradual_magnitude(
    model: nn.Module,
    loader: Batches,
    sparsity: float = 0.5,
    *,
    teacher: nn.Module | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    **knobs: Any,
) -> nn.Module:
    """Train `model` on the loader while its smallest weights become zero, in place; return it.

    Args:
        model: a fine-tuned encoder with a head.
        loader: batches as the model takes them, with `labels` where there is no teacher.
        sparsity: share of the weights of the layers' linears that is zero in the end, 0 to below 1.
        teacher: a model to distil from at the same time; None: the labels alone.
        device: where to train.
        seed: of the dropout.
        knobs: other fields of `GradualMagnitude`.

    Raises:
        ShapeError for a model whose layers have no dense linear.
    """
    terms = TEACHER_WEIGHTS if teacher is not None else {}
    method = GradualMagnitude(**{**terms, **knobs, "sparsity": sparsity})
    method.check(model)
    inner = method.loader_objective(model, teacher, seed=seed, device=device)
    batches = train_loader(loader)
    with in_fp32(model.to(device)):
        objective = method.sparse(inner, model, len(batches))
        fit_batches(model, objective, batches, settings=method, seed=seed, device=device)
        leave_masked(model)
    return model.eval()


class SparseTraining(Method, DistillationSettings, TrainSettings):
    """Train on while weights become zero; a row of the table says which ones."""

    leaves: ClassVar[Leaves] = "weights"
    tags: ClassVar[tuple[str, ...]] = ("pruned", "sparse")
    requires: ClassVar[frozenset[Need]] = frozenset({Need.HEAD, Need.TEACHER})

    sparsity: float = Field(
        0.5, ge=0, lt=1, description="Share of the weights of the layers' linears that is zero"
    )
    scope: Literal["matrix", "model"] = Field(
        "matrix",
        description="matrix: each has this share of zeros, as published; model: all together",
    )
    begin: float = Field(
        0.1, ge=0, lt=1, description="Share of the steps before the first weights become zero"
    )
    end: float = Field(
        0.7, gt=0, le=1, description="Share of the steps after which the zeros stay as they are"
    )
    every: int | None = Field(
        None,
        ge=1,
        description="Steps from one choice of zeros to the next; null: 100, or a tenth of the ramp",
    )
    epochs: float = Field(3, gt=0, le=1_000, description="Passes over the training rows")
    label_weight: float = Field(1.0, ge=0, description="Weight of the labels' loss")
    logit_weight: float = Field(0.0, ge=0, description="Weight of the teacher's logits")
    hidden_weight: float = Field(0.0, ge=0, description="Weight of the teacher's hidden states")

    @field_validator("patience", "max_minutes")
    @classmethod
    def _to_the_end(cls, value: float | None) -> None:
        if value is not None:
            raise ValueError("nothing stops early while weights become zero; leave it null")

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> SparseTraining:
        if self.begin >= self.end:
            raise ValueError(f"begin {self.begin} is not before end {self.end}")
        return self

    @property
    def leaves_zeros(self) -> bool:
        """Whether any share is asked for."""
        return self.sparsity > 0

    def scores(self) -> Scores:
        """Return what decides which weights become zero."""
        raise NotImplementedError

    def ramp(self, steps: int) -> Ramp:
        """Return the ramp of a training of so many steps."""
        end = max(1, math.floor(self.end * steps))
        begin = min(math.floor(self.begin * steps), end - 1)
        every = self.every or max(1, min(_EVERY, (end - begin) // 10))
        return Ramp(self.sparsity, begin, end, every)

    def sparse(self, inner: Objective, model: nn.Module, batches: int) -> Objective:
        """Return the objective around another one under which weights become zero.

        `batches`: of an epoch.
        """
        if not self.sparsity:
            return inner
        ramp = self.ramp(self.steps(batches))
        return GradualZeros(inner, maskable(model), ramp, self.scores(), self.scope)

    def check(self, model: nn.Module) -> None:
        """Raise ShapeError where there is nothing to mask, or more is masked already."""
        if stored_bits(model) or not maskable(model):
            raise ShapeError(f"{self.key}: the layers have no dense linear")
        # A record counts whole weights of each matrix: half of one is no difference.
        weights = maskable(model)
        fewest = {
            name: 1 - self.sparsity - 0.5 / max(weights[name].numel(), 1)
            for name in densities(model)
        }
        if any(share < fewest[name] for name, share in densities(model).items()):
            raise ShapeError(f"{self.key}: more than {self.sparsity:.0%} is zero already")

    def plan_shape(self, model: nn.Module) -> None:
        """Record the zeros: what changes the shape comes before."""
        if self.sparsity:
            apply_edit(model, Masked(dict.fromkeys(maskable(model), 1 - self.sparsity)))

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the trained product; the findings say how many weights are zero."""
        model: nn.Module = product.model
        model.to(ctx.device)
        inner = self.stage_objective(product, ctx)
        batches = epoch_batches(ctx.data, product.tokenizer, self, inner.learns_unlabelled)
        objective = self.sparse(inner, model, batches)
        done = fit_stage(product, ctx, objective, self, keep_last=True)
        trained = done.findings.training
        assert trained is not None
        # No step was chosen: the last is the one with all zeros.
        training = trained.model_copy(update={"selection_score": None})
        if not self.sparsity:
            return Product(product.model, product.tokenizer, (), Findings(training=training))
        zeros = leave_masked(model)
        free = {"zeros": sum(zeros.values())} | (
            {"zeros_of": zeros} if self.scope == "model" else {}
        )
        findings = Findings(training=training, notes=(_NOTE,), free=free)
        return Product(product.model, product.tokenizer, (), findings)

    references: ClassVar[frozenset[str]] = frozenset({_DENSE})

    def controls(self) -> Mapping[str, Method]:
        """Return the same training without zeros, and without a teacher where one takes part."""
        dense = {_DENSE: self.model_copy(update={"sparsity": 0.0})} if self.sparsity else {}
        return {**dense, **self.without_teacher()}


class GradualMagnitude(SparseTraining):
    """Train on while the smallest weights become zero."""

    key: ClassVar[str] = "gradual_magnitude"
    paper: ClassVar[str] = (
        "Zhu and Gupta 2017, arXiv:1710.01878; Gordon et al. 2020, arXiv:2002.08307"
    )
    tier: ClassVar[Literal["core", "useful", "research"]] = "useful"

    def scores(self) -> Scores:
        """Return the magnitudes."""
        return magnitude
