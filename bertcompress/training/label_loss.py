"""The loss of the labels alone, as an objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from bertcompress.errors import DataError
from bertcompress.heads import Head
from bertcompress.heads.outputs import outputs_of
from bertcompress.training.objective import BaseObjective
from bertcompress.training.steps import label_loss

__all__ = ["LabelLoss"]


class LabelLoss(BaseObjective):
    """The loss of the labels alone, by the head of the task, else by what the labels look like."""

    def __init__(self, head: Head | None = None) -> None:
        self.head = head

    def __call__(
        self, model: nn.Module, batch: Mapping[str, Tensor], outputs: Any, step: int
    ) -> Tensor:
        """Return the mean loss of the batch; raises DataError without labels."""
        if "labels" not in batch:
            raise DataError("training on labels: the rows have none; distil, or name the column")
        return label_loss(outputs_of(outputs).float(), batch, self.head)
