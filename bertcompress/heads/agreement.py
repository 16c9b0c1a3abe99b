"""Texts without labels: the original's answers are what is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bertcompress.heads.classes import Classes, changed_classes
from bertcompress.heads.head import Array, Features, Head, Served, classes_of, finite, metrics_named
from bertcompress.heads.multi_label import MultiLabel
from bertcompress.heads.numbers import Numbers
from bertcompress.metrics import Metric

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Agreement"]


class Agreement(Head):
    """What the original answers, whatever its outputs are; nothing can be trained on labels."""

    key: ClassVar[str] = "unlabelled"
    metrics = metrics_named("pearson", "spearman", "agreement", "kl")
    usual: ClassVar[tuple[str, ...]] = ("agreement", "kl")
    has_labels: ClassVar[bool] = False
    one_value: ClassVar[bool] = False
    serves: ClassVar[Served | None] = None

    def of_model(self, config: Any) -> Head:
        """Return what a sequence classification head answers, by the model's config."""
        if getattr(config, "problem_type", None) == MultiLabel.problem_type:
            return MultiLabel()
        return self.of_width(int(config.num_labels))

    def of_width(self, outputs: int) -> Head:
        """Return the head of a model with so many outputs: one is a number."""
        return Numbers() if outputs == 1 else Classes()

    def decided(self, metric: Metric, logits: Array) -> Array:
        """Return logits, numbers or classes, as the metric reads them. Shape: (N, K) -> (N,)."""
        logits = finite(logits)
        if metric.reads == "logits":
            return logits
        return logits[:, 0] if metric.reads == "numbers" else classes_of(metric, logits)

    def right(self, metric: Metric, references: Array) -> Array:
        """Return the same of the original's logits. Shape: (N, K) -> (N,) or (N, K)."""
        return self.decided(metric, references)

    def original_chance(self, metric: Metric, answers: Array, original: Array) -> float | None:
        """Return what the best constant answer scores; None for a metric of logits.

        The share of the original's most frequent class; 0 for a correlation.

        Shape: both (N, K).
        """
        if metric.reads == "logits":
            return None
        if metric.reads == "numbers":
            return 0.0
        return float(np.bincount(self.right(metric, original)).max()) / len(original)

    def changed(self, logits: Array, original: Array) -> Array | None:
        """Return which rows are of another class; None for numbers. Shape: (N, K) twice -> (N,)."""
        return changed_classes(logits, original)

    def movement(self, logits: Array, original: Array) -> float:
        """Return how far classes or numbers moved. Shape: both (N, K)."""
        return self.of_width(np.asarray(logits).shape[1]).movement(logits, original)

    def loss(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return the loss against labels that somebody has. Shape: as of classes or numbers."""
        return self.of_width(outputs.shape[-1]).loss(outputs, batch)

    def losses(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return the same of each row. Shape: (B,)."""
        return self.of_width(outputs.shape[-1]).losses(outputs, batch)

    def drawn_losses(
        self, outputs: Tensor, reference: Tensor, batch: Features, generator: torch.Generator
    ) -> Tensor:
        """Return the loss against drawn answers. Shape: (B, K) twice -> (B,)."""
        head = self.of_width(outputs.shape[-1])
        return head.drawn_losses(outputs, reference, batch, generator)

    def divergence(
        self, student: Tensor, teacher: Tensor, batch: Features, temperature: float
    ) -> Tensor:
        """Return the distance to a teacher's classes or numbers. Shape: (B, K) twice -> ()."""
        head = self.of_width(student.shape[-1])
        return head.divergence(student, teacher, batch, temperature)

    def labels_of(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return the classes or numbers that a model answers. Shape: (B, K) -> (B,)."""
        return self.of_width(outputs.shape[-1]).labels_of(outputs, batch)
