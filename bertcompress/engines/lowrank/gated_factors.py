"""Linears as sums of gated rank-1 components: split at full rank, gate, and fold what is kept.

What `flop` trains (Wang et al. 2019, 1910.04732), usable with any training. A component is one
column of the second factor and one row of the first; axis U of its gate counts components.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bertcompress.engines.l0_gates import HardConcrete, gate_inputs, keep_within
from bertcompress.engines.lowrank.calibration import (
    LinearStatistics,
    Place,
    dense_linears,
    linear_statistics,
)
from bertcompress.engines.lowrank.svd import components
from bertcompress.heads import Head
from bertcompress.shapes import LowRank, LowRanks, ShapeError, anatomy, apply_edit

__all__ = ["Gated", "fold", "gates_in", "put_factors", "put_gates", "split"]

INITIAL_LOCATIONS = 2.5, 4.6
"""Location of the gates at first, from the least to the most valuable: all evaluate to 1."""

STEEPNESS = 4.0
"""Of the gates' location in the logarithm of a component's saliency, see `Gated.aim`."""


@dataclass(frozen=True)
class Gated:
    """A gate for every linear of the layers, and what is needed to count its size."""

    gates: dict[Place, HardConcrete]
    dense: dict[Place, int]
    """Parameters of each matrix before it was split."""
    prices: dict[Place, int]
    """Parameters of one component: in + out."""
    saliency: dict[Place, Tensor]
    """What leaving a component out costs, per parameter. Shape: (U,) each."""
    room: float
    """Parameters that all of these matrices may have in the end."""

    @property
    def full(self) -> int:
        """Parameters with every gate open: more than dense."""
        return sum(len(g.log_alpha) * self.prices[p] for p, g in self.gates.items())

    @torch.no_grad()
    def open_to_budget(self) -> None:
        """Set the gates, in place, to open what an SVD of the size would keep, and close the rest.

        Only those near the threshold are uncertain, so that the training is at the size from its
        first step: gates in between are noise, and what closes late is not recovered from.
        """
        rates = torch.cat([*self.saliency.values()]).double()
        prices = torch.cat(
            [torch.full_like(each, self.prices[p]) for p, each in self.saliency.items()]
        ).double()
        order = rates.argsort(descending=True)
        last = int((prices[order].cumsum(0) <= self.room).sum().clamp(1, len(order))) - 1
        location = STEEPNESS * torch.log(rates.clamp_min(1e-30) / rates[order[last]])
        sizes = [len(each) for each in self.saliency.values()]
        for place, part in zip(self.saliency, torch.split(location, sizes), strict=True):
            self.gates[place].log_alpha.copy_(part)
            self.gates[place].constrain()

    def kept(self) -> dict[Place, list[int]]:
        """Return the components of each matrix that stay, the most open of all, for the size.

        A matrix whose components would take as much as it did before keeps all: it is dense again.
        """
        budget = self.room
        dense: dict[Place, list[int]] = {}
        while True:
            thin = [place for place in self.gates if place not in dense]
            gates, prices = [self.gates[p] for p in thin], [self.prices[p] for p in thin]
            found = dict(zip(thin, keep_within(gates, prices, budget, at_least=1), strict=True))
            full = [p for p in thin if len(found[p]) * self.prices[p] >= self.dense[p]]
            if not full:
                return dense | found
            for place in full:
                dense[place] = list(range(len(self.gates[place].log_alpha)))
                budget -= self.dense[place]


def split(
    model: nn.Module,
    room: float,
    batches: Sequence[Mapping[str, Tensor]] = (),
    *,
    seed: int = 0,
    head: Head | None = None,
) -> Gated:
    """Split the linears of the layers at full rank, in place, and return a gate for each.

    `room`: parameters that they may have in the end; `head`: of the task, which draws the answers
    that components are ranked by. Raises ShapeError for a model without a dense linear.
    """
    linears = dense_linears(model)
    if not linears:
        raise ShapeError("every linear of the layers is factorised already")
    seen = linear_statistics(model, batches, seed=seed, head=head) if batches else {}
    made = {
        place: components(linear.weight, seen[place].inputs if place in seen else None)
        for place, linear in linears.items()
    }
    dense = {place: linear.weight.numel() for place, linear in linears.items()}
    prices = {place: sum(linear.weight.shape) for place, linear in linears.items()}
    put_factors(model, made)
    gates = {
        place: HardConcrete(left.shape[1]).to(left.device) for place, (left, _) in made.items()
    }
    saliency = {place: _saliency(*made[place], seen.get(place)) / prices[place] for place in gates}
    _rank(gates, saliency)
    return Gated(gates, dense, prices, saliency, room)


def _saliency(left: Tensor, right: Tensor, seen: LinearStatistics | None) -> Tensor:
    """Return what leaving each component out costs, by its outputs and their slope. Shape: (U,)."""
    left, right = left.float(), right.float()
    reach = right.pow(2).sum(1) if seen is None else ((right @ seen.inputs) * right).sum(1)
    return left.pow(2).sum(0) * reach * (seen.slope * seen.times if seen is not None else 1.0)


@torch.no_grad()
def _rank(gates: Mapping[Place, HardConcrete], saliency: Mapping[Place, Tensor]) -> None:
    """Open the gates, in place, the wider the more a component is worth per parameter.

    All evaluate to 1 still; what is worth least is nearest to closing.
    """
    order = torch.cat([saliency[place] for place in gates]).argsort().argsort()
    share = (order + 1) / len(order)
    low, high = INITIAL_LOCATIONS
    parts = torch.split(
        low + (high - low) * share, [len(gate.log_alpha) for gate in gates.values()]
    )
    for gate, part in zip(gates.values(), parts, strict=True):
        gate.log_alpha.copy_(part)


def put_factors(model: nn.Module, made: Mapping[Place, tuple[Tensor, Tensor]]) -> None:
    """Put factors in the place of linears, in place. Shape: (out, rank), (rank, in) of each."""
    if not made:
        return
    view = anatomy(model)
    ranks = {place: left.shape[1] for place, (left, _) in made.items()}
    rows = {
        part: [ranks.get((part, owner), 0) for owner in view.owners(part)]
        for part in view.linear_names
    }
    apply_edit(model, LowRanks({part: row for part, row in rows.items() if any(row)}))
    for (part, layer), (left, right) in made.items():
        thin = anatomy(model).layers[layer].linears[part].module
        assert isinstance(thin, LowRank)
        with torch.no_grad():
            thin.first.weight.copy_(right)
            thin.second.weight.copy_(left)


def put_gates(model: nn.Module, gates: Mapping[Place, HardConcrete]) -> list[RemovableHandle]:
    """Multiply the components of a split model by their gates, until the handles are removed."""
    layers = anatomy(model).layers
    return [
        gate_inputs(layers[layer].linears[part].module.get_submodule("second"), gate)
        for (part, layer), gate in gates.items()
    ]


@contextlib.contextmanager
def gates_in(model: nn.Module, gates: Mapping[Place, HardConcrete]) -> Iterator[None]:
    """Multiply the components of a split model by their gates while the context lasts."""
    handles = put_gates(model, gates)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def fold(
    model: nn.Module,
    trained: nn.Module,
    gates: Mapping[Place, HardConcrete],
    kept: Mapping[Place, Sequence[int]],
) -> None:
    """Give `model`, in place, the weights of its split and trained copy: the kept components.

    The gates' values go into them. A matrix that keeps all of its components stays dense.
    """
    model.load_state_dict(trained.state_dict(), strict=False)  # what has the same name
    layers, thin = anatomy(trained).layers, {}
    for place, linear in dense_linears(model).items():
        part, layer = place
        source = layers[layer].linears[part].module
        assert isinstance(source, LowRank)
        if linear.bias is not None:
            linear.bias.copy_(source.second.bias)
        # The gates are fp32, whatever the model is.
        left = (source.second.weight * gates[place].deterministic()).to(source.second.weight)
        right = source.first.weight
        if len(kept[place]) == source.rank:
            linear.weight.copy_(left @ right)
        else:
            index = torch.tensor(kept[place], device=left.device)
            thin[place] = left[:, index], right[index]
    put_factors(model, thin)
