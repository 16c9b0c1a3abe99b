"""`TrainSettings`: how to train. Methods that train inherit its fields."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bertcompress.deployment import Trained

__all__ = ["HeadRate", "OptimizerName", "Precision", "Rate", "ScheduleName", "TrainSettings"]

Precision = Literal["auto", "fp32", "bf16"]

ScheduleName = Literal["auto", "linear", "constant", "cosine", "cyclic"]

OptimizerName = Literal["adamw", "sgd", "sam"]

Rate = Annotated[float, Field(gt=0, le=1)] | Literal["auto"]

HeadRate = Annotated[float, Field(gt=0, le=100)] | Literal["auto"]

_LOADER_EPOCHS = 3.0
_PATIENCE = 2
_MOMENTUM = 0.9
_RHO = 0.05


class TrainSettings(BaseModel):
    """How to train."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: float | None = Field(
        None,
        gt=0,
        le=1_000,
        description="Passes over the training rows, the rate falling to zero over them; null: "
        "until the score on the selection split no longer rises",
    )
    max_steps: int | None = Field(None, ge=1, description="Optimizer steps, instead of epochs")
    max_epochs: float = Field(
        30, gt=0, le=1_000, description="Passes at most, where `epochs` and `max_steps` are null"
    )
    max_minutes: float | None = Field(
        None, gt=0, description="Minutes at most; the rate falls to zero before they are over"
    )
    batch_size: int = Field(16, ge=1, description="Rows per forward pass, over all processes")
    gradient_accumulation: int = Field(1, ge=1, description="Forward passes per optimizer step")
    learning_rate: Rate = Field(
        "auto", description="Peak learning rate of AdamW; auto: by the model's hidden size"
    )
    head_rate: HeadRate = Field(
        "auto",
        description="Rate of pooler and head, as times the encoder's; auto: 5 for a head that "
        "nothing has trained yet, 1 for others and where learning_rate is given",
    )
    schedule: ScheduleName = Field(
        "auto",
        description="How the rate goes after the warm-up; auto: linear to zero where the number of "
        "steps is fixed, else held until the score stalls; the others need epochs or max_steps",
    )
    cycles: int | None = Field(
        None, ge=1, description="Falls of the rate from its peak to zero, of `schedule: cyclic`"
    )
    optimizer: OptimizerName = Field(
        "adamw",
        description="sam: AdamW by the gradient where the loss nearby is highest, twice the time; "
        "sgd needs a learning_rate",
    )
    momentum: float | None = Field(
        None, ge=0, lt=1, description="Of `optimizer: sgd`; null: 0.9 there"
    )
    rho: float | None = Field(
        None, ge=0, description="How far `optimizer: sam` climbs, as a norm; null: 0.05 there"
    )
    warmup: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Fraction of the steps with a rising rate; of three epochs "
        "where their number is not fixed",
    )
    cooldown: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Fraction of the steps that make the model over which the rate falls, once the "
        "score stalls",
    )
    weight_decay: float = Field(0.01, ge=0, le=1, description="Decay of matrices, times the rate")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm")
    patience: int | None = Field(
        None,
        ge=1,
        description="Evaluations without a better one before the rate falls, or before a training "
        "of fixed length stops; null: 2, or never",
    )
    evaluations_per_epoch: int | None = Field(
        None,
        ge=1,
        description="How often the selection split is scored in an epoch; null: once, more often "
        "in epochs of over 250 steps (over 1,000 where their number is given), and four times in "
        "any training",
    )
    evaluation_steps: int | None = Field(
        None, ge=1, description="Optimizer steps from one evaluation to the next, instead"
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

    @model_validator(mode="after")
    def _schedule_and_optimizer_fit(self) -> TrainSettings:
        if self.schedule != "auto" and not self.is_fixed:
            raise ValueError(
                f"schedule: {self.schedule} needs a length that is known before: give epochs or "
                "max_steps, or leave schedule: auto"
            )
        if self.optimizer == "sgd" and self.learning_rate == "auto":
            raise ValueError("optimizer: sgd has no rate that auto stands for: give learning_rate")
        if self.schedule == "cyclic" and self.cycles is None:
            raise ValueError("schedule: cyclic needs the number of cycles")
        for name, value, owner, chosen in (
            ("cycles", self.cycles, "schedule: cyclic", self.schedule == "cyclic"),
            ("momentum", self.momentum, "optimizer: sgd", self.optimizer == "sgd"),
            ("rho", self.rho, "optimizer: sam", self.optimizer == "sam"),
        ):
            if value is not None and not chosen:
                raise ValueError(f"{name}: only {owner} has it")
        return self

    @property
    def sgd_momentum(self) -> float:
        """Momentum of SGD."""
        return _MOMENTUM if self.momentum is None else self.momentum

    @property
    def sam_rho(self) -> float:
        """Length of the step that SAM climbs, in the norm of all weights."""
        return _RHO if self.rho is None else self.rho

    @property
    def passes_per_step(self) -> int:
        """Forward and backward passes of each row in an optimizer step."""
        return 2 if self.optimizer == "sam" else 1

    @property
    def trains(self) -> bool:
        """Whether there are steps at all: a method may allow `epochs: 0`."""
        return self.epochs != 0

    @property
    def is_fixed(self) -> bool:
        """Whether the number of steps is known before the training."""
        return self.epochs is not None or self.max_steps is not None

    @property
    def stall_patience(self) -> int:
        """Evaluations without a better one before the rate falls."""
        return self.patience or _PATIENCE

    def steps(self, batches: int) -> int:
        """Return the most optimizer steps of a training whose epochs have so many batches."""
        if self.max_steps:
            return self.max_steps
        per_epoch = math.ceil(batches / self.gradient_accumulation)
        return math.ceil(per_epoch * (self.max_epochs if self.epochs is None else self.epochs))

    def unjudged(self) -> TrainSettings:
        """Return settings for a loader without a selection split: three epochs unless it says."""
        return self if self.is_fixed else self.model_copy(update={"epochs": _LOADER_EPOCHS})

    def equal_steps(self, trained: Trained) -> dict[str, Any]:
        """Return the changes that make a control train as this did, and be judged as often.

        The best of more evaluations would be the better one by luck.
        """
        same = {
            "max_steps": trained.steps,
            "learning_rate": trained.learning_rate,
            "head_rate": trained.head_rate,
            "precision": trained.precision,
            "evaluation_steps": trained.evaluation_steps,
        }
        known = {name: value for name, value in same.items() if value is not None}
        return {"epochs": None, "patience": None, "max_minutes": None} | known
