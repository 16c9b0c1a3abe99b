"""The divergence of two softmaxes of products, and its gradient, a few matrices at a time.

Relations among tokens are matrices of T x T for each head. What they cost is not their products but
writing and reading them, and finding memory for them: here a few are formed, compared,
differentiated and forgotten, while they are in the processor's cache. Nothing of their size is kept
for the backward pass.

Axes: N texts and heads, T tokens, D features of a head.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["divergence_of_products"]

_MASKED = 1e9
_CACHED = 2**17
"""Numbers of the matrices that are in hand at a time; on a GPU 64 times as many."""


def divergence_of_products(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], mask: Tensor, heads: int
) -> Tensor:
    """Return the sum of KL(softmax(teacher's A B^T / sqrt(D)) || softmax(student's)) over rows.

    Of the teacher nothing is differentiated. Shape: each (N, T, D), D of student and teacher may
    differ; mask (N / heads, T), 0 for padding, whose rows and columns do not count -> ().
    """
    with torch.autocast(mask.device.type, enabled=False):  # differences of scores, not products
        total: Tensor = _Divergence.apply(  # type: ignore[no-untyped-call]
            *student, *teacher, mask.bool(), heads
        )
    return total


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, one: Tensor, two: Tensor, first: Tensor, second: Tensor, real: Tensor, heads: int
    ) -> Tensor:
        shown = None if bool(real.all()) else real.repeat_interleave(heads, 0)[:, :, None].to(one)
        learns = one.requires_grad or two.requires_grad
        to_one, to_two = (torch.empty_like(each) if learns else None for each in (one, two))
        ours, theirs = _factors(one, two, shown), _factors(first, second, shown)
        asking = one if shown is None else one * shown  # padding asks for nothing
        total = one.new_zeros(())
        most = _CACHED if one.device.type == "cpu" else 64 * _CACHED
        step = max(1, most // one.shape[1] ** 2)
        for start in range(0, len(one), step):
            at = slice(start, start + step)
            scores = (torch.bmm(each[0][at], each[1][at]) for each in (ours, theirs))
            apart, gradient = _compared(*scores)
            total += (apart if shown is None else apart * shown[at, :, 0]).sum()
            if to_one is not None and to_two is not None:
                torch.bmm(gradient, two[at], out=to_one[at])
                torch.bmm(gradient.transpose(1, 2), asking[at], out=to_two[at])
        if to_one is not None:
            to_one = to_one if shown is None else to_one.mul_(shown)
            ctx.save_for_backward(to_one, to_two)
        return total

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        to_one, to_two = ctx.saved_tensors
        scale = outer / math.sqrt(to_one.shape[-1])
        return to_one * scale, to_two * scale, None, None, None, None


def _factors(one: Tensor, two: Tensor, shown: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return two factors whose product is A B^T / sqrt(D), very small in the columns of padding.

    A further feature masks them: writing into the product would take longer than the product.
    With E = D, or D + 1 of padded texts: shape (N, T, D) twice; shown (N, T, 1), 0 for padding ->
    (N, T, E), (N, E, T).
    """
    one = one / math.sqrt(one.shape[-1])
    if shown is not None:
        one, two = (
            torch.cat([each, more], -1)
            for each, more in ((one, torch.ones_like(shown)), (two, (shown - 1) * _MASKED))
        )
    return one, two.transpose(1, 2)


def _compared(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the divergence of each row of scores, and its gradient for ours.

    KL = <p, s - r> + logsumexp(r) - logsumexp(s), of the teacher's scores s and probabilities p and
    ours r. Overwrites `theirs`. Shape: (N, T, T) twice -> (N, T), (N, T, T).
    """
    wanted, gradient = theirs.softmax(-1), ours.softmax(-1)
    # Of the largest score the probability is exp(score - logsumexp): no further exponentials.
    sizes = [
        scores.amax(-1) - each.amax(-1).log()
        for scores, each in ((ours, gradient), (theirs, wanted))
    ]
    apart = torch.linalg.vecdot(wanted, theirs.sub_(ours)) + sizes[0] - sizes[1]
    return apart, gradient.sub_(wanted)
