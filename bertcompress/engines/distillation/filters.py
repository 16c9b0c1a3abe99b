"""Task-aware filters: what of a hidden state the task needs, and nothing else (TED).

Liang et al. 2023 (2210.01351): a linear map of each layer that is compared, learned with a head of
its own on the labels while the model stands still. A student then follows its teacher in what both
filters let through. Axes: B rows, T tokens, H width, F width of the filters, K outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bertcompress.errors import DataError
from bertcompress.heads import Head
from bertcompress.training import BaseObjective

__all__ = ["FilterLoss", "FilteredStates", "TaskFilters"]


class TaskFilters(nn.Module):
    """A linear map for each of some hidden states, each with a head that it is learned by."""

    def __init__(
        self, states: Sequence[int], width: int, filtered: int, outputs: int, seed: int = 0
    ) -> None:
        """Draw filters by the seed. `states`: which hidden states, embeddings 0."""
        super().__init__()
        self.states = tuple(states)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.maps = nn.ModuleList(nn.Linear(width, filtered) for _ in self.states)
            self.heads = nn.ModuleList(nn.Linear(filtered, outputs) for _ in self.states)

    def answers(self, hidden_states: Sequence[Tensor], by_token: bool) -> list[Tensor]:
        """Return the outputs of each head: for the first token, or for all.

        Shape: (B, T, H) each -> (B, K) each, or (B, T, K).
        """
        shown = [hidden_states[n] if by_token else hidden_states[n][:, 0] for n in self.states]
        return [
            head(each(states.float()))
            for head, each, states in zip(self.heads, self.maps, shown, strict=True)
        ]

    def filtered(self, hidden_states: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
        """Return what the filters let through of real tokens. Shape: (B, T, H) -> (tokens, F)."""
        real = mask.bool()
        return [each(hidden_states[n][real].float())
                for each, n in zip(self.maps, self.states, strict=True)]  # fmt: skip


class FilterLoss(BaseObjective):
    """The labels' loss of each filter's own head, mean over filters; the model stands still."""

    needs = frozenset({"hidden_states"})

    def __init__(self, filters: TaskFilters, head: Head) -> None:
        self.filters = filters
        self.head = head

    def __call__(
        self, model: nn.Module, batch: Mapping[str, Tensor], outputs: Any, step: int
    ) -> Tensor:
        """Return the loss. Raises DataError without labels."""
        if "labels" not in batch:
            raise DataError("ted: filters are learned on labels, and the rows have none")
        by_token = self.head.output_axes == 3
        answers = self.filters.answers(outputs["hidden_states"], by_token)
        losses = [self.head.loss(each, batch) for each in answers]
        return torch.stack(losses).mean()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the filters' parameters."""
        return [{"params": list(self.filters.parameters())}]

    def state_dict(self) -> dict[str, Any]:
        """Return the filters' weights."""
        return dict(self.filters.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back the filters' weights."""
        self.filters.load_state_dict(dict(state))


class FilteredStates(nn.Module):
    """How far a student's hidden states are from its teacher's behind the filters of both.

    The student's maps are its parameters; those of the teacher stay as they were learned.
    """

    def __init__(self, student: TaskFilters, teacher: TaskFilters) -> None:
        super().__init__()
        self.student = student.maps
        self._of_each = student, teacher.requires_grad_(False)  # a tuple: not registered

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
        """Return the mean squared error over filters, real tokens and width.

        Shape: hidden states (B, T, H) each, mask (B, T) -> ().
        """
        mine, theirs = (
            filters.filtered(states, mask)
            for filters, states in zip(self._of_each, (student, teacher), strict=True)
        )
        losses = [functional.mse_loss(a, b) for a, b in zip(mine, theirs, strict=True)]
        return torch.stack(losses).mean()
