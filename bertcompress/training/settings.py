"""`TrainSettings`: how to train. Methods that train inherit its fields."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Precision", "TrainSettings"]

Precision = Literal["auto", "fp32", "bf16"]


class TrainSettings(BaseModel):
    """How to train."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: float = Field(3.0, gt=0, le=1_000, description="Passes over the training rows at most")
    max_steps: int | None = Field(
        None, ge=1, description="Optimizer steps at most, instead of epochs"
    )
    batch_size: int = Field(16, ge=1, description="Rows per forward pass, over all processes")
    gradient_accumulation: int = Field(1, ge=1, description="Forward passes per optimizer step")
    learning_rate: float = Field(5e-5, gt=0, le=1, description="Peak learning rate of AdamW")
    warmup: float = Field(0.1, ge=0, le=1, description="Fraction of the steps with a rising rate")
    weight_decay: float = Field(0.01, ge=0, le=1, description="Decay of matrices, times the rate")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm")
    patience: int | None = Field(
        None, ge=1, description="Stop after this many evaluations without a better one; null: never"
    )
    evaluations_per_epoch: int = Field(
        1, ge=1, description="How often the selection split is scored in an epoch"
    )
    checkpoint_steps: int | None = Field(
        500, ge=1, description="Also write a checkpoint every so many steps; null: at evaluations"
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations: a third more time for far less memory"
    )
    precision: Precision = Field(
        "auto", description="auto: bf16 where trying shows that it is faster, else fp32"
    )
    tensorboard: str | None = Field(None, description="Folder for TensorBoard logs; null: no logs")

    def steps(self, batches: int) -> int:
        """Return the optimizer steps of a training whose epochs have so many batches."""
        if self.max_steps:
            return self.max_steps
        return math.ceil(math.ceil(batches / self.gradient_accumulation) * self.epochs)
