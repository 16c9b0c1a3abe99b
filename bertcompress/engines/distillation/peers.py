"""Peers that learn from one another while a leader learns from all (Chen et al. 2020, 1912.00350).

The lower layers are shared: each peer is a copy of the model whose lower layers hand on what the
leader's have just computed. Axes: B rows, K classes, P peers, E features of the attention.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bertcompress.errors import DataError
from bertcompress.heads import Head
from bertcompress.heads.outputs import outputs_of
from bertcompress.shapes import anatomy, hidden_size
from bertcompress.shapes.parts import replace_modules
from bertcompress.training import BaseObjective, forward
from bertcompress.training.optimizers import ABOVE_ENCODER
from bertcompress.training.rates import above_the_encoder
from bertcompress.training.steps import label_loss

__all__ = ["PeerAttention", "PeerLoss", "SharedLayers", "diversity"]

_FEATURES = 64


class _Given(nn.Module):
    """Stands for what is shared: hands on what the leader's last shared layer returned."""

    def __init__(self, shared: list[Any], bare: bool) -> None:
        super().__init__()
        self._shared, self._bare = shared, bare

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the leader's stream: bare (B, T, H), or as its layer returned it."""
        stream = self._shared[0]
        return stream[0] if self._bare and isinstance(stream, tuple) else stream


class SharedLayers:
    """A leader and its peers, whose lower layers are the leader's own.

    Args:
        leader: the model, which is trained as it is.
        peers: how many copies of its upper layers and its head, at least 2.
        branch: how many upper layers a peer has of its own.
        seed: of the noise by which the peers differ at first.
    """

    def __init__(self, leader: nn.Module, peers: int, branch: int, seed: int) -> None:
        layers = anatomy(leader).layers
        self._stream: list[Any] = [None]
        self.peers = nn.ModuleList(copy.deepcopy(leader) for _ in range(peers))
        shared = len(layers) - branch
        for number, peer in enumerate(self.peers):
            self._part(peer, shared)
            _perturb(peer, seed + number)
        last = layers[shared - 1].module if shared else anatomy(leader).embeddings.module
        self._handle = last.register_forward_hook(self._keep)

    def _part(self, peer: nn.Module, shared: int) -> None:
        """Let a copy take the shared stream, in place; its own parameters are above it."""
        view = anatomy(peer)
        below = [layer.module for layer in view.layers[:shared]]
        stands: dict[int, nn.Module] = {id(each): _Given(self._stream, False) for each in below}
        if view.embeddings.native_projection is None or not shared:
            stands[id(view.embeddings.module)] = _Given(self._stream, True)
        for parameter in view.embeddings.module.parameters():
            parameter.requires_grad_(False)  # where it stays, its output goes nowhere
        replace_modules(peer, stands)

    def _keep(self, _: nn.Module, __: Any, output: Any) -> None:
        self._stream[0] = output

    def close(self) -> None:
        """Leave the leader as it was."""
        self._handle.remove()
        self._stream[0] = None


@torch.no_grad()
def _perturb(model: nn.Module, seed: int) -> None:
    """Add a hundredth of each matrix's spread as noise, in place: else all peers were one."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.ndim > 1:
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.add_(noise * parameter.std() * 0.01)


class PeerAttention(nn.Module):
    """How much each peer learns from each: softmax over b of L(h_a) E(h_b)^T (equation 3)."""

    def __init__(self, width: int, features: int = _FEATURES, seed: int = 0) -> None:
        super().__init__()
        self.query = nn.Linear(width, features, bias=False)
        self.key = nn.Linear(width, features, bias=False)
        generator = torch.Generator().manual_seed(seed)
        for linear in (self.query, self.key):
            nn.init.normal_(linear.weight, std=width**-0.5, generator=generator)

    def forward(self, states: Tensor) -> Tensor:
        """Return the weights. Shape: (B, P, H) -> (B, P, P), rows sum to 1."""
        query, key = self.query(states), self.key(states)
        weights: Tensor = (query @ key.transpose(-1, -2)).softmax(-1)
        return weights


class PeerLoss(BaseObjective):
    """The labels' loss of all, and what peers learn of each other and the leader of them.

    In evaluation the leader is judged alone, by the labels.
    """

    needs = frozenset({"hidden_states"})

    def __init__(
        self, head: Head, shared: SharedLayers, leader: nn.Module, *, temperature: float,
        weight: float, ramp: int, seed: int,
    ) -> None:  # fmt: skip
        self.head, self.shared = head, shared
        self.temperature, self.weight, self.ramp = temperature, weight, max(1, ramp)
        self.attention = PeerAttention(hidden_size(leader.config), seed=seed)

    def __call__(
        self, model: nn.Module, batch: Mapping[str, Tensor], outputs: Any, step: int
    ) -> Tensor:
        """Return the loss of a batch; raises DataError without labels."""
        if "labels" not in batch:
            raise DataError("online_peers: the rows have no labels, and there is no other teacher")
        mine = outputs_of(outputs).float()
        loss = label_loss(mine, batch, self.head)
        if not model.training:
            return loss
        self.shared.peers.to(mine.device).train()
        self.attention.to(mine.device)
        answers = [forward(peer, batch, self.needs) for peer in self.shared.peers]
        logits = [outputs_of(answer).float() for answer in answers]
        states = torch.stack([each["hidden_states"][-1][:, 0].float() for each in answers], dim=1)
        loss = loss + sum(label_loss(each, batch, self.head) for each in logits)
        return loss + self._strength(step) * self._apart(mine, logits, states, batch)

    def _strength(self, step: int) -> float:
        """Return the weight after `step` steps: it rises, since peers know little at first."""
        return self.weight * min(1.0, (step + 1) / self.ramp)

    def _apart(
        self, mine: Tensor, logits: list[Tensor], states: Tensor, batch: Mapping[str, Tensor]
    ) -> Tensor:
        """Return what peers are apart from their targets, and the leader from their mean."""
        targets = peer_targets(self.attention(states), logits, self.temperature)
        softened = self.temperature
        parts = [
            self.head.divergence(each, target, batch, softened)
            for each, target in zip(logits, targets, strict=True)
        ]
        mean = mean_target(logits, softened)
        return torch.stack(parts).sum() + self.head.divergence(mine, mean, batch, softened)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameters of the peers, of their heads apart, and of attention."""
        heads = [p for peer in self.shared.peers for p in above_the_encoder(peer)]
        above = {id(parameter) for parameter in heads}
        own = [p for p in self.shared.peers.parameters() if p.requires_grad and id(p) not in above]
        return [
            {"params": [*own, *self.attention.parameters()]},
            {"params": [p for p in heads if p.requires_grad], ABOVE_ENCODER: True},
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return the weights of peers and attention."""
        return {"peers": self.shared.peers.state_dict(), "attention": self.attention.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self.shared.peers.load_state_dict(state["peers"])
        self.attention.load_state_dict(state["attention"])


def peer_targets(weights: Tensor, logits: list[Tensor], temperature: float) -> list[Tensor]:
    """Return what each peer learns: the weighted mean of all peers' softened probabilities.

    As logits of that temperature; the probabilities are detached, the weights learn. Shape:
    weights (B, P, P), P logits (B, K) -> P of (B, K).
    """
    probabilities = torch.stack([_softened(each, temperature) for each in logits], dim=1).detach()
    mixed = weights @ probabilities  # (B, P, K)
    return [temperature * target.clamp_min(1e-12).log() for target in mixed.unbind(1)]


def mean_target(logits: list[Tensor], temperature: float) -> Tensor:
    """Return what the leader learns: the peers' mean, detached, as logits. Shape: (B, K)."""
    mean = torch.stack([_softened(each, temperature) for each in logits]).mean(0).detach()
    return temperature * mean.clamp_min(1e-12).log()


def _softened(logits: Tensor, temperature: float) -> Tensor:
    return (logits / temperature).softmax(-1)


def diversity(logits: list[Tensor]) -> float:
    """Return the mean KL divergence between two peers, in nats. Shape: P of (B, K)."""
    logs = [each.log_softmax(-1) for each in logits]
    pairs = [
        float(functional.kl_div(b, a, reduction="batchmean", log_target=True))
        for i, a in enumerate(logs)
        for j, b in enumerate(logs)
        if i != j
    ]
    return sum(pairs) / len(pairs)
