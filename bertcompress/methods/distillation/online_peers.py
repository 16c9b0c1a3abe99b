"""Train a model beside peers that teach it, without any teacher before.

Online distillation with diverse peers (OKDDip, Chen et al. 2020, 1912.00350): copies of the upper
layers and the head are trained at once over shared lower layers. Each peer learns from a mixture of
all peers that is its own, so that they stay different, and the model itself, the leader, from their
mean. The leader alone goes on; the peers are gone.

Costs the upper layers and the head once more for each peer: about twice a training. Not without
labels, and only for one class a text. Changes no shape: no speed-up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import nn

from bertcompress.data.batches import Batches, train_loader
from bertcompress.deployment import Product
from bertcompress.engines.distillation.peers import PeerLoss, SharedLayers
from bertcompress.engines.pruning.importance import head_of
from bertcompress.errors import TaskError
from bertcompress.heads import Head
from bertcompress.method import Context, Leaves, Method, Need
from bertcompress.shapes import ShapeError, anatomy
from bertcompress.training import (
    LabelLoss,
    TrainSettings,
    epoch_batches,
    fit_batches,
    fit_stage,
)

__all__ = ["OnlinePeers", "online_peers"]

_ALONE = "alone, no peers"


def online_peers(
    model: nn.Module,
    loader: Batches,
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    **knobs: Any,
) -> nn.Module:
    """Train `model` in place on batches with `labels`, beside peers, and return it."""
    method, batches = OnlinePeers(**knobs), train_loader(loader)
    method.check(model)
    shared = method.shared(model, seed)
    loss = method.loss(head_of(model), model, shared, len(batches), seed)
    try:
        fit_batches(model, loss, batches, settings=method, seed=seed, device=device)
    finally:
        shared.close()
    return model


class OnlinePeers(Method, TrainSettings):
    """Train beside peers that teach, without any teacher before."""

    key: ClassVar[str] = "online_peers"
    paper: ClassVar[str] = "Chen et al. 2020, arXiv:1912.00350"
    tier: ClassVar[Literal["core", "useful", "research"]] = "research"
    leaves: ClassVar[Leaves] = "weights"
    tags: ClassVar[tuple[str, ...]] = ("distilled",)
    requires: ClassVar[frozenset[Need]] = frozenset({Need.HEAD, Need.LABELS})

    epochs: float | None = Field(3, gt=0, le=1_000, description="Passes over the training rows")
    peers: int = Field(3, ge=0, le=16, description="Peers that are trained beside; 0: none")
    branch_layers: int = Field(2, ge=1, description="Upper layers that each peer has of its own")
    temperature: float = Field(3.0, ge=1, le=100, description="Softens the answers of all")
    peer_weight: float = Field(1.0, ge=0, description="Weight of what is learned from peers")
    ramp_share: float = Field(
        0.25, ge=0, le=1, description="Share of the steps over which that weight rises"
    )

    @field_validator("peers")
    @classmethod
    def _several(cls, value: int) -> int:
        if value == 1:
            raise ValueError("one peer has nobody to learn from; give 2 or more, or 0 for none")
        return value

    def check(self, model: nn.Module) -> None:
        """Raise ShapeError for more upper layers than there are, or shared ones."""
        view = anatomy(model)
        if view.family.shared:
            raise ShapeError(
                f"online_peers: {type(model).__name__} has one layer, applied many times"
            )
        if self.branch_layers > view.depth:
            raise ShapeError(f"online_peers: branch_layers {self.branch_layers} of {view.depth}")

    def shared(self, leader: nn.Module, seed: int) -> SharedLayers:
        """Return the peers of a leader."""
        return SharedLayers(leader, self.peers, self.branch_layers, seed)

    def loss(
        self, head: Head, leader: nn.Module, shared: SharedLayers, batches: int, seed: int
    ) -> PeerLoss:
        """Return what is minimised. `batches`: of an epoch. Raises TaskError for other answers."""
        if not head.has_order:
            raise TaskError(
                f"online_peers: peers mix the probabilities of one class a text; a {head.key} task "
                "has none. distill and born_again serve it"
            )
        ramp = math.ceil(self.ramp_share * self.steps(batches))
        return PeerLoss(
            head,
            shared,
            leader,
            temperature=self.temperature,
            weight=self.peer_weight,
            ramp=ramp,
            seed=seed,
        )

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the leader, trained."""
        if not self.peers:
            return fit_stage(product, ctx, LabelLoss(ctx.task.head), self)
        self.check(product.model)
        batches = epoch_batches(ctx.data, product.tokenizer, self)
        shared = self.shared(product.model, ctx.seed)
        try:
            loss = self.loss(ctx.task.head, product.model, shared, batches, ctx.seed)
            return fit_stage(product, ctx, loss, self)
        finally:
            shared.close()

    def controls(self) -> Mapping[str, OnlinePeers]:
        """Return the same training without peers."""
        return {_ALONE: self.model_copy(update={"peers": 0})} if self.peers else {}
