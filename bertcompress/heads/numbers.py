"""One number for each text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from bertcompress.heads.features import Columns, TaskFields
from bertcompress.heads.head import Array, Head, finite, metrics_named
from bertcompress.metrics import Metric

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Numbers"]


class Numbers(Head):
    """One quantity in its own units: squared error. Labels: (B,) float32."""

    key: ClassVar[str] = "regression"
    problem_type: ClassVar[str] = "regression"
    metrics = metrics_named("pearson", "spearman", "mae")
    usual: ClassVar[tuple[str, ...]] = ("spearman", "pearson", "mae")
    has_classes: ClassVar[bool] = False
    has_units: ClassVar[bool] = True
    serves: ClassVar[Literal["softmax", "sigmoid", "number"] | None] = "number"

    def columns(self, task: TaskFields) -> Columns:
        """Return the task's texts and its column of numbers."""
        return replace(super().columns(task), label_type="float32")

    def width(self, labels: Sequence[str]) -> int:
        """Return 1."""
        return 1

    def decided(self, metric: Metric, logits: Array) -> Array:
        """Return the number of each row. Shape: (N, 1) -> (N,)."""
        return np.asarray(finite(logits)[:, 0])

    def changed(self, logits: Array, original: Array) -> Array | None:
        """Return None: nothing is decided."""
        return None

    def movement(self, logits: Array, original: Array) -> float:
        """Return the squared difference over the variance of the original's. Shape: both (N, K)."""
        spread = max(float(original.var()), 1e-12)
        return float(np.square(logits - original).mean() / spread)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean squared error. Shape: (B, 1), (B,) -> ()."""
        from torch.nn import functional

        return functional.mse_loss(logits.squeeze(-1), labels)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the squared error of each row. Shape: (B, 1), (B,) -> (B,)."""
        from torch.nn import functional

        return functional.mse_loss(logits.squeeze(-1), labels.float(), reduction="none")

    def drawn_losses(self, logits: Tensor, reference: Tensor, generator: torch.Generator) -> Tensor:
        """Return half the squared error to numbers drawn with variance 1. Shape: (B, 1) twice."""
        import torch

        scores = reference.float().cpu()
        target = scores + torch.randn(scores.shape, generator=generator)
        return 0.5 * (logits - target.to(logits)).pow(2).sum(-1)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return the mean squared error; T plays no part. Shape: (B, 1) twice."""
        from torch.nn import functional

        return functional.mse_loss(student.float(), teacher.float())

    def labels_of(self, logits: Tensor) -> Tensor:
        """Return the numbers that a model answers. Shape: (B, 1) -> (B,)."""
        return logits.squeeze(-1)
