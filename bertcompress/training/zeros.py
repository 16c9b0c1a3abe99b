"""Weights that stay zero while a model trains: those that its record of edits says are masked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from bertcompress.method import Objective
from bertcompress.training.objective import DelegatingObjective

__all__ = [
    "KeepZeros",
    "Weights",
    "Zeros",
    "clear_gradients",
    "clear_moments",
    "clear_weights",
    "keeping_zeros",
]

Weights = Mapping[str, Tensor]
"""Matrices by the names of their modules."""

Zeros = Mapping[str, Tensor]
"""Which weights of each matrix are zero. Shape: bool, as the matrix."""


def clear_gradients(weights: Weights, zeros: Zeros) -> None:
    """Set the gradients of weights that are to stay zero to zero, in place."""
    for name, weight in weights.items():
        if weight.grad is not None:
            weight.grad.masked_fill_(zeros[name], 0.0)


@torch.no_grad()
def clear_weights(weights: Weights, zeros: Zeros) -> None:
    """Set weights to zero, in place."""
    for name, weight in weights.items():
        weight.masked_fill_(zeros[name], 0.0)


@torch.no_grad()
def clear_moments(optimizer: torch.optim.Optimizer, weights: Weights, zeros: Zeros) -> None:
    """Set what an optimizer remembers of these weights to zero, in place: moments, momentum."""
    for name, weight in weights.items():
        for moment in _moments(optimizer, weight):
            moment.masked_fill_(zeros[name], 0.0)


def _moments(optimizer: torch.optim.Optimizer, weight: Tensor) -> Iterator[Tensor]:
    state: Mapping[str, Any] = optimizer.state.get(weight, {})
    for value in state.values():
        if isinstance(value, Tensor) and value.shape == weight.shape:
            yield value


@runtime_checkable
class _Edited(Protocol):
    """A model that knows its record of edits: what computes it need not be known here."""

    def masked_weights(self) -> dict[str, Tensor]: ...


class KeepZeros(DelegatingObjective):
    """An objective under which the weights that are zero now stay zero, in these linears.

    Gradients, and so moments, of those weights are zero from the first step on.
    """

    def __init__(self, inner: Objective, weights: Weights) -> None:
        super().__init__(inner)
        self._weights = weights
        self._zeros = {name: weight.detach() == 0 for name, weight in weights.items()}

    def on_backward(self, model: nn.Module, step: int) -> None:
        """Run the inner objective's hook, then take the gradients of the zeros away."""
        super().on_backward(model, step)
        clear_gradients(self._weights, self._zeros)

    def on_step_end(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Run the inner objective's hook, then set the weights to zero again."""
        super().on_step_end(model, optimizer, step)
        clear_weights(self._weights, self._zeros)


def keeping_zeros(model: nn.Module, objective: Objective) -> Objective:
    """Return the objective that keeps the zeros which the model's record counts, if it counts any.

    Whatever trains the model, a method that knows nothing of masks too.
    """
    weights = model.masked_weights() if isinstance(model, _Edited) else {}
    return KeepZeros(objective, weights) if weights else objective
