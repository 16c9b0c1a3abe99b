"""What training minimises: the labels, or a teacher's logits and hidden states besides.

Axes: B rows, K classes, T tokens, H hidden size, L layers. An objective is a small object that
`training.fit` calls once per batch; `training.ObjectiveCallback` puts the same object into a stock
`transformers.Trainer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bertcompress.engines.distillation.alignment import answers_not_aligned, not_aligned
from bertcompress.engines.distillation.depths import answers_after
from bertcompress.engines.distillation.filters import FilteredStates
from bertcompress.engines.distillation.inside import InsideTerms, layer_map
from bertcompress.engines.distillation.soft_targets import (
    LabelWeighting,
    Remembers,
    Targets,
    confidence_weights,
    permuted_logits,
    row_seeds,
    smoothed_logits,
)
from bertcompress.errors import DataError, ModelError
from bertcompress.heads import Head, head_named
from bertcompress.heads.outputs import outputs_of
from bertcompress.method import Teacher, TeacherOutputs
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


class Distillation(BaseObjective):
    """Label loss, teacher's logits and teacher's hidden states, each with its weight.

    A weight of 0 leaves its term out, bit for bit; without labels the label term is left out. With
    `same_tokens` student and teacher have one tokenizer, and a live teacher is given the student's
    batch; hidden states are compared token by token, which needs that or `aligned`: the same tokens
    of the *training* texts under other numbers. Other texts may be cut differently, so in eval mode
    such a student is judged by the logits alone. Raises ModelError for hidden states of different
    tokens, DataError where no term is left.

    `targets` and `label_weighting`: what of the logits is learned, and what the labels of a row
    weigh; see `soft_targets`. `shuffled` targets come from a `ShuffledTeacher`. `depths`: what the
    model answers after so many layers learns as well, each as much as the answer of all.
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
        targets: Targets = "probabilities",
        label_weighting: LabelWeighting = "equal",
        depths: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        inside = inside or InsideTerms()
        by_token = hidden_weight or inside.by_token
        if by_token and not (same_tokens or aligned):
            named = "hidden_weight" if hidden_weight else "attention_weight and relation_weight"
            raise not_aligned(named)
        self.teacher, self.taught = teacher, teacher is not None
        named = problem if isinstance(problem, str) else "single_label"
        self.head: Head = head_named(named, "distilling")
        if problem is not None and not isinstance(problem, str):
            self.head = problem
        if logit_weight and self.head.taught_by_token and not (same_tokens or aligned):
            raise answers_not_aligned(self.head.key)
        self.label_head = self.head if problem else None
        self.label_weight = label_weight
        self.logit_weight = logit_weight
        self.hidden_weight = hidden_weight
        self.temperature = temperature
        self.layers = layers
        self.project = project
        self.same_tokens = same_tokens
        self.inside, self.targets, self.seed = inside, targets, seed
        self.weighs_labels = bool(label_weight) and label_weighting == "confidence"
        self.filters: FilteredStates | None = None
        """What hidden states are compared behind, in place of `project`."""
        self.depths = tuple(sorted(set(depths))) if logit_weight else ()
        self.looks_inside = bool(hidden_weight or inside.any)
        self.needs = frozenset({"hidden_states"} if self.looks_inside or self.depths else ())
        self.learns_unlabelled = bool(logit_weight or self.looks_inside)

    def __call__(
        self, model: nn.Module, batch: Mapping[str, Tensor], outputs: Any, step: int
    ) -> Tensor:
        """Return the weighted sum of the terms."""
        terms = []
        answer = None
        compares_hidden = self._compares_hidden(model)
        if self.logit_weight or self.looks_inside or self.weighs_labels:
            if "row_id" not in batch:  # the user's own loader
                batch = {**batch, "row_id": torch.full((len(outputs_of(outputs)),), -1)}
            answer = self._answer(model, batch, compares_hidden)
        if self.label_weight and "labels" in batch:
            loss = self._label_loss(outputs_of(outputs).float(), batch, answer)
            terms.append(self.label_weight * loss)
        if answer is not None and self.logit_weight:
            theirs = standardised_logits(answer.logits, batch)
            mine = answers_after(outputs, self.depths)
            losses = [self._logit_loss(each, theirs, batch, step) for each in mine]
            terms.append(self.logit_weight * (sum(losses[1:], losses[0]) / len(losses)))
        if answer is not None and compares_hidden:
            terms += self._inside_terms(model, batch, outputs, answer)
        if not terms:
            raise DataError(
                "distilling: no term is left; the rows have no labels, or all weights are 0"
            )
        return sum(terms[1:], terms[0])

    def _compares_hidden(self, model: nn.Module) -> bool:
        everywhere = self.same_tokens or not self.logit_weight
        return self.looks_inside and (model.training or everywhere)

    def _answer(
        self, model: nn.Module, batch: Mapping[str, Tensor], compares_hidden: bool
    ) -> TeacherOutputs:
        """Return what the teacher answers for a batch."""
        if self.teacher is None:
            raise ModelError("distilling: no teacher, but a weight of its answers is above 0")
        if self.same_tokens and isinstance(self.teacher, Remembers):
            self.teacher.remember(batch)
        needs = self._asked(model) if compares_hidden else frozenset()
        return self.teacher(batch["row_id"], needs, batch.get("part"))

    def _label_loss(
        self, mine: Tensor, batch: Mapping[str, Tensor], answer: TeacherOutputs | None
    ) -> Tensor:
        """Return the labels' loss: a mean, or weighted by the teacher's confidence."""
        if answer is None or not self.weighs_labels:
            return label_loss(mine, batch, self.label_head)
        weights = confidence_weights(answer.logits).to(mine.device)
        return (weights * self.head.losses(mine, batch)).sum()

    def _logit_loss(
        self, mine: Tensor, theirs: Tensor, batch: Mapping[str, Tensor], step: int
    ) -> Tensor:
        """Return the distance to the teacher's answers, or to what stands for them."""
        if self.targets == "decisions":
            decided = self.head.labels_of(theirs, batch)
            return self.head.loss(mine.float(), {**batch, "labels": decided})
        if self.targets == "smoothed":
            if "labels" not in batch:
                raise DataError("targets: smoothed: the rows have no labels")
            theirs = smoothed_logits(theirs, batch["labels"], self.temperature)
        elif self.targets == "permuted":
            theirs = permuted_logits(theirs, row_seeds(batch["row_id"], self.seed, step))
        return self.head.divergence(mine, theirs, batch, self.temperature)

    def _inside_terms(
        self, model: nn.Module, batch: Mapping[str, Tensor], outputs: Any, answer: TeacherOutputs
    ) -> list[Tensor]:
        """Return the weighted terms of hidden states, attention and relations."""
        terms = []
        if self.hidden_weight:
            student, teacher = outputs["hidden_states"], answer.hidden_states
            loss = self._hidden_loss(student, teacher, batch["attention_mask"])
            terms.append(self.hidden_weight * loss)
        if self.inside.any:
            terms += self.inside.terms(model, batch, outputs, answer, self.layers, self.project)
        return terms

    def _hidden_loss(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor
    ) -> Tensor:
        """Return how far hidden states are apart, behind filters where there are any."""
        if self.filters is not None:
            loss: Tensor = self.filters(student, teacher, mask)
            return loss
        layers = self.layers or layer_map(len(student) - 1, len(teacher) - 1)
        return hidden_loss(student, teacher, mask, layers, self.project)

    def _asked(self, model: nn.Module) -> frozenset[str]:
        """Return what the teacher is asked for besides its logits."""
        states = {"hidden_states"} if self.hidden_weight or self.inside.patient_weight else set()
        return frozenset(states) | self.inside.asked(model, self.layers)

    @property
    def _learned(self) -> nn.Module | None:
        """What is trained beside the student: a projection, filters, or both."""
        parts = [each for each in (self.project, self.filters) if each is not None]
        return nn.ModuleList(parts) if len(parts) > 1 else next(iter(parts), None)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameters of the projection and of the student's filters."""
        learned = self._learned
        return [{"params": list(learned.parameters())}] if learned is not None else []

    def state_dict(self) -> dict[str, Any]:
        """Return the weights of the projection and of the student's filters."""
        return dict(self._learned.state_dict()) if self._learned is not None else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back the weights of the projection and of the student's filters."""
        if self._learned is not None:
            self._learned.load_state_dict(dict(state))
