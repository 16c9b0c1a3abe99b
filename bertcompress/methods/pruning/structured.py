"""Remove attention heads and feed-forward neurons, or whole layers.

The units that the answers depend on least are cut out of the weight matrices, so every runtime gets
smaller matrices and is faster without special kernels. `scores` decides what stays:

- `fisher`: squared gradients of unit masks, Kwon et al. 2022 (2204.09656), equation 8;
- `taylor`: absolute gradients of unit masks, Michel et al. 2019 (1905.10650), equation 2;
- `magnitude` and `random`: the controls.

Costs one backward pass over the calibration rows. Not for a model whose size on disk is the
problem: half of a small model is its word table, which this leaves alone. Speeds up every device.
Follow it with `distill`; where nothing can be trained, take `kprune`, which repairs what it cuts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, get_args

from pydantic import Field
from torch import Tensor, nn

from bertcompress.data import calibration_batches
from bertcompress.data.batches import Batches, in_fp32, tensor_batches
from bertcompress.deployment import Findings, Product
from bertcompress.engines.pruning.budget import best_units, fill_budget
from bertcompress.engines.pruning.importance import (
    HeadLoss,
    head_of,
    mask_fisher,
    random_scores,
    sampled_loss,
    task_loss,
    weight_magnitude,
)
from bertcompress.engines.pruning.kprune import unit_costs
from bertcompress.engines.pruning.masks import sites
from bertcompress.errors import InputError, unknown
from bertcompress.heads import Head
from bertcompress.method import Context, Leaves, Method
from bertcompress.shapes import Heads, Layers, Neurons, ShapeError, anatomy, apply_edit

__all__ = [
    "PruneStructured",
    "choose_layers",
    "choose_units",
    "prune_heads",
    "prune_layers",
    "prune_neurons",
    "prune_structured",
]

Scores = Literal["fisher", "taylor", "magnitude", "random"]


def prune_heads(model: nn.Module, heads: Sequence[Sequence[int]]) -> nn.Module:
    """Remove these heads of each layer, in place, and return the model.

    Numbers count the heads that the layer has now. Raises ShapeError for one that it has not.
    """
    rows = _others("heads", heads, [layer.heads for layer in anatomy(model).layers])
    return apply_edit(model, Heads(rows))


def prune_neurons(model: nn.Module, neurons: Sequence[Sequence[int]]) -> nn.Module:
    """Remove these feed-forward neurons of each layer, in place, and return the model."""
    rows = _others("neurons", neurons, [layer.width for layer in anatomy(model).layers])
    return apply_edit(model, Neurons([len(row) for row in rows], rows))


def prune_layers(model: nn.Module, layers: Sequence[int]) -> nn.Module:
    """Remove these layers, in place, and return the model."""
    return apply_edit(model, Layers(_others("layers", [layers], [anatomy(model).depth])[0]))


def _others(what: str, gone: Sequence[Sequence[int]], counts: Sequence[int]) -> list[list[int]]:
    if len(gone) != len(counts):
        raise ShapeError(f"{what}: {len(gone)} lists given, the model has {len(counts)} layers")
    for layer, (row, count) in enumerate(zip(gone, counts, strict=True)):
        wrong = sorted(set(row) - set(range(count)))
        if wrong:
            raise ShapeError(
                f"{what} of layer {layer}: no number {wrong[0]}; it has 0 to {count - 1}"
            )
    return [
        [unit for unit in range(count) if unit not in set(row)]
        for row, count in zip(gone, counts, strict=True)
    ]


def choose_layers(depth: int, keep: int, order: str = "spread") -> list[int]:
    """Return which of `depth` layers stay: `spread` evenly with the last, or from the `bottom`."""
    if order == "bottom":
        return list(range(keep))
    return [int((i + 1) * depth / keep) - 1 for i in range(keep)]


def choose_units(
    model: nn.Module,
    scores: Sequence[Tensor],
    keep: float,
    *,
    even: bool = True,
    at_least: int = 1,
    length: int = 128,
) -> list[list[int]]:
    """Return the units kept in each sublayer (see `engines.masks.sites`).

    `even` keeps the same share of units everywhere; otherwise `keep` is the share of the encoder's
    multiply-accumulates, and the best units per operation fill it wherever they are.
    """
    found = sites(model)
    least = [min(at_least, site.units) for site in found]
    if even:
        counts = [max(low, round(keep * s.units)) for low, s in zip(least, found, strict=True)]
        return [best_units(row, count) for row, count in zip(scores, counts, strict=True)]
    costs = unit_costs(model, found, length)
    budget = keep * sum(cost * site.units for cost, site in zip(costs, found, strict=True))
    return fill_budget(scores, costs, budget, least)


def score_units(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    scores: str,
    loss: HeadLoss,
    seed: int,
) -> list[Tensor]:
    """Return the importance of each unit, one tensor per sublayer. Shape: (units,)."""
    if scores == "magnitude":
        return weight_magnitude(model)
    if scores == "random":
        return random_scores(model, seed)
    return mask_fisher(model, batches, loss, power=2 if scores == "fisher" else 1)


def prune_structured(
    model: nn.Module,
    batches: Batches,
    keep: float,
    *,
    scores: Scores = "fisher",
    even: bool = True,
    at_least: int = 1,
    loss: HeadLoss | None = None,
    head: Head | None = None,
    seed: int = 0,
) -> nn.Module:
    """Cut heads and neurons, in place, and return the model.

    Args:
        model: a fine-tuned encoder with a head.
        batches: calibration batches, as a data loader gives them; kept in memory.
        keep: share that stays of heads and neurons (`even`) or of the encoder's
            multiply-accumulates.
        scores: see the module's docstring.
        even: the same share in each layer, or wherever it costs least.
        at_least: heads and neurons that stay in each layer.
        loss: against labels; left out, against answers drawn from the model itself.
        head: of the task, which draws those answers; None: as the model's config tells.
        seed: of everything drawn.

    Raises:
        InputError for scores that there are not.
    """
    if scores not in get_args(Scores):
        raise InputError(unknown("prune_structured", "scores", scores, get_args(Scores)))
    shown = tensor_batches(batches)
    with in_fp32(model):
        loss = loss or sampled_loss(head_of(model, head), seed)
        ranked = score_units(model, shown, scores, loss, seed)
        kept = choose_units(model, ranked, keep, even=even, at_least=at_least)
        return _cut(model, kept)


def _cut(model: nn.Module, kept: Sequence[Sequence[int]]) -> nn.Module:
    layers = anatomy(model).layers
    heads = [list(range(layer.heads)) for layer in layers]
    neurons = [list(range(layer.width)) for layer in layers]
    for site, units in zip(sites(model), kept, strict=True):
        for layer in site.layers:
            (heads if site.kind == "heads" else neurons)[layer] = list(units)
    apply_edit(model, Heads(heads))
    return apply_edit(model, Neurons([len(row) for row in neurons], neurons))


class PruneStructured(Method):
    """Remove attention heads and feed-forward neurons, or whole layers."""

    key: ClassVar[str] = "prune_structured"
    paper: ClassVar[str] = (
        "Kwon et al. 2022, arXiv:2204.09656; Michel et al. 2019, arXiv:1905.10650"
    )
    leaves: ClassVar[Leaves] = "shape"
    tags: ClassVar[tuple[str, ...]] = ("pruned",)
    speeds_up: ClassVar[bool] = True

    keep: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share that stays: of heads and neurons in each layer (even), "
        "of the encoder's multiply-accumulates (uneven)",
    )
    keep_layers: int | None = Field(
        None, ge=1, description="Whole layers that stay; heads and neurons are then cut within them"
    )
    layer_order: Literal["spread", "bottom"] = Field(
        "spread", description="Which layers stay: evenly spread with the last, or the lowest"
    )
    allocation: Literal["even", "uneven"] = Field(
        "even", description="The same share in each layer, or wherever it costs least"
    )
    scores: Scores = Field("fisher", description="How units are ranked")
    rows: int = Field(512, ge=1, le=2_048, description="Calibration rows, of the training set")
    at_least: int = Field(1, ge=0, description="Heads and neurons that stay in each layer")

    @property
    def share_left(self) -> float:
        """`keep`."""
        return self.keep

    @property
    def rows_read(self) -> int:
        """`rows`."""
        return self.rows

    def check(self, model: nn.Module) -> None:
        """Raise ShapeError for more layers than the model has."""
        depth = anatomy(model).depth
        if self.keep_layers is not None and self.keep_layers > depth:
            raise ShapeError(f"prune_structured: keep_layers {self.keep_layers} of {depth} layers")

    @property
    def leaves_layers_uneven(self) -> bool:
        """Whether heads and neurons go wherever it costs least."""
        return self.keep < 1 and self.allocation == "uneven"

    def plan_shape(self, model: nn.Module) -> None:
        """Drop whole layers."""
        if self.keep_layers is not None:
            depth = anatomy(model).depth
            apply_edit(model, Layers(choose_layers(depth, self.keep_layers, self.layer_order)))

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the product with a cut model; the findings say what stayed in each layer."""
        model: nn.Module = product.model
        model.to(ctx.device)
        self.check(model)
        batches: list[dict[str, Tensor]] = []
        self.plan_shape(model)
        if self.keep < 1:
            batches = calibration_batches(ctx.data, product.tokenizer, self.rows)
            # The texts of a pair come in other batches here.
            labelled = ctx.task.head.has_labels and ctx.task.head.features_a_row == 1
            prune_structured(
                model,
                batches,
                self.keep,
                scores=self.scores,
                even=self.allocation == "even",
                at_least=self.at_least,
                loss=task_loss(ctx.task.head) if labelled else None,
                head=ctx.task.head,
                seed=ctx.seed,
            )
        layers = anatomy(model).layers
        left = {
            "heads": [layer.heads for layer in layers],
            "neurons": [layer.width for layer in layers],
        }
        read = sum(len(batch["input_ids"]) for batch in batches)
        return Product(product.model, product.tokenizer, (), Findings(samples=read, free=left))

    def controls(self) -> Mapping[str, Method]:
        """Return the same shape, its heads and neurons drawn; uneven, another shape would be."""
        if self.keep == 1 or self.scores == "random" or self.allocation == "uneven":
            return {}
        return {"random heads and neurons": self.model_copy(update={"scores": "random"})}
