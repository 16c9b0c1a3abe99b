"""Low rank where it costs least: factors of a matrix in the metric of its inputs, and the ranks.

A truncated SVD is the best approximation of a matrix; what matters is the best approximation of
what it does to the inputs that it meets: the SVD of `W L` with `L L' = E[x x']` (Denton et al.
2014, 1404.0736, section 3.2.2, "data covariance distance"; Wang et al. 2024, SVD-LLM, 2403.07378).
Rows may be weighted by their Fisher information instead (Hsu et al. 2022, FWSVD, 2207.00112).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bertcompress.engines.lowrank.calibration import LinearStatistics, Place
from bertcompress.shapes import ShapeError

__all__ = ["Metric", "Spectrum", "choose_ranks", "components", "factors", "spectrum"]

Metric = Literal["activation", "fisher", "svd"]
"""In which factors are the best of a rank: what changes outputs least, important rows, weights."""


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


def choose_ranks(spectra: Mapping[Place, Spectrum], room: float) -> dict[Place, int]:
    """Return the rank of each matrix, 0 where it stays dense, for so many parameters in all.

    Equal marginal loss: a rank is kept where its gain per parameter is above one threshold for all
    matrices. A matrix that would need its break-even rank or more stays as it is, since there two
    factors are no smaller. Raises ShapeError where even rank 1 everywhere is more.
    """
    low, high = 0.0, max(float(_rates(each).max()) for each in spectra.values()) * 2
    for _ in range(100):
        middle = (low + high) / 2
        size = sum(_size(spectra[p], r) for p, r in _at(spectra, middle).items())
        low, high = (middle, high) if size > room else (low, middle)
    ranks = _at(spectra, high)
    if sum(_size(spectra[place], rank) for place, rank in ranks.items()) > room:
        raise ShapeError(f"rank 1 everywhere is more than {room:g} parameters")
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
