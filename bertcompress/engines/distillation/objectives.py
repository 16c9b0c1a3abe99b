"""What training minimises: the labels, or a teacher's logits and hidden states besides.

Axes: B rows, K classes, T tokens, H hidden size, L layers. An objective is a small object that
`training.fit` calls once per batch; `training.ObjectiveCallback` puts the same object into a stock
`transformers.Trainer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from bertcompress.engines.distillation.alignment import not_aligned
from bertcompress.engines.distillation.inside import InsideTerms, layer_map
from bertcompress.errors import DataError, ModelError
from bertcompress.heads import Head, head_named
from bertcompress.heads.outputs import outputs_of
from bertcompress.method import Teacher
from bertcompress.training import BaseObjective, label_loss, standardised_logits

__all__ = [
    "Distillation",
    "hidden_loss",
    "kd_loss",
    "label_loss",
    "layer_map",
    "projection",
]


def kd_loss(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    problem: str,
    batch: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Return how far the student's outputs are from the teacher's; exactly 0 where they are equal.

    See `Head.divergence`; `problem` is a key of `HEADS`. `batch`: with its `attention_mask`, where
    there are outputs for each token. Shape: student, teacher (B, K), or (B, T, K) for tokens.
    """
    head = head_named(problem, "distilling")
    return head.divergence(student, teacher, batch or {}, temperature)


def hidden_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    mask: Tensor,
    layers: Sequence[int],
    project: nn.Module | None = None,
) -> Tensor:
    """Return the mean squared error of the hidden states, over layers, real tokens and width.

    `layers[i]` is the teacher's state that the student's state i follows; `project` takes the
    student's width to the teacher's.

    Shape: student, teacher tensors (B, T, H); mask (B, T), 0 for padding.
    """
    real = mask.bool()
    total = mask.new_zeros((), dtype=torch.float32)
    for mine, theirs in zip(student, (teacher[i] for i in layers), strict=True):
        states = mine[real]  # without padding: (tokens, H)
        states = project(states) if project is not None else states
        total = total + functional.mse_loss(states.float(), theirs[real].float())
    return total / len(layers)


def projection(student_width: int, teacher_width: int, seed: int = 0) -> nn.Linear | None:
    """Return a learned map between hidden sizes, orthogonal at first; None where they agree."""
    if student_width == teacher_width:
        return None
    linear = nn.Linear(student_width, teacher_width, bias=False)
    nn.init.orthogonal_(linear.weight, generator=torch.Generator().manual_seed(seed))
    return linear


@runtime_checkable
class _Remembers(Protocol):
    def remember(self, batch: Mapping[str, Tensor]) -> None: ...


class Distillation(BaseObjective):
    """Label loss, teacher's logits and teacher's hidden states, each with its weight.

    A weight of 0 leaves its term out, bit for bit; without labels the label term is left out. With
    `same_tokens` student and teacher have one tokenizer, and a live teacher is given the student's
    batch; hidden states are compared token by token, which needs that or `aligned`: the same tokens
    of the *training* texts under other numbers. Other texts may be cut differently, so in eval mode
    such a student is judged by the logits alone. Raises ModelError for hidden states of different
    tokens, DataError where no term is left.
    """

    def __init__(
        self,
        teacher: Teacher | None,
        *,
        problem: str | Head | None = None,
        label_weight: float = 0.1,
        logit_weight: float = 0.9,
        hidden_weight: float = 1.0,
        temperature: float = 2.0,
        layers: Sequence[int] | None = None,
        project: nn.Module | None = None,
        same_tokens: bool = True,
        aligned: bool = False,
        inside: InsideTerms | None = None,
        decisions: bool = False,
    ) -> None:
        inside = inside or InsideTerms()
        by_token = hidden_weight or inside.by_token
        if by_token and not (same_tokens or aligned):
            named = "hidden_weight" if hidden_weight else "attention_weight and relation_weight"
            raise not_aligned(named)
        self.teacher = teacher
        named = problem if isinstance(problem, str) else "single_label"
        self.head: Head = head_named(named, "distilling")
        if problem is not None and not isinstance(problem, str):
            self.head = problem
        if logit_weight and self.head.taught_by_token and not (same_tokens or aligned):
            raise ModelError(
                f"distilling: a {self.head.key} task answers token by token, and student and "
                "teacher cut the texts differently; set logit_weight to 0, or take a teacher of "
                "the same tokenizer"
            )
        self.label_head = self.head if problem else None
        self.label_weight = label_weight
        self.logit_weight = logit_weight
        self.hidden_weight = hidden_weight
        self.temperature = temperature
        self.layers = layers
        self.project = project
        self.same_tokens = same_tokens
        self.inside, self.decisions = inside, decisions
        self.needs = frozenset({"hidden_states"} if hidden_weight or inside.any else ())
        self.learns_unlabelled = bool(logit_weight or self.needs)

    def __call__(
        self, model: nn.Module, batch: Mapping[str, Tensor], outputs: Any, step: int
    ) -> Tensor:
        """Return the weighted sum of the terms."""
        terms = []
        if self.label_weight and "labels" in batch:
            loss = label_loss(outputs_of(outputs).float(), batch, self.label_head)
            terms.append(self.label_weight * loss)
        if self.logit_weight or self.needs:
            terms += self._teacher_terms(model, batch, outputs, self._compares_hidden(model))
        if not terms:
            raise DataError(
                "distilling: no term is left; the rows have no labels, or all weights are 0"
            )
        return sum(terms[1:], terms[0])

    def _compares_hidden(self, model: nn.Module) -> bool:
        everywhere = self.same_tokens or not self.logit_weight
        return bool(self.needs) and (model.training or everywhere)

    def _teacher_terms(
        self, model: nn.Module, batch: Mapping[str, Tensor], outputs: Any, compares_hidden: bool
    ) -> list[Tensor]:
        if self.teacher is None:
            raise ModelError("distilling: no teacher, but a weight of its answers is above 0")
        if "row_id" not in batch:  # the user's own loader
            batch = {**batch, "row_id": torch.full((len(outputs_of(outputs)),), -1)}
        if self.same_tokens and isinstance(self.teacher, _Remembers):
            self.teacher.remember(batch)
        needs = self._asked(model) if compares_hidden else frozenset()
        answer = self.teacher(batch["row_id"], needs, batch.get("part"))
        terms = []
        if self.logit_weight:
            theirs = standardised_logits(answer.logits, batch)
            terms.append(self.logit_weight * self._answers(outputs_of(outputs), theirs, batch))
        if compares_hidden and self.hidden_weight:
            student, teacher = outputs["hidden_states"], answer.hidden_states
            layers = self.layers or layer_map(len(student) - 1, len(teacher) - 1)
            loss = hidden_loss(student, teacher, batch["attention_mask"], layers, self.project)
            terms.append(self.hidden_weight * loss)
        if compares_hidden and self.inside.any:
            terms += self.inside.terms(model, batch, outputs, answer, self.layers, self.project)
        return terms

    def _answers(self, mine: Tensor, theirs: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the distance to the teacher's answers, or the loss of what it decides."""
        if not self.decisions:
            return self.head.divergence(mine, theirs, batch, self.temperature)
        decided = self.head.labels_of(theirs, batch)
        return self.head.loss(mine.float(), {**batch, "labels": decided})

    def _asked(self, model: nn.Module) -> frozenset[str]:
        """Return what the teacher is asked for besides its logits."""
        states = {"hidden_states"} if self.hidden_weight or self.inside.patient_weight else set()
        return frozenset(states) | self.inside.asked(model, self.layers)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the projection's parameters."""
        return [{"params": list(self.project.parameters())}] if self.project is not None else []

    def state_dict(self) -> dict[str, Any]:
        """Return the projection's weights."""
        return dict(self.project.state_dict()) if self.project is not None else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back the projection's weights."""
        if self.project is not None:
            self.project.load_state_dict(dict(state))
