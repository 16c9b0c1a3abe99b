"""Sharpness-aware minimisation: the gradient where the loss nearby is highest, not where one is.

Foret et al. 2020, "Sharpness-Aware Minimization for Efficiently Improving Generalization"
(2010.01412), algorithm 1: climb from the weights w by e = rho g / |g| (equation 2), take the
gradient there, and step from w by it. Both gradients are of the same function: of all batches of
the optimizer step, with the same dropout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bertcompress.training.checkpoints import random_state, restore_random_state

__all__ = ["MicroBatches", "climbed"]

_TINY = 1e-12


class MicroBatches:
    """The accumulated batches of one optimizer step, each with the random numbers it began with."""

    def __init__(self) -> None:
        self._seen: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def add(self, inputs: dict[str, Any]) -> None:
        """Remember a batch that is about to go forward."""
        self._seen.append((inputs, random_state()))

    @contextmanager
    def again(self) -> Iterator[Iterator[tuple[bool, dict[str, Any]]]]:
        """Give the batches once more, as (whether it is the last, inputs), and forget them.

        Each begins with the random numbers of its first time; what is drawn after all of them
        goes on as if there had been one pass.
        """
        after = random_state()
        try:
            yield self._replayed()
        finally:
            restore_random_state(after)
            self._seen.clear()

    def _replayed(self) -> Iterator[tuple[bool, dict[str, Any]]]:
        for i, (inputs, state) in enumerate(self._seen, start=1):
            restore_random_state(state)
            yield i == len(self._seen), inputs


@contextmanager
def climbed(model: nn.Module, others: Sequence[nn.Parameter], rho: float) -> Iterator[None]:
    """Add rho g / |g| to the weights while the context lasts, and clear all gradients before.

    The norm is over all weights together; weights without a gradient stay. Afterwards weights and
    buffers are what they were, to the bit. `others`: parameters that do not climb, whose gradients
    are taken anew too.
    """
    moved = [p for p in model.parameters() if p.grad is not None]
    before = [(tensor, tensor.detach().clone()) for tensor in (*moved, *model.buffers())]
    with torch.no_grad():
        length = torch.nn.utils.get_total_norm([_gradient(p) for p in moved])
        for parameter in moved:
            parameter.add_(_gradient(parameter), alpha=float(rho / (length + _TINY)))
    for parameter in (*model.parameters(), *others):
        parameter.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in before:
                tensor.copy_(value)


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
