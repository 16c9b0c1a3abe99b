"""Weights that stay zero while a model trains: those that its record of edits says are masked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bertcompress.method import Objective
from bertcompress.shapes import read_record
from bertcompress.training.objective import DelegatingObjective

__all__ = ["KeepZeros", "clear_moments", "keeping_zeros", "mask_gradients", "mask_weights"]


def mask_gradients(weights: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor]) -> None:
    """Set the gradients of masked weights to zero, in place. Shape: masks as the weights, bool."""
    for name, weight in weights.items():
        if weight.grad is not None:
            weight.grad.mul_(masks[name])


@torch.no_grad()
def mask_weights(weights: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor]) -> None:
    """Set masked weights to zero, in place. Shape: masks as the weights, bool; false is masked."""
    for name, weight in weights.items():
        weight.mul_(masks[name])


@torch.no_grad()
def clear_moments(
    optimizer: torch.optim.Optimizer,
    weights: Mapping[str, nn.Parameter],
    masks: Mapping[str, Tensor],
) -> None:
    """Set what an optimizer remembers of masked weights to zero, in place: moments, momentum."""
    for name, weight in weights.items():
        for moment in _moments(optimizer, weight):
            moment.mul_(masks[name])


def _moments(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> Iterator[Tensor]:
    state: Mapping[str, Any] = optimizer.state.get(weight, {})
    for value in state.values():
        if isinstance(value, Tensor) and value.shape == weight.shape:
            yield value


class KeepZeros(DelegatingObjective):
    """An objective under which the weights that are zero now stay zero, in these linears.

    Gradients, and so moments, of those weights are zero from the first step on.
    """

    def __init__(self, inner: Objective, weights: Mapping[str, nn.Parameter]) -> None:
        super().__init__(inner)
        self._weights = weights
        self._masks = {name: weight.detach() != 0 for name, weight in weights.items()}

    def on_backward(self, model: nn.Module, step: int) -> None:
        """Run the inner objective's hook, then take the masked gradients away."""
        super().on_backward(model, step)
        mask_gradients(self._weights, self._masks)

    def on_step_end(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Run the inner objective's hook, then set the masked weights to zero."""
        super().on_step_end(model, optimizer, step)
        mask_weights(self._weights, self._masks)


def keeping_zeros(model: nn.Module, objective: Objective) -> Objective:
    """Return the objective that keeps the zeros which the model's record counts, if it counts any.

    Whatever trains the model, a method that knows nothing of masks too.
    """
    masked = read_record(getattr(model, "config", None)).get("masked")
    if masked is None or not masked.simulated:
        return objective
    modules: dict[str, Any] = {name: model.get_submodule(name) for name in masked.density}
    return KeepZeros(objective, {name: module.weight for name, module in modules.items()})
