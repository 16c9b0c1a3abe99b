"""Replace the linears of the layers by products of two thin ones.

Denton et al. 2014 (1404.0736). `activation` finds the factors that change the outputs least on
calibration rows, `fisher` (Hsu et al. 2022, 2207.00112) those that change the important rows least,
`svd` those nearest to the weights. One budget for the model: a rank stays where it is worth most
per parameter, and a matrix whose factors would be no smaller stays as it is. What a rank is worth
is the loss that it saves, by the gradients on the calibration rows; `svd` knows only the weights.

Costs one forward and backward pass over the calibration rows, and two SVDs of each matrix. Not
below half of the parameters without `distill` behind it. Fewer multiply-accumulates on every
device, but two thin matrices run at a lower share of the peak speed than one: near the break-even
rank it does not pay, and only the measured latency tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from bertcompress.data import calibration_batches
from bertcompress.data.batches import Batches, tensor_batches
from bertcompress.deployment import Findings, Product
from bertcompress.engines.lowrank.calibration import (
    LinearStatistics,
    dense_linears,
    linear_statistics,
    parameter_budget,
)
from bertcompress.engines.lowrank.gated_factors import put_factors
from bertcompress.engines.lowrank.svd import Metric, choose_ranks, factors, spectrum
from bertcompress.heads import Head
from bertcompress.method import Context, Leaves, Method
from bertcompress.shapes import anatomy

__all__ = ["FactorizeLinear", "factorize_linear"]


def factorize_linear(
    model: nn.Module,
    batches: Batches = (),
    keep: float = 0.7,
    *,
    metric: Metric = "activation",
    seed: int = 0,
    head: Head | None = None,
) -> nn.Module:
    """Factorise linears of the layers, in place, and return the model.

    Args:
        model: an encoder with a classification or regression head; for `svd` with any.
        batches: calibration batches, as a data loader gives them; `svd` looks at none.
        keep: share of the parameters of these linears that stays, above 0 up to 1; of all of them
            as they are dense, so that what is factorised already counts.
        metric: in which the factors are best, see the module's docstring.
        seed: of the answers that are drawn for the gradients.
        head: of the task, which draws them; None: as the model's config tells.

    Raises:
        ShapeError for a share that rank 1 everywhere exceeds, and where no linear is dense;
        ModelError for another head; ValueError without batches.
    """
    shown = tensor_batches(batches) if metric != "svd" else []
    if metric != "svd" and not shown:
        raise ValueError(f"factorize_linear: metric '{metric}' needs batches")
    room = parameter_budget(model, keep, FactorizeLinear.key)
    weights = {place: linear.weight.detach() for place, linear in dense_linears(model).items()}
    seen = linear_statistics(model, shown, seed=seed, head=head) if metric != "svd" else {}
    spectra = {p: spectrum(weight, seen.get(p), metric) for p, weight in weights.items()}
    made = {
        place: factors(weights[place], rank, **_metric(metric, seen.get(place)))
        for place, rank in choose_ranks(spectra, room).items()
        if rank
    }
    put_factors(model, made)
    return model


def _metric(metric: Metric, seen: LinearStatistics | None) -> dict[str, Tensor]:
    if metric == "svd" or seen is None:
        return {}
    return {"inputs": seen.inputs} if metric == "activation" else {"rows": seen.rows}


class FactorizeLinear(Method):
    """Replace the linears of the layers by products of two thin ones."""

    key: ClassVar[str] = "factorize_linear"
    paper: ClassVar[str] = "Denton et al. 2014, arXiv:1404.0736; Hsu et al. 2022, arXiv:2207.00112"
    leaves: ClassVar[Leaves] = "shape"
    speeds_up: ClassVar[bool] = True
    speed_needs_timing: ClassVar[bool] = True

    keep: float = Field(
        0.7, gt=0, le=1, description="Share of the parameters of the layers' linears that stays"
    )
    metric: Metric = Field("activation", description="In which the factors are the best of a rank")
    rows: int = Field(256, ge=1, le=2_048, description="Calibration rows, of the training set")

    @property
    def leaves_layers_uneven(self) -> bool:
        """True: each matrix gets its own rank."""
        return True

    @property
    def share_left(self) -> float:
        """`keep`."""
        return self.keep

    @property
    def rows_read(self) -> int:
        """`rows`."""
        return self.rows

    def check(self, model: nn.Module) -> None:
        """Raise ShapeError for a share that rank 1 everywhere exceeds."""
        parameter_budget(model, self.keep, self.key)

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the product with thin linears and the rank of each, 0 where dense."""
        model: nn.Module = product.model
        model.to(ctx.device)
        batches = (
            calibration_batches(ctx.data, product.tokenizer, self.rows)
            if self.metric != "svd"
            else []
        )
        factorize_linear(
            model, batches, self.keep, metric=self.metric, seed=ctx.seed, head=ctx.task.head
        )
        view = anatomy(model)
        ranks: dict[str, Any] = {
            name: [layer.linears[name].rank or 0 for layer in view.layers]
            for name in view.linear_names
        }
        read = sum(len(batch["input_ids"]) for batch in batches) or None
        return Product(product.model, product.tokenizer, (), Findings(samples=read, free=ranks))

    def controls(self) -> Mapping[str, Method]:
        """Return as many parameters by the singular values of the matrices alone."""
        if self.metric == "svd":
            return {}
        return {"plain SVD": self.model_copy(update={"metric": "svd"})}
