"""Masks on attention heads and feed-forward neurons, by hooks.

transformers 5 accepts `head_mask` and ignores it, so masks here multiply the input features of the
two output projections of a layer. That is the same thing: a head or neuron reaches the rest of the
model only through those features, and a mask of 0 equals cutting it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bertcompress.shapes import PARTS, LowRank, Stream, anatomy

__all__ = ["Site", "UnitMasks", "sites", "unit_masks"]


@dataclass(frozen=True)
class Site:
    """One sublayer: `units` heads or neurons of `size` features each.

    A sublayer that several layers share is one site, of the first of them.
    """

    layers: tuple[int, ...]
    """The physical layers that have it."""
    kind: str
    """`heads` or `neurons`."""
    projection: nn.Linear | LowRank
    residual: Stream
    """Where the stream passes to which the projection's output was just added."""
    units: int
    size: int
    times: int
    """How often a forward pass applies it."""


def sites(model: nn.Module) -> list[Site]:
    """Return the sublayers that have units, bottom to top: attention, feed-forward, and so on."""
    view, found = anatomy(model), []
    applied = view.applications
    owners = {part: view.owners(part) for part in PARTS}
    for i, layer in enumerate(view.layers):
        counts = {"attention": (layer.heads, view.head_size), "ffn": (layer.width, 1)}
        for part, (units, size) in counts.items():
            sharers = tuple(n for n, owner in enumerate(owners[part]) if owner == i)
            if units and sharers:
                linear = layer.out(part).module
                assert isinstance(linear, nn.Linear | LowRank)
                times, kind = sum(applied.count(n) for n in sharers), view.family.units[part].kind
                site = Site(sharers, kind, linear, layer.residual(part), units, size, times)
                found.append(site)
    return found


@dataclass
class UnitMasks:
    """Masks in force; change `values` in place, read per-example gradients from `gradients`."""

    sites: list[Site]
    """The sublayers that are masked, bottom to top."""
    values: list[Tensor]
    """One per site. Shape: (units,)."""
    per_example: bool = False
    _applied: list[list[Tensor]] = field(default_factory=list)

    def gradients(self, site: int) -> Tensor:
        """Return d loss / d mask for each example of the last backward pass. Shape: (B, units).

        A layer that is applied several times (ALBERT) adds its applications up. Needs
        `per_example=True`.
        """
        grads = [mask.grad for mask in self._applied[site] if mask.grad is not None]
        return torch.stack(grads).sum(0)

    def forget(self) -> None:
        """Drop the masks of earlier batches; call before each forward pass that counts."""
        self._applied = [[] for _ in self.sites]


@contextlib.contextmanager
def unit_masks(
    model: nn.Module, *, per_example: bool = False, first: int = 0
) -> Iterator[UnitMasks]:
    """Put a mask of ones on every head and neuron of the model while the context lasts.

    With `per_example`, each example of a batch gets a copy of the mask, so that one backward pass
    of the summed loss gives the gradients of each example. Sublayers below number `first` get none,
    and so cost no backward pass.
    """
    found = sites(model)[first:]
    device = next(model.parameters()).device
    masks = UnitMasks(found, [torch.ones(site.units, device=device) for site in found], per_example)
    masks.forget()
    handles = [
        site.projection.register_forward_pre_hook(_masking(masks, i))
        for i, site in enumerate(found)
    ]
    try:
        yield masks
    finally:
        for handle in handles:
            handle.remove()


def _masking(masks: UnitMasks, index: int) -> Callable[..., tuple[Tensor, ...]]:
    site = masks.sites[index]

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        features = args[0]
        mask = masks.values[index]
        if masks.per_example:
            mask = mask.detach().expand(features.shape[0], -1).clone().requires_grad_()
            masks._applied[index].append(mask)
            mask = mask[:, None]
        wide = mask.repeat_interleave(site.size, dim=-1) if site.size > 1 else mask
        return (features * wide, *args[1:])

    return hook
