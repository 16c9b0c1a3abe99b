"""Layers that are replaced by chance while a model trains (Xu et al. 2020, 2002.02925).

The layers of the predecessor are grouped, one group for each layer of the successor. In a step each
group is computed either by the predecessor's frozen layers or by the successor's one layer, and
the share of the latter rises to 1. The loss is the task's alone.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from bertcompress.errors import ModelError
from bertcompress.method import Objective
from bertcompress.shapes import anatomy
from bertcompress.shapes.parts import replace_modules
from bertcompress.training import DelegatingObjective

__all__ = ["ReplacedLayer", "ReplacingRate", "WithReplacing", "layer_groups", "put_replaced"]


@dataclass(frozen=True)
class ReplacingRate:
    """The chance that a group is computed by its successor: `start`, linearly up to 1."""

    start: float
    steps: int
    """Optimizer steps after which it is 1, at least 1."""

    def after(self, step: int) -> float:
        """Return the chance in the step that follows `step` finished ones, 0 to 1."""
        if step >= self.steps:
            return 1.0  # exactly, whatever the rounding
        return self.start + (1 - self.start) * step / self.steps


def layer_groups(depth: int, groups: int) -> list[range]:
    """Return the layers of each group, contiguous and as equal in number as can be.

    >>> layer_groups(6, 3)
    [range(0, 2), range(2, 4), range(4, 6)]
    """
    ends = [i * depth // groups for i in range(groups + 1)]
    return [range(a, b) for a, b in pairwise(ends)]


class ReplacedLayer(nn.Module):
    """One layer of the successor, in the place of a group of the predecessor's.

    In training one of the two is computed, by chance; in evaluation the successor always is. The
    predecessor is no submodule: it is neither trained, nor saved, nor moved.
    """

    def __init__(self, successor: nn.Module, predecessor: Sequence[nn.Module], seed: int) -> None:
        super().__init__()
        self.successor = successor
        self.rate = 1.0
        self.generator = torch.Generator().manual_seed(seed)
        self._predecessor = [tuple(predecessor)]

    @property
    def predecessor(self) -> tuple[nn.Module, ...]:
        """The frozen layers that the successor stands for."""
        return self._predecessor[0]

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return what the successor or the predecessor makes of the stream. Shape: (B, T, H)."""
        if not self.training or self.rate >= 1:
            return self.successor(hidden_states, *args, **kwargs)
        if float(torch.rand((), generator=self.generator)) < self.rate:
            return self.successor(hidden_states, *args, **kwargs)
        output: Any = hidden_states
        for layer in self.predecessor:
            layer.to(hidden_states.device).train()
            stream = output[0] if isinstance(output, tuple) else output
            output = layer(stream, *args, **kwargs)
        return output


def put_replaced(model: nn.Module, predecessor: nn.Module, seed: int) -> list[ReplacedLayer]:
    """Put a `ReplacedLayer` in the place of each layer of a successor, in place; return them.

    All else of the successor is frozen. `predecessor`: a model of more layers, left as it is; its
    layers are copied. Raises ModelError where there are not enough of them.
    """
    mine = [layer.module for layer in anatomy(model).layers]
    theirs = [layer.module for layer in anatomy(predecessor).layers]
    if len(mine) > len(theirs):
        raise ModelError(f"replacing: {len(mine)} layers cannot follow {len(theirs)}")
    placed = []
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for i, (layer, group) in enumerate(
        zip(mine, layer_groups(len(theirs), len(mine)), strict=True)
    ):
        frozen = [copy.deepcopy(theirs[number]).requires_grad_(False) for number in group]
        placed.append(ReplacedLayer(layer.requires_grad_(True), frozen, seed + i))
    replace_modules(model, {id(each.successor): each for each in placed})
    return placed


class WithReplacing(DelegatingObjective):
    """An objective under which the successor's layers come in more and more often."""

    def __init__(
        self, inner: Objective, layers: Sequence[ReplacedLayer], rate: ReplacingRate
    ) -> None:
        super().__init__(inner)
        self.layers, self.rate = layers, rate
        self._set(0)

    def __call__(
        self, model: nn.Module, batch: Mapping[str, torch.Tensor], outputs: Any, step: int
    ) -> torch.Tensor:
        """Return the loss of the inner objective; where no new layer was drawn, nothing learns."""
        loss = super().__call__(model, batch, outputs, step)
        if loss.requires_grad or not torch.is_grad_enabled():
            return loss
        parameters = (p for layer in self.layers for p in layer.parameters())
        return loss + 0.0 * sum(p.sum() for p in parameters)

    def on_step_end(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Raise the rate."""
        super().on_step_end(model, optimizer, step)
        self._set(step)

    def _set(self, step: int) -> None:
        self.step = step
        for layer in self.layers:
            layer.rate = self.rate.after(step)

    def state_dict(self) -> dict[str, Any]:
        """Return the inner objective's state, the step, and where the chances are drawn."""
        drawn = [layer.generator.get_state() for layer in self.layers]
        return {"inner": self.inner.state_dict(), "step": self.step, "drawn": drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.inner.load_state_dict(state["inner"])
        self._set(int(state["step"]))
        for layer, drawn in zip(self.layers, state["drawn"], strict=True):
            layer.generator.set_state(drawn.cpu())
