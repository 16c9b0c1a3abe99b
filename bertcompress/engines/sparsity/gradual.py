"""Zeros that come step by step while a model trains (Zhu & Gupta 2017, 1710.01878)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bertcompress.engines.sparsity.choosing import Ramp, Scope, Scores, zeros_by_score
from bertcompress.method import Objective
from bertcompress.shapes import anatomy, apply_edit
from bertcompress.shapes.masked import counted_zeros, layer_linears
from bertcompress.training import DelegatingObjective
from bertcompress.training.zeros import Weights, clear_gradients, clear_moments, clear_weights

__all__ = ["GradualZeros", "leave_masked", "maskable"]


def maskable(model: nn.Module) -> dict[str, Tensor]:
    """Return the matrices of the layers' linears by module name; tables and head are not there."""
    return {name: linear.weight for name, linear in layer_linears(anatomy(model)).items()}


class GradualZeros(DelegatingObjective):
    """An objective under which more and more weights are zero.

    As published, a weight that is zero keeps the value that it had, aside and without gradients;
    where the others have fallen below it when zeros are chosen anew, it comes back.

    Args:
        inner: What is minimised.
        weights: The matrices, as `maskable` has them.
        ramp: How many weights are zero at which step.
        scores: What each weight is worth.
        scope: Among which weights the lowest are chosen.
    """

    def __init__(
        self, inner: Objective, weights: Weights, ramp: Ramp, scores: Scores, scope: Scope
    ) -> None:
        super().__init__(inner)
        self.weights, self.ramp, self.scores, self.scope = weights, ramp, scores, scope
        self.zeros: dict[str, Tensor] = {}
        """Which weights are zero now; empty before the first choice. Shape: as the matrices."""
        self.aside: dict[str, Tensor] = {}
        """Values of the weights that are zero, and 0 elsewhere. Shape: as the matrices."""

    def on_backward(self, model: nn.Module, step: int) -> None:
        """Take the gradients of the zeros away."""
        super().on_backward(model, step)
        if self.zeros:
            clear_gradients(self.weights, self.zeros)

    def on_step_end(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Set the zeros to zero; where the ramp says so, choose them anew before."""
        super().on_step_end(model, optimizer, step)
        if self.zeros:
            clear_weights(self.weights, self.zeros)
        if self.ramp.changes_at(step):
            self._choose(self.ramp.sparsity_at(step))
            clear_moments(optimizer, self.weights, self.zeros)

    @torch.no_grad()
    def _choose(self, sparsity: float) -> None:
        for name, aside in self.aside.items():
            self.weights[name].add_(aside)  # one of the two is zero
        scores = {name: self.scores(name, w.detach()) for name, w in self.weights.items()}
        self.zeros = zeros_by_score(scores, sparsity, self.scope)
        for name, weight in self.weights.items():
            self.aside[name] = weight.detach().masked_fill(~self.zeros[name], 0.0)
        clear_weights(self.weights, self.zeros)

    def state_dict(self) -> dict[str, Any]:
        """Return the inner objective's state, the zeros and the values aside."""
        return {"inner": self.inner.state_dict(), "zeros": self.zeros, "aside": self.aside}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.inner.load_state_dict(state["inner"])
        for name in ("zeros", "aside"):
            held = {key: t.to(self.weights[key].device) for key, t in state[name].items()}
            setattr(self, name, held)


def leave_masked(model: nn.Module) -> dict[str, int]:
    """Record the zeros of a trained model in place, where it has any.

    Returns their number in each matrix by the module's name.
    """
    weights = maskable(model)
    zeros = {name: int((weight == 0).sum()) for name, weight in weights.items()}
    if any(zeros.values()):
        apply_edit(model, counted_zeros(anatomy(model)))
    return zeros
