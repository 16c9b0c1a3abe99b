"""One number for each text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bertcompress.heads.features import Columns, TaskFields
from bertcompress.heads.head import Array, Features, Head, Served, finite, metrics_named
from bertcompress.metrics import Metric

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Numbers"]


class Numbers(Head):
    """One quantity in its own units: squared error. Labels: (B,) float32."""

    key: ClassVar[str] = "regression"
    problem_type: ClassVar[str | None] = "regression"
    metrics = metrics_named("pearson", "spearman", "mae")
    usual: ClassVar[tuple[str, ...]] = ("spearman", "pearson", "mae")
    has_classes: ClassVar[bool] = False
    has_units: ClassVar[bool] = True
    serves: ClassVar[Served | None] = "number"

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

    def loss(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return the mean squared error. Shape: (B, 1), (B,) -> ()."""
        from torch.nn import functional

        return functional.mse_loss(outputs.squeeze(-1), batch["labels"].to(outputs.device))

    def losses(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return the squared error of each row. Shape: (B, 1), (B,) -> (B,)."""
        from torch.nn import functional

        labels = batch["labels"].to(outputs.device).float()
        return functional.mse_loss(outputs.squeeze(-1), labels, reduction="none")

    def drawn_losses(
        self, outputs: Tensor, reference: Tensor, batch: Features, generator: torch.Generator
    ) -> Tensor:
        """Return half the squared error to numbers drawn with variance 1. Shape: (B, 1) twice."""
        import torch

        scores = reference.float().cpu()
        target = scores + torch.randn(scores.shape, generator=generator)
        return 0.5 * (outputs - target.to(outputs)).pow(2).sum(-1)

    def divergence(
        self, student: Tensor, teacher: Tensor, batch: Features, temperature: float
    ) -> Tensor:
        """Return the mean squared error; T plays no part. Shape: (B, 1) twice."""
        from torch.nn import functional

        return functional.mse_loss(student.float(), teacher.float())

    def labels_of(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return the numbers that a model answers. Shape: (B, 1) -> (B,)."""
        return outputs.squeeze(-1)
