"""Train the smaller model on the answers and the hidden states of the larger one.

The loss is a weighted sum of the labels' loss, the distance to the teacher's softened logits
(Hinton et al. 2015, 1503.02531) and the mean squared error to its hidden states in every layer and
token (Sun et al. 2019, 1908.09355; Kurtic et al. 2023, 2302.04089). The best step by the selection
split is kept.

Costs a training step and, while hidden states are compared, a teacher's forward pass: a third more.
With logits alone the answers are computed once and kept (K floats per row). Not before anything was
cut: the student would be its own teacher. Works without labels. Changes no shape: no speed-up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.utils.data import DataLoader

from bertcompress.artefact import Product
from bertcompress.engines.importance import head_problem
from bertcompress.engines.objectives import Distillation, projection
from bertcompress.engines.teachers import (
    CachedTeacher,
    LiveTeacher,
    hidden_cache_bytes,
    same_pieces,
    same_tokens,
)
from bertcompress.errors import ModelError, RecipeError
from bertcompress.method import Context, Method, Teacher
from bertcompress.training import TrainSettings, fit_batches, fit_stage

__all__ = ["Distill", "distill"]


def distill(
    model: nn.Module,
    teacher: nn.Module,
    loader: DataLoader[Any],
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    **knobs: Any,
) -> nn.Module:
    """Train `model` in place on the teacher's answers to the loader's batches, and return it.

    Both models read the same tokens; `labels` in the batches are used where there are any. `knobs`
    are the fields of `Distill`. Raises ModelError for models of different vocabularies.
    """
    words = [int(m.config.vocab_size) for m in (model, teacher)]  # type: ignore[union-attr,arg-type]
    if words[0] != words[1]:
        raise ModelError(
            f"distill: the model knows {words[0]} tokens and the teacher {words[1]}, so one batch "
            "cannot serve both; distil before the vocabulary is trimmed, or by a recipe, where the "
            "teacher has its own tokenizer"
        )
    method = Distill(**knobs)
    live = LiveTeacher(teacher, device=device)
    widths = [int(m.config.hidden_size) for m in (model, teacher)]  # type: ignore[union-attr,arg-type]
    project = projection(widths[0], widths[1], seed) if method.hidden_weight else None
    objective = method.objective(live, head_problem(model), project, device=device)
    fit_batches(model, objective, loader, settings=method, seed=seed, device=device)
    return model


class Distill(Method, TrainSettings):
    """Train the smaller model on the answers and hidden states of the larger one."""

    key: ClassVar[str] = "distill"
    paper: ClassVar[str] = "Hinton et al. 2015, arXiv:1503.02531; Sun et al. 2019, arXiv:1908.09355"
    kind: ClassVar[Literal["train", "shape", "precision"]] = "train"
    uses_teacher: ClassVar[bool] = True

    epochs: float = Field(4, gt=0, le=1_000, description="Passes over the training rows")
    learning_rate: float = Field(1e-4, gt=0, le=1, description="Peak learning rate of AdamW")
    temperature: float = Field(
        2.0, ge=1, le=100, description="Softens both answers; higher shows more of the small ones"
    )
    label_weight: float = Field(
        0.1, ge=0, description="Weight of the labels' loss; 0 without labels"
    )
    logit_weight: float = Field(0.9, ge=0, description="Weight of the teacher's logits")
    hidden_weight: float = Field(
        1.0, ge=0, description="Weight of the teacher's hidden states; needs the same tokens"
    )
    cache_hidden_mb: float = Field(
        0.0,
        ge=0,
        description="Keep hidden states on disk (10^6 bytes) where they take at most this",
    )

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the trained product. Raises RecipeError without a teacher."""
        problem: str = ctx.task.problem
        if problem in ("auto", "unlabelled"):
            problem = head_problem(product.model)
        if not (self.logit_weight or self.hidden_weight):
            # Only the control: it may not touch a teacher at all.
            return fit_stage(product, ctx, self.objective(None, problem), self)
        if ctx.teacher is None:
            raise RecipeError(
                "distill: there is no teacher; cut the model before, or name a teacher"
            )
        teacher = self._cached(ctx.teacher, ctx.workdir / "training")
        theirs = getattr(teacher, "tokenizer", None)
        same = theirs is not None and same_tokens(theirs, product.tokenizer)
        aligned = same or (
            # After trimming the vocabulary only the numbers of the tokens differ.
            theirs is not None
            and self.hidden_weight > 0
            and same_pieces(theirs, product.tokenizer, ctx.data)
        )
        project = self._projection(product, ctx, teacher) if aligned else None
        objective = self.objective(teacher, problem, project, same, ctx.device, aligned)
        return fit_stage(product, ctx, objective, self)

    def control(self) -> Distill:
        """Return the same training on the labels alone."""
        alone = {"label_weight": 1.0, "logit_weight": 0.0, "hidden_weight": 0.0}
        return self.model_copy(update=alone)

    def objective(
        self,
        teacher: Teacher | None,
        problem: str,
        project: nn.Module | None = None,
        same_tokens: bool = True,
        device: torch.device | str = "cpu",
        aligned: bool = False,
    ) -> Distillation:
        """Return what is minimised with these weights."""
        return Distillation(
            teacher,
            problem=problem,
            label_weight=self.label_weight,
            logit_weight=self.logit_weight,
            hidden_weight=self.hidden_weight,
            temperature=self.temperature,
            project=project.to(device) if project is not None else None,
            same_tokens=same_tokens,
            aligned=aligned,
        )

    def _cached(self, teacher: Teacher, workdir: Path) -> Teacher:
        """Return the teacher with its answers kept, where nothing would still be asked live."""
        if not isinstance(teacher, LiveTeacher) or teacher.data is None:
            return teacher
        if self.hidden_weight:
            assert teacher.tokenizer is not None
            rows = [teacher.data.encode(teacher.tokenizer, s) for s in ("train", "selection")]
            lengths = np.concatenate([np.asarray(split["length"][:]) for split in rows])
            if hidden_cache_bytes(teacher.model, lengths) > self.cache_hidden_mb * 1e6:
                return teacher
        return CachedTeacher(teacher, workdir, hidden_limit_mb=self.cache_hidden_mb)

    def _projection(self, product: Product, ctx: Context, teacher: Teacher) -> nn.Module | None:
        if not self.hidden_weight:
            return None
        first = torch.as_tensor(ctx.data.train["row_id"][:1])
        answer = teacher(first, frozenset({"hidden_states"}))
        width = answer.hidden_states[0].shape[-1]
        return projection(int(product.model.config.hidden_size), width, ctx.seed)
