"""Low rank where it costs least: factors of a matrix in the metric of its inputs, and the ranks.

A truncated SVD is the best approximation of a matrix; what matters is the best approximation of
what it does to the inputs that it meets: the SVD of `W L` with `L L' = E[x x']` (Denton et al.
2014, 1404.0736, section 3.2.2, "data covariance distance"; Wang et al. 2024, SVD-LLM, 2403.07378).
Rows may be weighted by their Fisher information instead (Hsu et al. 2022, FWSVD, 2207.00112).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bertcompress.bars import bar
from bertcompress.engines.importance import (
    class_logits,
    frozen,
    head_problem,
    model_inputs,
    sampled_loss,
)
from bertcompress.shapes import LINEARS, LowRank, ShapeError, anatomy

__all__ = [
    "LinearStatistics",
    "Metric",
    "Place",
    "Spectrum",
    "choose_ranks",
    "components",
    "dense_linears",
    "factors",
    "linear_statistics",
    "room_for",
    "spectrum",
]

Place = tuple[str, int]
"""Name of the linear in the anatomy table, and the layer that owns it."""
_Record = dict[Place, list[Tensor]]


Metric = Literal["activation", "fisher", "svd"]
"""In which factors are the best of a rank: what changes outputs least, important rows, weights."""


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
    model: nn.Module, batches: Sequence[Mapping[str, Tensor]], *, seed: int = 0
) -> dict[Place, LinearStatistics]:
    """Return what each linear of the layers meets: inputs, and gradients of a sampled loss.

    Answers are drawn from the model's own distribution, so no labels are needed. A linear that
    several layers share is one, of the first of them. Padding does not count. Raises ModelError for
    a head that does not classify or score whole texts.
    """
    places = dense_linears(model)
    device = next(model.parameters()).device
    moments = {
        place: torch.zeros(linear.in_features, linear.in_features, device=device)
        for place, linear in places.items()
    }
    slopes = dict.fromkeys(places, 0.0)
    rows = {p: torch.zeros(linear.out_features, device=device) for p, linear in places.items()}
    met = dict.fromkeys(places, 0)
    times = dict.fromkeys(places, 1)
    loss = sampled_loss(head_problem(model), seed)
    with _judged(model), frozen(model):
        for batch in bar(batches, "looking at the linears"):
            inputs = model_inputs(model, batch)
            mask = inputs["attention_mask"].bool()
            with _recorded(places) as (seen, made), torch.enable_grad():
                torch.autograd.backward(loss(batch, class_logits(model, inputs)).sum())
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
    embeddings = anatomy(model).base.get_submodule("embeddings")
    start = embeddings.register_forward_hook(lambda _, __, out: out.requires_grad_())
    try:
        yield
    finally:
        start.remove()
        model.train(was_training)


def dense_linears(model: nn.Module) -> dict[Place, nn.Linear]:
    """Return the linears of the layers that are not factorised; a shared one once."""
    view = anatomy(model)
    found: dict[Place, nn.Linear] = {}
    for part in LINEARS:
        for i, owner in enumerate(view.owners(part)):
            module = view.layers[i].get(part)
            if owner == i and isinstance(module, nn.Linear):
                found[part, i] = module
    return found


@contextlib.contextmanager
def _recorded(places: Mapping[Place, nn.Linear]) -> Iterator[tuple[_Record, _Record]]:
    """Keep inputs and outputs of linears while the context lasts, one per application."""
    seen: _Record = {place: [] for place in places}
    made: _Record = {place: [] for place in places}

    def hook(place: Place) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def keep(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
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


@dataclass
class Spectrum:
    """What each further rank of a matrix is worth."""

    gains: Tensor
    """Squared singular values in the metric: the error that each rank saves. Shape: (ranks,)."""
    price: int
    """Parameters of one rank: in + out."""
    dense: int
    """Parameters of the matrix itself."""
    weight: float = 1.0
    """What a unit of error costs, so that matrices can be compared."""

    @property
    def break_even(self) -> int:
        """The first rank that saves nothing."""
        return -(-self.dense // self.price)


def spectrum(
    weight: Tensor, seen: LinearStatistics | None = None, metric: Metric = "activation"
) -> Spectrum:
    """Return the spectrum of a matrix in a metric, with what its error costs in the loss.

    To second order a change D of the weight costs, per token, `slope` |D L|^2 with L L' = E[x x'],
    each time that a token goes through; or, where every feature of a row is taken for as important
    as the next, sum_i F_i |D_i|^2 / in. A plain SVD knows nothing of the loss: cost 1.
    """
    out, features = weight.shape
    matrix, cost = weight.detach().double(), 1.0
    if seen is not None and metric == "activation":
        matrix, cost = matrix @ _root(seen.inputs), seen.slope * seen.times
    elif seen is not None and metric == "fisher":
        matrix, cost = matrix * seen.rows.double()[:, None], 1.0 / features
    gains = torch.linalg.svdvals(matrix).pow(2)
    return Spectrum(gains, out + features, out * features, cost)


def room_for(model: nn.Module, keep: float) -> float:
    """Return the parameters that the dense linears may keep, for a share of all the linears.

    The share is of what the linears of the layers take where none is factorised; what is thin
    already stays as it is and counts. Raises ShapeError for no share, where no linear is dense, and
    where rank 1 everywhere is more than that.
    """
    view = anatomy(model)
    full = taken = least = 0
    for part in LINEARS:
        for i, owner in enumerate(view.owners(part)):
            linear: Any = view.layers[i].get(part)
            if owner != i or not isinstance(linear, nn.Linear | LowRank):
                continue
            rows, columns = linear.out_features, linear.in_features
            price, dense = rows + columns, rows * columns
            full += dense
            if isinstance(linear, LowRank):
                taken += linear.rank * price
            else:
                least += min(price, dense)
    if not least:
        raise ShapeError("no linear of the layers is dense: they are factorised already, or cut")
    if not 0 < keep <= 1:
        raise ShapeError(f"keep {keep}: a share is above 0 and up to 1")
    if least + taken > keep * full:
        raise ShapeError(
            f"keep {keep}: rank 1 everywhere is {(least + taken) / full:.3f} already"
            + (", with what is factorised already" if taken else "")
        )
    return keep * full - taken


def choose_ranks(spectra: Mapping[Place, Spectrum], room: float) -> dict[Place, int]:
    """Return the rank of each matrix, 0 where it stays dense, for so many parameters in all.

    Equal marginal loss: a rank is kept where its gain per parameter is above one threshold for all
    matrices. A matrix that would need its break-even rank or more stays as it is, since there two
    factors are no smaller. Raises ValueError where even rank 1 everywhere is more.
    """
    low, high = 0.0, max(float(_rates(each).max()) for each in spectra.values()) * 2
    for _ in range(100):
        middle = (low + high) / 2
        size = sum(_size(spectra[p], r) for p, r in _at(spectra, middle).items())
        low, high = (middle, high) if size > room else (low, middle)
    ranks = _at(spectra, high)
    if sum(_size(spectra[place], rank) for place, rank in ranks.items()) > room:
        raise ValueError(f"rank 1 everywhere is more than {room:g} parameters")
    return ranks


def _rates(each: Spectrum) -> Tensor:
    return each.gains * (each.weight / each.price)


def _at(spectra: Mapping[Place, Spectrum], threshold: float) -> dict[Place, int]:
    ranks = {}
    for place, each in spectra.items():
        rank = max(int((_rates(each) > threshold).sum()), 1)
        ranks[place] = 0 if rank >= each.break_even else rank
    return ranks


def _size(each: Spectrum, rank: int) -> int:
    return rank * each.price if rank else each.dense


def factors(
    weight: Tensor, rank: int, *, inputs: Tensor | None = None, rows: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the best factors of a rank in a metric, with the scale shared between them.

    With `inputs` (mean of x x') the mean squared change of the outputs is least; with `rows` the
    weighted change of the rows. Shape: (out, in) -> (out, rank), (rank, in).
    """
    matrix = weight.detach().double()
    if inputs is not None:
        root = _root(inputs)
        left, right = _truncated(matrix @ root, rank)
        product = torch.linalg.solve(root, right, left=False)
    elif rows is not None:
        scale = rows.double().clamp_min(float(rows.max()) * 1e-6 + 1e-30)[:, None]
        left, product = _truncated(matrix * scale, rank)
        left = left / scale
    else:
        left, product = _truncated(matrix, rank)
    return balanced(left, product, weight.dtype)


def components(weight: Tensor, inputs: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return factors of the full rank, whose product is the matrix: one component per unit.

    With `inputs` (mean of x x') each next component is the one that changes the outputs least when
    it is left out with all behind it. The two sides of a component have one norm, since a training
    has one learning rate for both. Shape: (out, in) -> (out, rank), (rank, in).
    """
    matrix = weight.detach().double()
    rank = min(matrix.shape)
    if inputs is None:
        left, right = _truncated(matrix, rank)
    else:
        root = _root(inputs)
        left, right = _truncated(matrix @ root, rank)
        right = torch.linalg.solve(root, right, left=False)
    norms = left.norm(dim=0).clamp_min(1e-30), right.norm(dim=1).clamp_min(1e-30)
    scale = (norms[1] / norms[0]).sqrt()
    return (left * scale).to(weight.dtype), (right / scale[:, None]).to(weight.dtype)


def _truncated(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return U S and V' of a rank, in double precision."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] * s[:rank], v[:rank]


def balanced(left: Tensor, right: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return factors of the same product whose columns and rows have equal norms.

    As they come out of a whitening, all the scale is on one side, and training with one learning
    rate for both wrecks them.
    """
    q_left, r_left = torch.linalg.qr(left)
    q_right, r_right = torch.linalg.qr(right.T)
    inner, rank = r_left @ r_right.T, left.shape[1]
    u, s, v = torch.linalg.svd(inner)
    root = s[:rank].sqrt()
    return (q_left @ u * root).to(dtype), (root[:, None] * (v @ q_right.T)).to(dtype)


def _root(moment: Tensor) -> Tensor:
    """Return L with L L' = the moment, made definite by a small ridge. Shape: (in, in).

    Of fewer tokens than features the moment is singular, and what its sum was rounded by may
    outweigh the ridge: then no direction gets less than the ridge.
    """
    moment = moment.double()
    ridge = 1e-6 * moment.diagonal().mean().clamp_min(1e-12)
    eye = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    root, problem = torch.linalg.cholesky_ex(moment + ridge * eye)
    if problem:
        values, vectors = torch.linalg.eigh(moment)
        root = vectors * values.clamp_min(ridge).sqrt()
    return root  # type: ignore[no-any-return]
