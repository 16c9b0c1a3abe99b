"""Several labels for each text, or none."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bertcompress.heads.classes import best_constant
from bertcompress.heads.features import Columns, TaskFields
from bertcompress.heads.head import Array, Features, Head, Served, finite, metrics_named
from bertcompress.metrics import Metric
from bertcompress.metrics.statistics import kl

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["MultiLabel"]


class MultiLabel(Head):
    """Yes or no for each of K labels: an output above 0 is yes. Labels: (B, K) float32 bits."""

    key: ClassVar[str] = "multi_label"
    problem_type: ClassVar[str | None] = "multi_label_classification"
    metrics = metrics_named("accuracy", "f1_macro", "f1_micro")
    usual: ClassVar[tuple[str, ...]] = ("f1_micro", "f1_macro", "accuracy")
    one_value: ClassVar[bool] = False
    least_classes: ClassVar[int] = 1
    serves: ClassVar[Served | None] = "sigmoid"

    def columns(self, task: TaskFields) -> Columns:
        """Return the task's texts and its column of lists, one bit for each class once read."""
        return replace(super().columns(task), label_type="float32", label_form="bits")

    def chance(self, labels: Array, metric: Metric) -> float:
        """Return the score of the best of no label, all, and the usual ones. Shape: (N, K)."""
        bits = labels > 0.5
        usual = np.broadcast_to(bits.mean(axis=0) > 0.5, bits.shape)
        return best_constant([np.zeros_like(bits), np.ones_like(bits), usual], bits, metric)

    def decided(self, metric: Metric, logits: Array) -> Array:
        """Return the labels of each row as bits. Shape: (N, K), both."""
        return np.asarray(finite(logits) > 0)

    def right(self, metric: Metric, references: Array) -> Array:
        """Return the labels as bits. Shape: (N, K), both."""
        return np.asarray(np.asarray(references) > 0.5)

    def changed(self, logits: Array, original: Array) -> Array | None:
        """Return which rows have other labels; None for one output. Shape: (N, K) twice -> (N,)."""
        if logits.shape[1] == 1:
            return None
        ours, theirs = finite(logits) > 0, finite(original) > 0
        return np.asarray((ours != theirs).any(axis=1))

    def movement(self, logits: Array, original: Array) -> float:
        """Return the KL divergence summed over labels, mean over rows. Shape: both (N, K)."""
        ours, theirs = (
            np.stack([x, np.zeros_like(x)], 2).reshape(-1, 2) for x in (logits, original)
        )
        return float(kl(ours, theirs).reshape(logits.shape).sum(1).mean())

    def loss(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return the binary cross entropy, mean over rows and labels. Shape: (B, K) twice -> ()."""
        from torch.nn import functional

        labels = batch["labels"].to(outputs.device)
        return functional.binary_cross_entropy_with_logits(outputs, labels)

    def losses(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return the binary cross entropy summed over labels. Shape: (B, K) twice -> (B,)."""
        from torch.nn import functional

        labels = batch["labels"].to(outputs.device).float()
        return functional.binary_cross_entropy_with_logits(outputs, labels, reduction="none").sum(
            -1
        )

    def drawn_losses(
        self, outputs: Tensor, reference: Tensor, batch: Features, generator: torch.Generator
    ) -> Tensor:
        """Return the loss against drawn labels. Shape: (B, K) twice -> (B,)."""
        scores = reference.float().cpu()
        return self.losses(outputs, {"labels": scores.sigmoid().bernoulli(generator=generator)})

    def divergence(
        self, student: Tensor, teacher: Tensor, batch: Features, temperature: float
    ) -> Tensor:
        """Return T^2 times the mean KL divergence of each yes or no. Shape: (B, K) twice."""
        from torch.nn import functional

        student, teacher = student.float() / temperature, teacher.float() / temperature
        yes, no = functional.logsigmoid(teacher), functional.logsigmoid(-teacher)
        divergence = yes.exp() * (yes - functional.logsigmoid(student))
        divergence = divergence + no.exp() * (no - functional.logsigmoid(-student))
        return divergence.mean() * temperature**2

    def labels_of(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return the bits that a model answers. Shape: (B, K), both."""
        return (outputs > 0).float()
