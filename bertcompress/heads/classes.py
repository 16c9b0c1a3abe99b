"""One class of several for each text."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bertcompress.heads.head import Array, Features, Head, classes_of, finite, metrics_named
from bertcompress.metrics import Metric
from bertcompress.metrics.statistics import kl

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Classes", "best_constant", "changed_classes"]


class Classes(Head):
    """One of K classes: cross entropy, the largest output decides. Labels: (B,) int64."""

    key: ClassVar[str] = "single_label"
    metrics = metrics_named("accuracy", "f1", "f1_macro", "matthews")
    usual: ClassVar[tuple[str, ...]] = ("accuracy", "f1_macro", "matthews")
    has_order: ClassVar[bool] = True

    def usual_for(self, classes: int) -> tuple[str, ...]:
        """Return the metrics for so many classes where the task names none."""
        return ("accuracy", "f1", "matthews") if classes == 2 else self.usual

    def chance(self, labels: Array, metric: Metric) -> float:
        """Return the score of the best constant class. Shape: labels (N,)."""
        return best_constant([np.full_like(labels, c) for c in np.unique(labels)], labels, metric)

    def decided(self, metric: Metric, logits: Array) -> Array:
        """Return the class of each row. Shape: (N, K) -> (N,)."""
        return classes_of(metric, finite(logits))

    def changed(self, logits: Array, original: Array) -> Array | None:
        """Return which rows are answered otherwise. Shape: (N, K) twice -> (N,)."""
        return changed_classes(logits, original)

    def movement(self, logits: Array, original: Array) -> float:
        """Return the mean KL divergence from the original's answers. Shape: both (N, K)."""
        return float(kl(logits, original).mean())

    def loss(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return the mean cross entropy. Shape: (B, K), (B,) -> ()."""
        from torch.nn import functional

        return functional.cross_entropy(outputs, batch["labels"].to(outputs.device))

    def losses(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return the cross entropy of each row. Shape: (B, K), (B,) -> (B,)."""
        from torch.nn import functional

        labels = batch["labels"].to(outputs.device)
        return functional.cross_entropy(outputs, labels, reduction="none")

    def drawn_losses(
        self, outputs: Tensor, reference: Tensor, batch: Features, generator: torch.Generator
    ) -> Tensor:
        """Return the loss against drawn classes. Shape: (B, K) twice -> (B,)."""
        scores = reference.float().cpu()
        drawn = scores.softmax(-1).multinomial(1, generator=generator).squeeze(-1)
        return self.losses(outputs, {"labels": drawn})

    def divergence(
        self, student: Tensor, teacher: Tensor, batch: Features, temperature: float
    ) -> Tensor:
        """Return T^2 times the mean KL divergence of the softened classes. Shape: (B, K) twice."""
        from torch.nn import functional

        student, teacher = student.float() / temperature, teacher.float() / temperature
        divergence = functional.kl_div(
            functional.log_softmax(student, -1),
            functional.log_softmax(teacher, -1),
            reduction="batchmean",
            log_target=True,
        )
        return divergence * temperature**2

    def labels_of(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return the classes that a model answers. Shape: (B, K) -> (B,)."""
        return outputs.argmax(-1)


def changed_classes(logits: Array, original: Array) -> Array | None:
    """Return which rows are of another class; None for one output. Shape: (N, K) twice -> (N,)."""
    if logits.shape[1] == 1:
        return None
    ours, theirs = finite(logits).argmax(axis=1), finite(original).argmax(axis=1)
    return np.asarray(ours != theirs)


def best_constant(constants: list[Array], labels: Array, metric: Metric) -> float:
    """Return the score of the best of some constant answers. Shape: (N,) or (N, K) each."""
    scores = (metric.score(metric.statistics(constant, labels)) for constant in constants)
    return round(max(scores), 4)
