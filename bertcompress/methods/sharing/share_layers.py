"""Let several layers use one set of weights, as ALBERT does, starting from a trained model.

Lan et al. 2020 (1909.11942), section 3.1, share from the start of pretraining; here a trained
encoder is brought there, so where the shared weights start from matters: a layer, the mean, or the
candidate that changes the model's own hidden states least on calibration rows (`best`). Contiguous
groups of whole layers are written as a stock ALBERT, which any transformers loads; anything else
keeps a class of ours.

Costs some forward passes over the calibration rows. Always follow it with `distill`: sharing
without training collapses. Makes files and memory smaller, by up to the number of layers; no
speed-up, since every layer is still computed. Not where speed is wanted: then `prune_structured`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bertcompress.data import calibration_batches
from bertcompress.data.batches import Batches, tensor_batches
from bertcompress.deployment import Findings, Product
from bertcompress.engines.pruning.importance import text_inputs
from bertcompress.engines.weight_matching import (
    Weights,
    aligned,
    mean_weights,
    put_weights,
    take_weights,
)
from bertcompress.errors import ModelError
from bertcompress.method import Context, Leaves, Method, Need
from bertcompress.shapes import PARTS, ShapeError, Sharing, albert_groups, anatomy, apply_edit

__all__ = ["ShareLayers", "choose_owners", "share_layers"]

Scope = Literal["all", "attention", "ffn"]
Init = Literal["best", "mean", "aligned", "first", "last"]
Batch = Mapping[str, Tensor]
MEANS: tuple[Init, ...] = ("mean", "aligned")
HALVES: dict[str, tuple[str, ...]] = {
    "all": ("attention", "ffn"),
    "attention": ("attention",),
    "ffn": ("ffn",),
}


def choose_owners(depth: int, groups: int) -> list[int]:
    """Return for each layer the first layer of its group, as ALBERT's `num_hidden_groups` groups.

    Raises ShapeError for more groups than layers, and where nothing would be shared.

    >>> choose_owners(6, 3)
    [0, 0, 2, 2, 4, 4]
    """
    if not 1 <= groups < depth:
        raise ShapeError(
            f"share_layers: {groups} groups of {depth} layers share nothing; 1 to {depth - 1} do"
            if depth > 1
            else "share_layers: the model has one layer already"
        )
    group = albert_groups(depth, groups)
    return [group.index(number) for number in group]


def share_layers(
    model: nn.Module,
    scope: Scope = "all",
    *,
    groups: int = 1,
    init: Init | None = None,
    batches: Batches = (),
) -> nn.Module:
    """Share parts of the layers within contiguous groups, in place, and return the model.

    Args:
        model: an encoder whose layers have equal shapes within each group.
        scope: whole layers, or only their attention or feed-forward parts (with their norms).
        groups: sets of weights that are left.
        init: what a group starts from: its `first` or `last` layer, the `mean` of its layers, the
            mean with heads and neurons `aligned` first, or the `best` of these and of every layer
            on the batches. Left out: `best` where there are batches, else `mean`.
        batches: calibration batches, as a data loader gives them; `best` needs them.

    Raises:
        ShapeError for layers of different shapes, ValueError for `best` without batches.
    """
    edit, owners = _edit(model, scope, groups)
    shown = tensor_batches(batches)
    init = init or ("best" if shown else "mean")
    if init == "best":
        if not shown:
            raise ValueError("share_layers: init 'best' needs batches to judge by")
        starts = _best_starts(model, _groups(owners), HALVES[scope], shown)
    else:
        starts = {
            owner: _start(model, members, HALVES[scope], init)
            for owner, members in _groups(owners).items()
        }
    for owner, weights in starts.items():
        put_weights(model, owner, weights)
    return apply_edit(model, edit)


def _groups(owners: Sequence[int]) -> dict[int, list[int]]:
    """Return the layers of each owner, from the bottom."""
    return {
        owner: [i for i, each in enumerate(owners) if each == owner]
        for owner in sorted(set(owners))
    }


def _edit(model: nn.Module, scope: Scope, groups: int) -> tuple[Sharing, list[int]]:
    """Return the edit and the owner of each layer; raises ShapeError where it cannot be."""
    view = anatomy(model)
    owners = choose_owners(len(view.layers), groups)
    for part in HALVES[scope]:
        for layer, other in enumerate(view.owners(part)):
            if owners[layer] != owners[other]:
                raise ShapeError(
                    f"share_layers: layers {other} and {layer} share weights already, and {groups} "
                    f"groups would part them; the sets in use are {sorted(set(view.owners(part)))}"
                )
    whole = list(range(len(owners)))
    edit = Sharing(owners if scope != "ffn" else whole, owners if scope != "attention" else whole)
    edit.check(view)
    return edit, owners


def _start(model: nn.Module, members: Sequence[int], halves: Sequence[str], init: Init) -> Weights:
    """Return what a group of layers starts from."""
    each = [take_weights(model, layer, halves) for layer in members]
    if init == "aligned":
        view = anatomy(model)
        units, size = view.family.units, view.head_size
        each = [each[0], *(aligned(weights, each[0], units, size) for weights in each[1:])]
    return {"first": each[0], "last": each[-1]}.get(init) or mean_weights(each)


def _best_starts(
    model: nn.Module,
    groups: Mapping[int, Sequence[int]],
    halves: Sequence[str],
    batches: Sequence[Batch],
) -> dict[int, Weights]:
    """Return for each owner the best candidate of its group.

    Group by group from the bottom, all of its layers at once, the groups above still as they were;
    what is compared is the last hidden state with the original's.
    """
    inputs = [text_inputs(model, batch) for batch in batches]
    trial = copy.deepcopy(model).eval()
    goals = [_last_state(trial, each) for each in inputs]
    starts: dict[int, Weights] = {}
    for owner, members in groups.items():
        tried = [take_weights(model, layer, halves) for layer in members]
        tried += [_start(model, members, halves, init) for init in MEANS]
        losses = []
        for weights in tried:
            _give(trial, members, weights)
            losses.append(_change(trial, inputs, goals))
        least = min(losses)
        if math.isinf(least):
            raise ModelError("share_layers: hidden states on the batches are not finite")
        starts[owner] = tried[losses.index(least)]
        _give(trial, members, starts[owner])
    return starts


def _give(model: nn.Module, layers: Sequence[int], weights: Weights) -> None:
    for layer in layers:
        put_weights(model, layer, weights)


@torch.no_grad()
def _last_state(model: nn.Module, inputs: Batch) -> Tensor:
    state: Tensor = anatomy(model).base(**inputs)[0]
    return state


def _change(model: nn.Module, inputs: Sequence[Batch], goals: Sequence[Tensor]) -> float:
    """Return the mean squared change of the last hidden state over real tokens, or infinity."""
    total, count = 0.0, 0
    for each, goal in zip(inputs, goals, strict=True):
        tokens = each["attention_mask"].bool()
        # Half precision would overflow in the sum, or not tell the candidates apart.
        change = _last_state(model, each).float() - goal.float()
        total += float(change[tokens].pow(2).sum())
        count += int(tokens.sum())
    return total / max(count, 1) if math.isfinite(total) else math.inf


class ShareLayers(Method):
    """Let several layers use one set of weights, as ALBERT does.

    No control: `best` is the best of all that the shared weights could start from, and says which.
    """

    key: ClassVar[str] = "share_layers"
    paper: ClassVar[str] = "Lan et al. 2020, arXiv:1909.11942"
    leaves: ClassVar[Leaves] = "shape"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.HEAD, Need.EVEN_LAYERS})

    scope: Scope = Field("all", description="Whole layers, or only attention or ffn parts of them")
    groups: int = Field(1, ge=1, description="Sets of weights that are left, of contiguous layers")
    init: Init = Field(
        "best", description="What a group starts from; best: whichever changes the answers least"
    )
    rows: int = Field(256, ge=1, le=2_048, description="Calibration rows that `best` is judged by")

    @property
    def rows_read(self) -> int:
        """`rows`."""
        return self.rows

    def check(self, model: nn.Module) -> None:
        """Raise ShapeError where nothing would be shared, and for layers of different shapes."""
        _edit(model, self.scope, self.groups)

    def plan_shape(self, model: nn.Module) -> None:
        """Share the layers."""
        apply_edit(model, _edit(model, self.scope, self.groups)[0])

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the product with shared layers; the findings say which layer each one uses."""
        model: nn.Module = product.model
        model.to(ctx.device)
        batches = (
            calibration_batches(ctx.data, product.tokenizer, self.rows)
            if self.init == "best"
            else []
        )
        share_layers(model, self.scope, groups=self.groups, init=self.init, batches=batches)
        view = anatomy(model)
        owners = {part: view.owners(part) for part in PARTS}
        read = sum(len(batch["input_ids"]) for batch in batches)
        return Product(product.model, product.tokenizer, (), Findings(samples=read, free=owners))
