"""`BaseObjective`: what a training minimises, with hooks that do nothing until one is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bertcompress.method import Objective

__all__ = ["BaseObjective", "DelegatingObjective"]


class BaseObjective:
    """An objective that has no parameters, no state and no hooks; subclasses write the loss.

    The order of one optimizer step: `__call__` and backward for each of the accumulated batches,
    `on_backward`, clipping of the gradients, the optimizer, the schedule, `on_step_end`.
    """

    needs: frozenset[str] = frozenset()
    """What the model must return: of `hidden_states`, `attentions` (forces eager attention)."""
    learns_unlabelled: bool = False
    """Whether rows without labels teach anything: a teacher answers them. Else a training leaves
    out what has none: transfer text, and of a search documents that no query asks for."""

    taught: bool = False
    """Whether another model's answers are learned."""

    def __call__(
        self, model: nn.Module, batch: Mapping[str, Tensor], outputs: Any, step: int
    ) -> Tensor:
        """Return the scalar loss of one batch, the mean over its rows. Shape: ()."""
        raise NotImplementedError(f"{type(self).__name__} has no loss: write __call__")

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer groups of the objective's own parameters: here none."""
        return []

    def on_backward(self, model: nn.Module, step: int) -> None:
        """Change the gradients of the model in place; here they stay.

        They are those of the whole optimizer step: summed over accumulated batches, averaged over
        processes, not clipped yet. With `optimizer: sam` a step has two such gradients, the one
        that the weights climb along and the one that they are updated by, and this runs on both.
        `step`: optimizer steps that are finished.
        """

    def on_step_end(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Change weights or optimizer state in place after an optimizer step; here they stay.

        `step`: optimizer steps that are finished, this one included.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs: here nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""


class DelegatingObjective(BaseObjective):
    """Minimises what another objective does; subclasses add to it.

    State is that of the other objective. A subclass with its own state stores both.
    """

    def __init__(self, inner: Objective) -> None:
        self.inner = inner
        self.needs = inner.needs
        self.learns_unlabelled = getattr(inner, "learns_unlabelled", False)
        self.taught = getattr(inner, "taught", False)

    def __call__(
        self, model: nn.Module, batch: Mapping[str, Tensor], outputs: Any, step: int
    ) -> Tensor:
        """Return the loss of the inner objective. Shape: ()."""
        return self.inner(model, batch, outputs, step)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups of the inner objective."""
        return self.inner.parameter_groups()

    def on_backward(self, model: nn.Module, step: int) -> None:
        """Run the hook of the inner objective."""
        self.inner.on_backward(model, step)

    def on_step_end(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Run the hook of the inner objective."""
        self.inner.on_step_end(model, optimizer, step)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the inner objective."""
        return self.inner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Give the inner objective its state back."""
        self.inner.load_state_dict(state)
