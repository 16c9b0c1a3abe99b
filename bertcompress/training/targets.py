"""Regression is trained in standard deviations from the mean of the training targets.

AdamW moves a weight by about the learning rate whatever the gradient is, so that targets of 20,000
are never reached from a head that starts at zero, and a loss of their squares leaves nothing of the
other terms. The head's last linear is rescaled before the training and back after it: the model
that comes out answers in the target's units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from bertcompress.data import TaskData

__all__ = ["SCALE", "TargetScale", "standardised_head", "standardised_logits", "to_target_units"]

_Model = TypeVar("_Model", bound=nn.Module)

SCALE = "target_scale"
"""Name in a batch of the mean and the standard deviation that its labels were brought to."""


@dataclass(frozen=True)
class TargetScale:
    """Mean and standard deviation of the training targets, in the target's units."""

    mean: float
    std: float

    @classmethod
    def of(cls, data: TaskData) -> TargetScale | None:
        """Return the scale of a task's targets; None for what is no regression with labels."""
        if not data.task.head.has_units:
            return None
        targets = np.asarray(data.train["label"][:], np.float64)
        std = float(targets.std())
        return cls(float(targets.mean()), std) if np.isfinite(std) and std > 0 else None

    def labels(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the batch with standardised labels, and the scale for what else has the unit.

        A batch without labels gets the scale alone.
        """
        scale = torch.tensor([self.mean, self.std])
        if "labels" not in batch:
            return {**batch, SCALE: scale}
        return {**batch, "labels": (batch["labels"] - self.mean) / self.std, SCALE: scale}


def standardised_logits(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Return a teacher's answers in the unit of the batch's labels. Shape: (B, K)."""
    if SCALE not in batch:
        return logits
    mean, std = batch[SCALE].to(logits).unbind()
    return (logits - mean) / std


def to_target_units(model: _Model, data: TaskData) -> _Model:
    """Let a new head, in place, answer with the mean of the targets first; return the model.

    Its weights are those of a head for standardised targets, in the target's units.
    """
    scale, head = TargetScale.of(data), _answering(model)
    if scale is not None and head is not None:
        _rescale(head, scale.std, scale.mean)
    return model


@contextmanager
def standardised_head(model: nn.Module, scale: TargetScale | None) -> Iterator[TargetScale | None]:
    """Let a model answer in standard deviations, in place, and in the target's units afterwards.

    Yields the scale, or None where there is none or no linear that the answer comes from.
    """
    head = _answering(model) if scale is not None else None
    if scale is None or head is None:
        yield None
        return
    _rescale(head, 1 / scale.std, -scale.mean / scale.std)
    try:
        yield scale
    finally:
        _rescale(head, scale.std, scale.mean)


def _answering(model: nn.Module) -> Any:
    """Return the last linear with one output and a bias; also one that imitates rounding."""
    found = [
        module
        for module in model.modules()
        if getattr(module, "out_features", None) == 1 and getattr(module, "bias", None) is not None
    ]
    return found[-1] if found else None


@torch.no_grad()
def _rescale(linear: Any, factor: float, shift: float) -> None:
    """Multiply what a linear answers by a factor and add a shift, in place."""
    linear.weight.mul_(factor)
    linear.bias.mul_(factor).add_(shift)
