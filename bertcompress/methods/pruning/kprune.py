"""Cut heads and neurons, and repair the model after each cut by least squares, without training.

Park et al. 2023, "Accurate Retraining-free Pruning for Pretrained Encoder-based Language Models"
(2308.03449): sublayer by sublayer from the bottom, the units that matter least to the answers and
to the residual stream go, and what is left of the sublayer is solved anew so that the stream is
again what the original had there. Heads and neurons go wherever it costs least.

Costs one backward pass over the calibration rows for each sublayer, and no training. Not where a
training budget exists: `prune_structured` followed by `distill` keeps more. Every device gets
faster.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import nn

from bertcompress.data import calibration_batches
from bertcompress.data.batches import Batches, in_fp32, tensor_batches
from bertcompress.deployment import Findings, Product
from bertcompress.engines.pruning.kprune import KPruneSettings, cut_and_repair
from bertcompress.heads import Head
from bertcompress.method import Context, Leaves, Method
from bertcompress.shapes import Heads, anatomy, apply_edit

__all__ = ["KPrune", "kprune"]


def kprune(
    model: nn.Module,
    batches: Batches,
    keep: float,
    *,
    at_least: int = 1,
    reconstruct: bool = True,
    seed: int = 0,
    head: Head | None = None,
) -> nn.Module:
    """Cut heads and neurons and repair the rest, in place, and return the model.

    Args:
        model: a fine-tuned encoder with a head.
        batches: calibration batches, as a data loader gives them; kept in memory.
        keep: share of the encoder's multiply-accumulates that stays, above 0 up to 1.
        at_least: heads and neurons that stay in each layer.
        reconstruct: solve the remaining weights anew; without, the model is only cut.
        seed: of the answers that are drawn from the original.
        head: of the task, which draws them; None: as the model's config tells.
    """
    shown = tensor_batches(batches)
    with in_fp32(model):
        settings = KPruneSettings(reconstruct=reconstruct)
        return cut_and_repair(
            model, shown, keep, at_least=at_least, seed=seed, settings=settings, head=head
        )


class KPrune(Method):
    """Cut heads and neurons and repair the rest by least squares, without training.

    No control: units drawn at random would have to be repaired too, which takes as long as the
    method itself, in a recipe that trains nothing and so has nothing longer.
    """

    key: ClassVar[str] = "kprune"
    paper: ClassVar[str] = "Park et al. 2023, arXiv:2308.03449"
    leaves: ClassVar[Leaves] = "shape"
    tags: ClassVar[tuple[str, ...]] = ("pruned",)
    speeds_up: ClassVar[bool] = True

    keep: float = Field(
        0.6, gt=0, le=1, description="Share of the encoder's multiply-accumulates that stays"
    )
    reconstruct: bool = Field(True, description="Solve the remaining weights anew")
    rows: int = Field(512, ge=1, le=2_048, description="Calibration rows, of the training set")
    at_least: int = Field(1, ge=0, description="Heads and neurons that stay in each layer")

    @property
    def leaves_layers_uneven(self) -> bool:
        """Whether anything is cut: it goes wherever it costs least."""
        return self.keep < 1

    @property
    def share_left(self) -> float:
        """`keep`."""
        return self.keep

    @property
    def rows_read(self) -> int:
        """`rows`."""
        return self.rows

    def plan_shape(self, model: nn.Module) -> None:
        """Cut nothing yet, so that a model that can lose nothing any more is refused at once."""
        apply_edit(model, Heads([list(range(layer.heads)) for layer in anatomy(model).layers]))

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the product with a cut model; the findings say what stayed in each layer."""
        model: nn.Module = product.model
        model.to(ctx.device)
        batches = calibration_batches(ctx.data, product.tokenizer, self.rows)
        kprune(
            model,
            batches,
            self.keep,
            at_least=self.at_least,
            reconstruct=self.reconstruct,
            seed=ctx.seed,
            head=ctx.task.head,
        )
        layers = anatomy(model).layers
        left = {
            "heads": [layer.heads for layer in layers],
            "neurons": [layer.width for layer in layers],
        }
        read = sum(len(batch["input_ids"]) for batch in batches)
        return Product(product.model, product.tokenizer, (), Findings(samples=read, free=left))
