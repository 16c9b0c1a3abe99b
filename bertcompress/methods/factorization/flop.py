"""Learn which rank-1 components of the linears to keep, while training.

Wang et al. 2019, FLOP (1910.04732): each matrix becomes P diag(z) Q with a hard-concrete gate z on
every component (Louizos et al. 2018, 1712.01312), and an augmented Lagrangian holds the number of
open gates to a size. At the end the open components are folded into two thin linears. Components
are the directions in which the matrix acts on calibration rows; training starts at the size, with
those that an SVD would keep, or, with `anneal`, from all of them, so that step 0 changes nothing.

Costs the named epochs of training at full rank, up to twice the arithmetic of a plain step. Follow
it with `distill`: what closed last has not been recovered from. Fewer multiply-accumulates on every
device, but two thin matrices run at a lower share of the peak speed than one. Not before
`factorize_linear` was tried: it decides in seconds, and where both were measured (docs/albert.md)
what training chose was no better than that with the same steps of `distill`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from bertcompress.data import calibration_batches
from bertcompress.data.batches import Batches, in_fp32, train_loader
from bertcompress.deployment import Findings, Product
from bertcompress.engines.distillation.settings import DistillationSettings
from bertcompress.engines.l0_gates import GatedObjective, SizeController
from bertcompress.engines.lowrank.calibration import parameter_budget
from bertcompress.engines.lowrank.gated_factors import Gated, fold, put_gates, split
from bertcompress.heads import Head
from bertcompress.method import Context, Leaves, Method, Need, Objective
from bertcompress.shapes import anatomy
from bertcompress.training import (
    TrainSettings,
    epoch_batches,
    fit_batches_through,
    fit_through,
)

__all__ = ["Flop", "flop"]


def flop(
    model: nn.Module,
    loader: Batches,
    keep: float = 0.65,
    *,
    teacher: nn.Module | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    **knobs: Any,
) -> nn.Module:
    """Train `model` on the loader while its linears become thin, in place, and return it.

    Args:
        model: an encoder with a classification or regression head.
        loader: batches as the model takes them, with `labels` where there is no teacher.
        keep: share of the parameters of the layers' linears that stays, above 0 up to 1; of all of
            them as they are dense, so that what is factorised already counts.
        teacher: a model to distil from at the same time; None: the labels alone.
        device: where to train.
        seed: of the gates, the dropout and the answers drawn for the calibration.
        knobs: other fields of `Flop`.

    Raises:
        ShapeError where there is nothing to factorise, or `keep` is less than rank 1 everywhere.
    """
    method = Flop(keep=keep, **knobs)
    inner = method.loader_objective(model, teacher, seed=seed, device=device)
    batches, rows, given = [], 0, train_loader(loader)
    for batch in given:
        if rows >= method.rows:
            break
        batches.append(batch)
        rows += len(batch["input_ids"])
    with in_fp32(model.to(device)):
        through = GatedCopy(method, batches, method.steps(len(given)), seed)
        fit_batches_through(
            model,
            inner,
            given,
            through.wrap,
            through.fold,
            settings=method,
            seed=seed,
            device=device,
        )
    return model.eval()


class GatedCopy:
    """The copy that trains: split into components, each behind its gate.

    `steps`: of the training, over a share of which the size may fall.
    """

    gated: Gated
    objective: GatedObjective

    def __init__(
        self,
        method: Flop,
        batches: Sequence[Mapping[str, Tensor]],
        steps: int,
        seed: int,
        head: Head | None = None,
    ) -> None:
        self.method, self.batches, self.steps = method, batches, steps
        self.seed, self.head = seed, head

    def wrap(self, model: nn.Module, objective: Objective) -> Objective:
        """Split the copy in place, and return the objective that closes its gates."""
        self.gated = self.method.split(model, self.batches, self.seed, self.head)
        self.objective = self.method.gated(objective, self.gated, self.steps)
        put_gates(model, self.gated.gates)
        return self.objective

    def fold(self, model: nn.Module, trained: nn.Module) -> None:
        """Give the model, in place, the components that stay."""
        fold(model, trained, self.gated.gates, self.gated.kept())

    @property
    def expected_share(self) -> float:
        """Expected size of what the gates leave open, as a share of the size that was asked for."""
        return float(self.objective.expected_size().detach()) / self.gated.room


class Flop(Method, DistillationSettings, TrainSettings):
    """Learn which rank-1 components of the linears to keep, while training."""

    key: ClassVar[str] = "flop"
    paper: ClassVar[str] = (
        "Wang et al. 2019, arXiv:1910.04732; Louizos et al. 2017, arXiv:1712.01312"
    )
    leaves: ClassVar[Leaves] = "shape"
    tier: ClassVar[Literal["core", "useful", "research"]] = "useful"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.HEAD, Need.TEACHER})
    speeds_up: ClassVar[bool] = True
    speed_needs_timing: ClassVar[bool] = True

    keep: float = Field(
        0.65, gt=0, le=1, description="Share of the parameters of the layers' linears that stays"
    )
    epochs: float = Field(3, gt=0, le=1_000, description="Passes over the training rows")
    learning_rate: float = Field(1e-4, gt=0, le=1, description="Peak learning rate of AdamW")
    anneal: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Fraction of the steps over which the size falls from all components, as "
        "published; 0 starts at the size, with what an SVD would keep",
    )
    gate_rate: float = Field(0.02, gt=0, le=10, description="Learning rate of the gates")
    multiplier_rate: float = Field(
        1.0, gt=0, le=10, description="Learning rate of the multipliers that hold the size"
    )
    rows: int = Field(256, ge=1, le=2_048, description="Calibration rows, of the training set")

    @field_validator("patience", "max_minutes")
    @classmethod
    def _no_patience(cls, value: float | None) -> None:
        if value is not None:
            raise ValueError("nothing stops early while the size still falls; leave it null")

    @model_validator(mode="after")
    def _falls_to_the_end(self) -> Flop:
        if self.anneal and self.max_minutes is not None:
            raise ValueError(
                "max_minutes: nothing stops early while the size still falls; leave it null"
            )
        return self

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

    def split(
        self,
        model: nn.Module,
        batches: Sequence[Mapping[str, Tensor]],
        seed: int,
        head: Head | None = None,
    ) -> Gated:
        """Split the model in place, and return the gates of its components.

        Raises ShapeError for a size that rank 1 everywhere exceeds.
        """
        room = parameter_budget(model, self.keep, self.key)
        gated = split(model, room, batches, seed=seed, head=head)
        if not self.anneal:
            gated.open_to_budget()
        return gated

    def gated(self, inner: Objective, gated: Gated, steps: int) -> GatedObjective:
        """Return the objective that closes gates until what is open has the size."""
        controller = SizeController(
            gated.full,
            min(gated.room, gated.full),
            warmup_steps=math.ceil(self.anneal * steps),
            learning_rate=self.multiplier_rate,
        )
        gates, prices = list(gated.gates.values()), list(gated.prices.values())
        controller.to(gates[0].log_alpha.device)
        return GatedObjective(inner, gates, prices, controller, learning_rate=self.gate_rate)

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the product with thin linears and the rank of each, 0 where dense."""
        model: Any = product.model
        model.to(ctx.device)
        batches = calibration_batches(ctx.data, product.tokenizer, self.rows)
        inner = self.stage_objective(product, ctx)
        per_epoch = epoch_batches(ctx.data, product.tokenizer, self, inner.learns_unlabelled)
        through = GatedCopy(self, batches, self.steps(per_epoch), ctx.seed, ctx.task.head)
        done = fit_through(product, ctx, inner, self, through.wrap, through.fold, keep_last=True)
        # No step was chosen: the last is what the size needs.
        trained = done.findings.training
        assert trained is not None
        view = anatomy(model)
        ranks = {
            name: [layer.linears[name].rank or 0 for layer in view.layers]
            for name in view.linear_names
        }
        findings = Findings(
            training=trained.model_copy(update={"selection_score": None}),
            free={**ranks, "expected_keep": self.keep * through.expected_share},
        )
        return Product(model, product.tokenizer, (), findings)

    def controls(self) -> Mapping[str, Flop]:
        """Return the same training on the labels alone, where a teacher takes part."""
        return self.without_teacher()
