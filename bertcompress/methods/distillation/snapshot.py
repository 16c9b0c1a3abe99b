"""Train in cycles, each taught by the model that the cycle before it ended with.

Snapshot distillation (Yang et al. 2019, 1812.00123): the learning rate falls to zero and rises
again a few times in one training; where it has reached zero the model is kept aside, and its
softened answers teach the next cycle beside the labels. No teacher is needed, and none but the
training's own weights is loaded.

Costs a forward pass more in all cycles but the first: about a quarter of the time. Not without
labels, nor without a fixed length. Changes no shape: no speed-up.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from bertcompress.data.batches import Batches, train_loader
from bertcompress.deployment import Product
from bertcompress.errors import DataError
from bertcompress.heads import Head, head_of_labels
from bertcompress.heads.outputs import outputs_of
from bertcompress.method import Context, Leaves, Method, Need
from bertcompress.training import (
    BaseObjective,
    TrainSettings,
    epoch_batches,
    fit_batches,
    fit_stage,
    forward,
)
from bertcompress.training.schedule import Horizon
from bertcompress.training.settings import ScheduleName
from bertcompress.training.steps import label_loss

__all__ = ["Snapshot", "SnapshotLoss", "snapshot"]

_CYCLES_ALONE = "the same cycles, no snapshot"


def snapshot(
    model: nn.Module,
    loader: Batches,
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    **knobs: Any,
) -> nn.Module:
    """Train `model` in place on batches with `labels`, in cycles, and return it; see `Snapshot`."""
    method, batches = Snapshot(**knobs), train_loader(loader)
    objective = method.loss(None, len(batches))
    fit_batches(model, objective, batches, settings=method, seed=seed, device=device)
    return model


class SnapshotLoss(BaseObjective):
    """The labels' loss and, once there is a snapshot, the distance to its softened answers.

    Args:
        head: of the task; None: by what the labels look like.
        restarts: optimizer steps after which the model is kept aside, and teaches.
        weight: of the distance; the labels weigh 1, and 1 + 1 / temperature beside a snapshot.
        temperature: softens the snapshot's answers alone, as published (sections 3.3 and 3.4).
    """

    def __init__(
        self, head: Head | None, restarts: tuple[int, ...], weight: float, temperature: float
    ) -> None:
        self.head, self.restarts = head, restarts
        self.weight, self.temperature = weight, temperature
        self.kept: nn.Module | None = None
        """The model at the last restart, frozen; None in the first cycle."""
        self._waiting: Mapping[str, Tensor] | None = None

    def __call__(
        self, model: nn.Module, batch: Mapping[str, Tensor], outputs: Any, step: int
    ) -> Tensor:
        """Return the loss of a batch; raises DataError without labels."""
        if "labels" not in batch:
            raise DataError("snapshot: the rows have no labels; it has no other teacher at first")
        answers = outputs_of(outputs).float()
        labels = label_loss(answers, batch, self.head)
        kept = self._snapshot(model)
        if kept is None or not self.weight or not model.training:
            return labels
        head = self.head or head_of_labels(batch["labels"])
        with torch.no_grad():
            theirs = outputs_of(forward(kept, batch)).float()
        if not head.has_units:
            theirs = theirs / self.temperature
        apart = head.divergence(answers, theirs, batch, 1.0)
        return (1 + 1 / self.temperature) * labels + self.weight * apart

    def on_step_end(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Keep the model aside where a cycle has ended."""
        if self.weight and step in self.restarts:
            self._waiting = None
            self.kept = copy.deepcopy(model).eval().requires_grad_(False)

    def _snapshot(self, model: nn.Module) -> nn.Module | None:
        """Return the snapshot; one that a resumed training has read is built like the model."""
        if self._waiting is not None:
            self.kept = copy.deepcopy(model).eval().requires_grad_(False)
            self.kept.load_state_dict(dict(self._waiting))
            self._waiting = None
        return self.kept

    def state_dict(self) -> dict[str, Any]:
        """Return the snapshot's weights."""
        kept = self.kept.state_dict() if self.kept is not None else self._waiting
        return {"kept": {name: t.detach().clone() for name, t in (kept or {}).items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the snapshot's weights back."""
        self.kept, self._waiting = None, dict(state["kept"]) or None


class Snapshot(Method, TrainSettings):
    """Train in cycles of the learning rate, each taught by the end of the one before."""

    key: ClassVar[str] = "snapshot"
    paper: ClassVar[str] = "Yang et al. 2018, arXiv:1812.00123"
    tier: ClassVar[Literal["core", "useful", "research"]] = "research"
    leaves: ClassVar[Leaves] = "weights"
    tags: ClassVar[tuple[str, ...]] = ("distilled",)
    requires: ClassVar[frozenset[Need]] = frozenset({Need.HEAD, Need.LABELS})

    epochs: float | None = Field(6, gt=0, le=1_000, description="Passes over the training rows")
    schedule: ScheduleName = Field("cyclic", description="Of the learning rate: in cycles")
    cycles: int | None = Field(3, ge=2, description="Falls of the rate from its peak to zero")
    snapshot_weight: float = Field(1.0, ge=0, description="Weight of the snapshot's answers")
    temperature: float = Field(2.0, ge=1, le=100, description="Softens the snapshot's answers")

    @model_validator(mode="after")
    def _in_cycles(self) -> Snapshot:
        if self.schedule != "cyclic" or self.cycles is None:
            raise ValueError("schedule: only cyclic has ends of cycles that teach; leave it so")
        return self

    def loss(self, head: Head | None, batches: int) -> SnapshotLoss:
        """Return what is minimised. `batches`: of an epoch."""
        epoch = math.ceil(batches / self.gradient_accumulation)
        restarts = Horizon.of(self, epoch, self.steps(batches)).restarts
        return SnapshotLoss(head, restarts, self.snapshot_weight, self.temperature)

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the trained product."""
        batches = epoch_batches(ctx.data, product.tokenizer, self)
        return fit_stage(product, ctx, self.loss(ctx.task.head, batches), self)

    def controls(self) -> Mapping[str, Snapshot]:
        """Return the same cycles without snapshots."""
        if not self.snapshot_weight:
            return {}
        return {_CYCLES_ALONE: self.model_copy(update={"snapshot_weight": 0.0})}
