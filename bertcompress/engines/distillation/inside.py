"""The terms of a distilling loss that look inside a model: which layers they ask for, and add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bertcompress.engines.distillation.relations import (
    Relation,
    attention_loss,
    patient_loss,
    projections,
    relation_loss,
)
from bertcompress.method import TeacherOutputs
from bertcompress.shapes import anatomy

__all__ = ["InsideTerms", "layer_map"]


def layer_map(student_layers: int, teacher_layers: int) -> tuple[int, ...]:
    """Return the teacher's hidden state that each of the student's follows: first, last, evenly.

    >>> layer_map(3, 6)
    (0, 2, 4, 6)
    """
    steps = range(student_layers + 1)
    return tuple((2 * i * teacher_layers + student_layers) // (2 * student_layers) for i in steps)


@dataclass(frozen=True)
class InsideTerms:
    """Weights of what is compared inside, and of which layers; 0 leaves a term out, bit for bit."""

    patient_weight: float = 0.0
    """Of the first tokens' normalised states."""
    attention_weight: float = 0.0
    """Of attention scores, layer by layer."""
    relation_weight: float = 0.0
    """Of relations among tokens, in one layer."""
    relations: tuple[Relation, ...] = ("query", "key", "value")
    relation_heads: int | None = None
    """None: those of `relations.relation_heads`; for `query_key` those of the models are meant."""
    teacher_depth: int = 0
    """Layers of the teacher: needed where attention or relations are compared."""
    teacher_heads: tuple[int, ...] = ()
    """Attention heads of each of its layers, for the attention scores."""
    relation_layer: int | None = None
    """Of the teacher, from 0; None: its last."""

    @property
    def any(self) -> bool:
        """Whether a term is left."""
        return bool(self.patient_weight or self.by_token)

    @property
    def by_token(self) -> bool:
        """Whether student and teacher have to have the same tokens."""
        return bool(self.attention_weight or self.relation_weight)

    @property
    def _last(self) -> int:
        return self.teacher_depth - 1 if self.relation_layer is None else self.relation_layer

    def _followed(self, depth: int, layers: Sequence[int] | None) -> list[int]:
        """Return the teacher's layer that each of the student's follows, from 0."""
        states = layers or layer_map(depth, self.teacher_depth)
        return [max(0, state - 1) for state in states[1:]]

    def asked(self, model: nn.Module, layers: Sequence[int] | None) -> frozenset[str]:
        """Return what the teacher has to answer with, for a student."""
        wanted: set[int] = {self._last} if self.relation_weight else set()
        if self.attention_weight:
            wanted |= set(self._followed(anatomy(model).depth, layers))
        return frozenset(f"projections.{i}" for i in wanted)

    def terms(
        self,
        model: nn.Module,
        batch: Mapping[str, Tensor],
        outputs: Any,
        answer: TeacherOutputs,
        layers: Sequence[int] | None,
        project: nn.Module | None,
    ) -> list[Tensor]:
        """Return the weighted terms. `outputs`: of the student, with its hidden states."""
        student, mask, terms = outputs["hidden_states"], batch["attention_mask"], []
        if self.patient_weight:
            states = layers or layer_map(len(student) - 1, len(answer.hidden_states) - 1)
            loss = patient_loss(student, answer.hidden_states, states, project)
            terms.append(self.patient_weight * loss)
        if self.attention_weight:
            terms.append(
                self.attention_weight * self._attention(model, student, mask, answer, layers)
            )
        if self.relation_weight:
            top = len(student) - 2
            mine = projections(model, [top], student)[top]
            loss = relation_loss(
                mine, answer.projections[self._last], mask, self.relations, self.relation_heads
            )
            terms.append(self.relation_weight * loss)
        return terms

    def _attention(
        self,
        model: nn.Module,
        student: Sequence[Tensor],
        mask: Tensor,
        answer: TeacherOutputs,
        layers: Sequence[int] | None,
    ) -> Tensor:
        """Return the mean loss of attention scores over the student's layers."""
        view = anatomy(model)
        followed = self._followed(view.depth, layers)
        mine = projections(model, range(view.depth), student)
        total = student[0].new_zeros(())
        for i, teacher in enumerate(followed):
            heads = view.layers[view.applications[i]].heads, self.teacher_heads[teacher]
            total = total + attention_loss(mine[i], answer.projections[teacher], mask, heads)
        return total / view.depth
