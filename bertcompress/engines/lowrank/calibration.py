"""The linears of the layers: which are dense, what they meet on calibration rows, what may stay.

For everything that makes them thin. A linear that several layers share is one, of the first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bertcompress.engines.pruning.importance import (
    frozen,
    head_of,
    head_outputs,
    model_inputs,
    sampled_loss,
)
from bertcompress.heads import Head
from bertcompress.shapes import LinearView, LowRank, ShapeError, anatomy
from bertcompress.support.progress import bar

__all__ = ["LinearStatistics", "Place", "dense_linears", "linear_statistics", "parameter_budget"]

Place = tuple[str, int]
"""Name of the linear in its family, and the layer that owns it."""
_Record = dict[Place, list[Tensor]]


@dataclass
class LinearStatistics:
    """What one linear met on the calibration rows. Means are over tokens and applications."""

    inputs: Tensor
    """Mean of x x'. Shape: (in, in)."""
    slope: float
    """Mean squared gradient of the loss at one output feature of one token."""
    rows: Tensor
    """Square root of the Fisher information of each row of the weight, summed over the row's
    features. The squared gradients are summed token by token: what the tokens of one text have in
    common (Hsu et al. square the sum over a text) is left out. Shape: (out,)."""
    times: int = 1
    """How often one token goes through it: more than once where layers share it."""


def linear_statistics(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    *,
    seed: int = 0,
    head: Head | None = None,
) -> dict[Place, LinearStatistics]:
    """Return what each linear of the layers meets: inputs, and gradients of a sampled loss.

    Answers are drawn from the model's own distribution, so no labels are needed. A linear that
    several layers share is one, of the first of them. Padding does not count. `head`: of the task,
    which draws the answers; None: as the model's config tells. Raises ModelError for a model that
    does not classify or score whole texts.
    """
    places = dense_linears(model)
    layers = anatomy(model).layers
    extra = {(name, layer) for name, layer in places if name in layers[layer].extra_inputs}
    device = next(model.parameters()).device
    moments = {
        place: torch.zeros(linear.in_features, linear.in_features, device=device)
        for place, linear in places.items()
    }
    slopes = dict.fromkeys(places, 0.0)
    rows = {p: torch.zeros(linear.out_features, device=device) for p, linear in places.items()}
    met = dict.fromkeys(places, 0)
    times = dict.fromkeys(places, 1)
    loss = sampled_loss(head_of(model, head), seed)
    with _judged(model), frozen(model):
        for batch in bar(batches, "looking at the linears"):
            inputs = model_inputs(model, batch)
            mask = inputs["attention_mask"].bool()
            with _recorded(places, extra, mask.shape) as (seen, made), torch.enable_grad():
                torch.autograd.backward(loss(batch, head_outputs(model, inputs, loss.head)).sum())
            for place, pairs in seen.items():
                times[place] = len(pairs)
                for x, y in zip(pairs, made[place], strict=True):
                    met[place] += int(mask.sum())
                    features = x[mask].float()
                    moments[place] += features.T @ features
                    if y.grad is not None:
                        gradient = y.grad[mask].float()
                        slopes[place] += float(gradient.pow(2).mean(1).sum())
                        # Of one token the squared gradient of row i sums to g_i^2 |x|^2.
                        rows[place] += (gradient.pow(2) * features.pow(2).sum(1, True)).sum(0)
    return {
        place: LinearStatistics(
            moments[place] / met[place],
            slopes[place] / met[place],
            rows[place].sqrt(),
            times[place],
        )
        for place in places
    }


@contextlib.contextmanager
def _judged(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode for a while, with a graph that begins behind its embeddings."""
    was_training = model.training
    model.eval()
    # Without weight gradients the graph has to begin somewhere.
    embeddings = anatomy(model).embeddings.module
    start = embeddings.register_forward_hook(lambda _, __, out: out.requires_grad_())
    try:
        yield
    finally:
        start.remove()
        model.train(was_training)


def dense_linears(model: nn.Module) -> dict[Place, nn.Linear]:
    """Return the linears of the layers that are not factorised; a shared one once."""
    found = {place: linear.module for place, linear in _owned(model) if linear.replaceable}
    return {place: module for place, module in found.items() if isinstance(module, nn.Linear)}


def _owned(model: nn.Module) -> Iterator[tuple[Place, LinearView]]:
    """Yield each linear of the layers, dense, factorised or cut away; a shared one once."""
    view = anatomy(model)
    layers = [layer.linears for layer in view.layers]
    for name in view.linear_names:
        for i, owner in enumerate(view.owners(name)):
            if owner == i:
                yield (name, i), layers[i][name]


@contextlib.contextmanager
def _recorded(
    places: Mapping[Place, nn.Linear], extra: Collection[Place], tokens: torch.Size
) -> Iterator[tuple[_Record, _Record]]:
    """Keep inputs and outputs of linears while the context lasts, one per application.

    `extra`: linears that also take what is no state of a token, see `Family.extra_inputs`; such an
    input is left out. `tokens`: the shape of the mask, (B, T).
    """
    seen: _Record = {place: [] for place in places}
    made: _Record = {place: [] for place in places}

    def hook(place: Place) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def keep(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if place in extra and args[0].shape[:-1] != tokens:
                return
            seen[place].append(args[0].detach())
            output.retain_grad()
            made[place].append(output)

        return keep

    handles = [linear.register_forward_hook(hook(place)) for place, linear in places.items()]
    try:
        yield seen, made
    finally:
        for handle in handles:
            handle.remove()


def parameter_budget(model: nn.Module, keep: float, method: str) -> float:
    """Return the parameters that the dense linears may keep, for a share of all the linears.

    The share is of what the linears of the layers take where none is factorised; what is thin
    already stays as it is and counts. Raises ShapeError, in the name of the method, for no share,
    where no linear is dense, and where rank 1 everywhere is more than that.
    """
    full = taken = least = 0
    for _, view in _owned(model):
        linear = view.module
        if not isinstance(linear, nn.Linear | LowRank) or not view.replaceable:
            continue
        rows, columns = linear.out_features, linear.in_features
        price, dense = rows + columns, rows * columns
        full += dense
        if isinstance(linear, LowRank):
            taken += linear.rank * price
        else:
            least += min(price, dense)
    if not least:
        raise ShapeError(
            f"{method}: no linear of the layers is dense: they are factorised already, or cut"
        )
    if not 0 < keep <= 1:
        raise ShapeError(f"{method}: keep {keep}: a share is above 0 and up to 1")
    if least + taken > keep * full:
        raise ShapeError(
            f"{method}: keep {keep}: rank 1 everywhere is {(least + taken) / full:.3f} already"
            + (", with what is factorised already" if taken else "")
        )
    return keep * full - taken
