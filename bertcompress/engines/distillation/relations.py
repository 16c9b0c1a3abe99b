"""Losses on what happens inside attention: relations among tokens, attention scores, first tokens.

Axes: B rows, T tokens, W features of a projection (heads x head size), H hidden size. Queries, keys
and values are computed anew from the hidden states that a model returns: three linears for a layer,
where hooks would have to stand in the model before its forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from bertcompress.engines.distillation.fused_kl import divergence_of_products
from bertcompress.errors import ModelError
from bertcompress.method import Projections
from bertcompress.shapes import LinearView, anatomy

__all__ = [
    "Relation",
    "attention_loss",
    "patient_loss",
    "projections",
    "relation_heads",
    "relation_loss",
]

Relation = Literal["query", "key", "value", "query_key"]
"""Which two projections are compared with each other: each with itself, or queries with keys."""

_PAIRS: Mapping[str, tuple[int, int]] = {
    "query": (0, 0),
    "key": (1, 1),
    "value": (2, 2),
    "query_key": (0, 1),
}
_HEADS, _HEADS_OF_LARGE, _LARGE = 48, 64, 1_024


def projections(
    model: nn.Module,
    layers: Sequence[int],
    hidden_states: Sequence[Tensor] | Mapping[int, Tensor],
) -> dict[int, Projections]:
    """Return queries, keys and values of some layers, by the layer's number from 0.

    `hidden_states`: as the model returned them, embeddings first, or by their numbers. Shape: each
    (B, T, H) -> three of (B, T, W). Raises ModelError for a layer that the model does not have, or
    without attention.
    """
    view = anatomy(model)
    found = {}
    for number in layers:
        if not 0 <= number < view.depth:
            raise ModelError(
                f"relations: no layer {number + 1}; {type(model).__name__} has {view.depth}"
            )
        layer = view.layers[view.applications[number]]
        if not layer.heads:
            raise ModelError(f"relations: layer {number + 1} has no attention head left")
        linears = (layer.linears[name] for name in ("query", "key", "value"))
        query, key, value = (_applied(linear, hidden_states[number]) for linear in linears)
        found[number] = (query, key, value)
    return found


def _applied(linear: LinearView, states: Tensor) -> Tensor:
    if linear.replaceable:
        made: Tensor = linear.module(states)
        return made
    return functional.linear(states, linear.weight, linear.bias)


def relation_heads(student: int, teacher: int) -> int:
    """Return how many relation heads both widths can be divided into: the most, up to 48.

    Of teachers as wide as the large models (1,024) up to 64: both as published (2012.15828).

    >>> relation_heads(96, 384)
    48
    """
    common = math.gcd(student, teacher)
    most = _HEADS_OF_LARGE if teacher >= _LARGE else _HEADS
    return max(n for n in range(1, min(common, most) + 1) if common % n == 0)


def relation_loss(
    student: Projections,
    teacher: Projections,
    mask: Tensor,
    relations: Sequence[Relation] = ("query", "key", "value"),
    heads: int | None = None,
) -> Tensor:
    """Return the mean KL divergence of relations among tokens, 0 where they are equal.

    A relation is the softmax of A B^T / sqrt(head size) over the tokens of a text, in `heads` heads
    whatever the heads of the models are, so that no projection between widths is needed (Wang et
    al. 2020, MiniLMv2, 2012.15828, section 3.1; `query_key` and `value` with the models' own heads
    are the losses of MiniLM, 2002.10957, section 3). Averaged over relations, heads and real
    tokens. Shape: each (B, T, W), widths may differ; mask (B, T), 0 for padding -> ().
    """
    count = heads or relation_heads(student[0].shape[-1], teacher[0].shape[-1])
    ours, theirs = ([_parted(t, count).flatten(0, 1) for t in each] for each in (student, teacher))
    apart = [
        divergence_of_products((ours[one], ours[two]), (theirs[one], theirs[two]), mask, count)
        for one, two in map(_PAIRS.__getitem__, relations)
    ]
    return sum(apart[1:], apart[0]) / (len(relations) * count * mask.bool().sum())


def _scores(one: Tensor, two: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Return attention scores, 0 at columns of padding. Shape: (B, T, W) -> (B, heads, T, T)."""
    a, b = (_parted(each, heads) for each in (one, two))
    scores = a @ b.transpose(-1, -2) / math.sqrt(a.shape[-1])
    return scores.masked_fill(~mask.bool()[:, None, None, :], 0.0)


def _parted(states: Tensor, heads: int) -> Tensor:
    """Return features parted into heads, in fp32. Shape: (B, T, W) -> (B, heads, T, W / heads)."""
    rows, tokens, width = states.shape
    if width % heads:
        raise ModelError(f"relations: {width} features cannot be divided among {heads} heads")
    return states.float().reshape(rows, tokens, heads, width // heads).transpose(1, 2)


def attention_loss(
    student: Projections, teacher: Projections, mask: Tensor, heads: tuple[int, int]
) -> Tensor:
    """Return the mean squared error of attention scores before their softmax.

    Of equally many heads, one by one; else of the mean over heads (TinyBERT, Jiao et al. 2020,
    1909.10351, equation 7, which needs as many heads). Shape: each (B, T, W); mask (B, T) -> ().
    `heads`: of the student's layer and of the teacher's.
    """
    real = mask.bool()
    with torch.autocast(mask.device.type, enabled=False):
        mine, theirs = (
            _scores(each[0], each[1], mask, count)
            for each, count in zip((student, teacher), heads, strict=True)
        )
        if heads[0] != heads[1]:
            mine, theirs = mine.mean(1, keepdim=True), theirs.mean(1, keepdim=True)
        apart = (mine - theirs).square().sum(-1)  # columns of padding are 0 on both sides
        numbers = mine.shape[1] * real.sum(-1).square().sum()
        return apart.masked_fill(~real[:, None, :], 0.0).sum() / numbers


def patient_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    layers: Sequence[int],
    project: nn.Module | None = None,
) -> Tensor:
    """Return the mean squared distance of normalised first-token states, over layers and rows.

    Sun et al. 2019 (1908.09355), equation 7: of each layer but the last, whose answer the logits
    are. `layers[i]` is the teacher's state that the student's state i follows. Tokens need not
    align. Shape: each (B, T, H) -> ().
    """
    apart = []
    for i, follows in list(enumerate(layers))[1:-1]:
        mine = student[i][:, 0]
        mine = project(mine) if project is not None else mine
        unit = (
            functional.normalize(each.float(), dim=-1) for each in (mine, teacher[follows][:, 0])
        )
        ours, theirs = unit
        apart.append((ours - theirs).pow(2).sum(-1).mean())
    return torch.stack(apart).mean() if apart else student[0].new_zeros(())
