"""One layer for several: the mean of their weights, with heads and neurons put in one order first.

The neurons of a layer may come in any order, and so may its heads: the layer computes the same. A
plain mean takes the first neuron of each layer for the same neuron, which trained layers know
nothing of. So each layer is brought into the order of the first by the assignment of its units that
is most like them, as Ainsworth et al. 2022, "Git Re-Basin" (2209.04836), section 3, do for whole
networks. Between layers of one model the residual stream is the same, and needs no matching.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from bertcompress.shapes import Units, anatomy

__all__ = ["Weights", "aligned", "mean_weights", "put_weights", "take_weights"]

Weights = dict[str, dict[str, Tensor]]
"""Linear (`query` ...) or norm (`ffn_norm` ...), then parameter, to a copy of its values."""


def take_weights(model: nn.Module, layer: int, halves: Sequence[str]) -> Weights:
    """Return copies of the parameters of these parts of a layer, `attention` or `ffn` or both."""
    view = anatomy(model)
    linears, norms = view.layers[layer].linears, view.layers[layer].norms
    names = [name for half in halves for name in view.family.units[half].linears]
    return {
        **{name: linears[name].values() for name in names},
        **{_norm(half): _copies(norms[half].state_dict()) for half in halves},
    }


def _norm(half: str) -> str:
    return f"{half}_norm"


def _copies(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in values.items()}


def put_weights(model: nn.Module, layer: int, weights: Weights) -> None:
    """Write such copies into a layer, in place."""
    view = anatomy(model).layers[layer]
    norms = {_norm(half): norm for half, norm in view.norms.items()}
    for name, values in weights.items():
        if name in norms:
            norms[name].load_state_dict(values)
        else:
            view.linears[name].load(values)


def mean_weights(each: Sequence[Weights]) -> Weights:
    """Return the mean, parameter by parameter."""
    return {
        part: {name: torch.stack([w[part][name] for w in each]).mean(0) for name in values}
        for part, values in each[0].items()
    }


def aligned(weights: Weights, like: Weights, units: Mapping[str, Units], head_size: int) -> Weights:
    """Return the same layer with its heads and neurons in the order that is most like another's.

    `units`: of each part, as the family has them.
    """
    out = {part: dict(values) for part, values in weights.items()}
    for each in units.values():
        if "weight" in out.get(each.into[0], {}):
            size = head_size if each.kind == "heads" else 1
            _reorder(out, like, each.into, each.out, size)
    return out


def _reorder(out: Weights, like: Weights, into: Sequence[str], back: str, size: int) -> None:
    """Permute units of `size` features: rows of the linears into them, columns of the one back."""
    order = _matching(_units(out, into, back, size), _units(like, into, back, size))
    index = (order[:, None] * size + torch.arange(size)).reshape(-1)
    for part in into:
        for name, value in out[part].items():
            out[part][name] = value[index]
    out[back]["weight"] = out[back]["weight"][:, index]


def _units(weights: Weights, into: Sequence[str], back: str, size: int) -> Tensor:
    """Return everything that belongs to each unit, as one row. Shape: (units, features)."""
    rows = [value.reshape(value.shape[0], -1) for part in into for value in weights[part].values()]
    wide = torch.cat([*rows, weights[back]["weight"].T], dim=1)
    return wide.reshape(wide.shape[0] // size, -1)


def _matching(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return for each unit of the other the one of ours that goes there. Shape: (units,)."""
    alike = theirs.float() @ ours.float().T
    _, chosen = linear_sum_assignment(alike.cpu().numpy(), maximize=True)
    return torch.as_tensor(chosen)
