"""Gates that learn which units to keep, and a controller that holds their number to a size.

Hard-concrete gates: Louizos et al. 2018, arXiv:1712.01312, equations 10 to 13. The controller is
the augmented Lagrangian of FLOP (Wang et al. 2019, arXiv:1910.04732), which CoFi (Xia
et al. 2022, arXiv:2204.00408) took over. A unit is whatever is kept or cut as one: a rank-1
component, an attention head, a neuron. Axis U: the units of one gate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bertcompress.errors import InputError
from bertcompress.method import Objective
from bertcompress.training.objective import DelegatingObjective

__all__ = [
    "GatedObjective",
    "HardConcrete",
    "SizeController",
    "expected_size",
    "gate_inputs",
    "keep_within",
]


_FARTHEST = math.log(100)


class HardConcrete(nn.Module):
    """One random gate in [0, 1] per unit, exactly 0 and exactly 1 with positive probability.

    Args:
        units: Number of units U.
        openness: P(z > 0) of every gate at first, between 0 and 1. With the other defaults a gate
            is 1 in evaluation from 0.982 on, so that putting the gates in changes nothing there.
        temperature: beta; the lower, the closer to a coin.
        low: gamma, below 0: where the stretched variable starts.
        high: zeta, above 1: where it ends.

    Raises:
        InputError for numbers outside these ranges.
    """

    def __init__(
        self,
        units: int,
        *,
        openness: float = 0.99,
        temperature: float = 2 / 3,
        low: float = -0.1,
        high: float = 1.1,
    ) -> None:
        super().__init__()
        if not (0 < openness < 1 and temperature > 0 and low < 0 and high > 1):
            raise InputError(
                f"hard-concrete gates: openness {openness}, temperature {temperature}, low {low}, "
                f"high {high}; allowed: 0 < openness < 1, 0 < temperature, low < 0, 1 < high"
            )
        self.temperature, self.low, self.high = temperature, low, high
        start = math.log(openness / (1 - openness)) + self._shift
        self.log_alpha = nn.Parameter(torch.full((units,), start))
        """Location of each gate; the higher, the more open. Shape: (U,)."""

    @property
    def _shift(self) -> float:
        return self.temperature * math.log(-self.low / self.high)

    def sample(self) -> Tensor:
        """Draw the gates (equations 10 and 11), differentiable in `log_alpha`. Shape: (U,)."""
        tiny = torch.finfo(self.log_alpha.dtype).eps
        noise = torch.rand_like(self.log_alpha).clamp(tiny, 1 - tiny)
        return self._stretch((torch.logit(noise) + self.log_alpha) / self.temperature)

    def deterministic(self) -> Tensor:
        """Return the gates to evaluate with (equation 13). Shape: (U,)."""
        return self._stretch(self.log_alpha)

    def expected_open(self) -> Tensor:
        """Return P(z > 0) of each gate (equation 12). Shape: (U,)."""
        return torch.sigmoid(self.log_alpha - self._shift)

    def counted(self) -> Tensor:
        """Return by how much each gate counts: P(z > 0), 0 and 1 at the ends of its range.

        As closed as `constrain` lets it be, a gate has P(z > 0) = 0.05. Thousands of those are more
        than a small size has room for, and would close what is to stay. Shape: (U,).
        """
        least, most = (1 / (1 + math.exp(self._shift - end)) for end in (-_FARTHEST, _FARTHEST))
        return (self.expected_open() - least) / (most - least)

    def kept(self, count: int | None = None) -> list[int]:
        """Return the units that stay, ascending: the `count` most open, or all not closed."""
        if count is None:
            return torch.nonzero(self.deterministic() > 0).flatten().tolist()
        order = torch.argsort(self.log_alpha.detach(), descending=True, stable=True)
        return sorted(order[:count].tolist())

    def constrain(self) -> None:
        """Keep `log_alpha` within +-log(100), in place: a gate beyond learns nothing any more.

        The authors' code does the same after each step. A gate at the lower end is still open in
        one of twenty draws: see `counted`.
        """
        with torch.no_grad():
            self.log_alpha.clamp_(-_FARTHEST, _FARTHEST)

    def forward(self) -> Tensor:
        """Return drawn gates in training, else those to evaluate with. Shape: (U,)."""
        return self.sample() if self.training else self.deterministic()

    def _stretch(self, location: Tensor) -> Tensor:
        stretched = torch.sigmoid(location) * (self.high - self.low) + self.low
        return stretched.clamp(0, 1)


def gate_inputs(module: nn.Module, gate: HardConcrete, size: int = 1) -> RemovableHandle:
    """Multiply the input features of `module` by the gates, until the handle is removed.

    Drawn while `module` trains, else those to evaluate with: the gate itself is no part of the
    model, so that neither its checkpoints nor its optimizer groups hold it.

    Args:
        module: Takes features (..., U * size).
        gate: Of U units.
        size: Features per unit: 1 for a rank or a neuron, the head size for a head.
    """

    def hook(owner: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        gates = gate.sample() if owner.training else gate.deterministic()
        features = args[0]
        return (features * gates.repeat_interleave(size).to(features.dtype), *args[1:])

    return module.register_forward_pre_hook(hook)


def expected_size(gates: Sequence[HardConcrete], costs: Sequence[float]) -> Tensor:
    """Return the size of all units by how open they are; `costs[i]` is of one unit of `gates[i]`.

    In expectation, but for what closed gates cannot help: see `HardConcrete.counted`.
    """
    sizes = [cost * gate.counted().sum() for gate, cost in zip(gates, costs, strict=True)]
    return torch.stack(sizes).sum()


def keep_within(
    gates: Sequence[HardConcrete], costs: Sequence[float], size: float, at_least: int = 0
) -> list[list[int]]:
    """Return the units of each gate that stay: the most open of all, while `size` allows.

    A unit too large for what is left is passed over for the next; `at_least` of each gate stay
    whatever they cost. Use it to end a training on the size exactly, whatever the gates came to.
    """
    kept: list[list[int]] = [gate.kept(at_least) for gate in gates]
    left = size - sum(cost * len(units) for cost, units in zip(costs, kept, strict=True))
    every = sorted(
        (-value, i, unit)
        for i, gate in enumerate(gates)
        for unit, value in enumerate(gate.log_alpha.tolist())
        if unit not in kept[i]
    )
    for _, i, unit in every:
        if costs[i] <= left:
            left -= costs[i]
            kept[i].append(unit)
    return [sorted(units) for units in kept]


class SizeController(nn.Module):
    """Holds an expected size s to a target t: adds l1 (s - t) + l2 (s - t)^2 to the loss.

    The loss is minimised over the model and maximised over the multipliers l1 and l2, which start
    at 0; s - t is a fraction of the full size, so that their rate does not depend on the model's.

    The ascent is in the penalty, where the multipliers' gradient is negated, not in the optimizer.
    `maximize=True` in a group of torch's AdamW (fused too) would do the same inside `fit`, but the
    optimizer of a user's own `Trainer` may not know this option, and then descend without a word:
    a negative multiplier rewards being too large.

    Args:
        full: Size with all gates open, above 0.
        target: Size to reach, from 0 to `full`.
        warmup_steps: Steps over which t falls linearly from `full` to `target`; a fifth of all
            steps leaves time to settle.
        learning_rate: Of the multipliers; 0.3 for Adam and losses of about 1, much above that of
            the weights.

    Raises:
        InputError for sizes outside these ranges.
    """

    def __init__(
        self, full: float, target: float, *, warmup_steps: int = 0, learning_rate: float = 0.3
    ) -> None:
        super().__init__()
        if not (0 <= target <= full and full > 0 and warmup_steps >= 0):
            raise InputError(
                f"size controller: target {target:g} of {full:g} in {warmup_steps} steps; allowed: "
                "0 <= target <= full, 0 < full, 0 <= warmup_steps"
            )
        self.full, self.target = float(full), float(target)
        self.warmup_steps, self.learning_rate = warmup_steps, learning_rate
        self.linear = nn.Parameter(torch.zeros(()))
        """l1. Shape: ()."""
        self.quadratic = nn.Parameter(torch.zeros(()))
        """l2. Shape: ()."""

    def target_at(self, step: int) -> float:
        """Return t after `step` optimizer steps."""
        done = min(step / self.warmup_steps, 1.0) if self.warmup_steps else 1.0
        return self.full + (self.target - self.full) * done

    def penalty(self, size: Tensor, step: int) -> Tensor:
        """Return what to add to the loss. Shape: size (), result ()."""
        gap = (size - self.target_at(step)) / self.full
        return _ascend(self.linear) * gap + _ascend(self.quadratic) * gap**2

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer group of the multipliers, with their own rate and no decay."""
        return [{"params": [*self.parameters()], "lr": self.learning_rate, "weight_decay": 0.0}]


def _ascend(multiplier: Tensor) -> Tensor:
    """The same number with the opposite gradient."""
    return 2 * multiplier.detach() - multiplier


class GatedObjective(DelegatingObjective):
    """An objective, and besides it the gates and the controller of their size.

    The gates' own effect on the model comes from `gate_inputs`. Gates and controller have to be on
    the model's device.

    Args:
        inner: What is minimised under the constraint on the size.
        gates: All gates that count.
        costs: Size of one unit of each gate, in the controller's unit.
        controller: Holds the expected size to its target.
        learning_rate: Of the gates.
    """

    def __init__(
        self,
        inner: Objective,
        gates: Sequence[HardConcrete],
        costs: Sequence[float],
        controller: SizeController,
        *,
        learning_rate: float = 0.1,
    ) -> None:
        super().__init__(inner)
        self.gates = tuple(gates)
        self.costs = tuple(costs)
        self.controller = controller
        self.learning_rate = learning_rate

    def expected_size(self) -> Tensor:
        """Return the expected size of what the gates leave open. Shape: ()."""
        return expected_size(self.gates, self.costs)

    def __call__(
        self, model: nn.Module, batch: Mapping[str, Tensor], outputs: Any, step: int
    ) -> Tensor:
        """Return the inner loss and the penalty."""
        loss = self.inner(model, batch, outputs, step)
        return loss + self.controller.penalty(self.expected_size(), step)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the inner objective's groups, the gates and the multipliers."""
        gates = {"params": [gate.log_alpha for gate in self.gates], "lr": self.learning_rate}
        return [
            *self.inner.parameter_groups(),
            gates | {"weight_decay": 0.0},
            *self.controller.parameter_groups(),
        ]

    def on_step_end(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Run the inner objective's hook and keep the gates where they can learn."""
        super().on_step_end(model, optimizer, step)
        for gate in self.gates:
            gate.constrain()

    def state_dict(self) -> dict[str, Any]:
        """Return the inner objective's state, the gates and the multipliers."""
        return {
            "inner": self.inner.state_dict(),
            "gates": dict(nn.ModuleList(self.gates).state_dict()),
            "controller": dict(self.controller.state_dict()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.inner.load_state_dict(state["inner"])
        nn.ModuleList(self.gates).load_state_dict(state["gates"])
        self.controller.load_state_dict(state["controller"])
