"""Store weights in 4 bits, in groups, and give the layers where the loss is sharp more.

Shen et al. 2019, "Q-BERT" (1909.05840): a scale for each group of weights, tables in 8 bits, and
bits by the top eigenvalue of each layer's Hessian. The layers with the sharpest loss keep
`high_bits`; then a short training through the rounding repairs the rest. What comes out is packed
to real bytes, two weights in one, and runs in ONNX Runtime (MatMulNBits) and OpenVINO; bits that no
runtime packs are marked as simulated.

Costs second derivatives on some hundred rows and the named epochs. Five to six times smaller,
tables included. No speed-up on most processors, since the inputs stay in floats: for speed
`quantize_int8`. Not below 4 bits without a look at the score: 2 and 3 bits are research.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from bertcompress.data import calibration_batches
from bertcompress.data.batches import Batches, train_loader
from bertcompress.deployment import Deployment, Findings, Layout, Product
from bertcompress.engines.distillation.settings import TEACHER_WEIGHTS, DistillationSettings
from bertcompress.engines.quantization.fake_quantize import (
    quantizable,
    store_trained,
    with_rounding,
)
from bertcompress.engines.quantization.hessian import layer_sharpness
from bertcompress.heads import Head
from bertcompress.method import Context, Leaves, Method, Need, Objective
from bertcompress.methods.quantization.int8 import QuantizeInt8
from bertcompress.runtimes import all_runtimes
from bertcompress.runtimes.table import missing_packages
from bertcompress.shapes import anatomy, imitates
from bertcompress.support.distributed import Ranks
from bertcompress.training import LabelLoss, Rate, TrainSettings, fit_batches_through, fit_through
from bertcompress.training.through import Wrap

__all__ = ["QBert", "choose_bits", "q_bert", "spread_evenly"]

Order = Literal["hessian", "reversed", "even"]


def spread_evenly(layers: int, share: float) -> list[float]:
    """Return a ranking for `choose_bits` by which those that get more lie evenly in the depth.

    >>> spread_evenly(6, 0.5)
    [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]
    """
    count = math.floor(share * layers + 0.5)
    chosen = {int((i + 0.5) * layers / count) for i in range(count)}
    return [float(i in chosen) for i in range(layers)]


def choose_bits(sharpness: Sequence[float], low: int, high: int, share: float) -> list[int]:
    """Return bits for each layer: `high` for this share of them, the sharpest, else `low`.

    >>> choose_bits([0.1, 5.0, 0.3, 2.0], 4, 8, 0.25)
    [4, 8, 4, 4]
    """
    count = math.floor(share * len(sharpness) + 0.5)
    first = sorted(range(len(sharpness)), key=lambda i: -sharpness[i])[:count]
    return [high if i in first else low for i in range(len(sharpness))]


def q_bert(
    model: nn.Module,
    loader: Batches,
    *,
    teacher: nn.Module | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    **knobs: Any,
) -> nn.Module:
    """Store `model` in few bits after a training through the rounding, in place, and return it.

    `loader` gives batches with `labels`. `knobs` are the fields of `QBert`; `epochs=0` trains
    nothing. It comes back on the CPU and in fp32. Raises ShapeError for a model with a masked-LM
    head, and for one that is stored in few bits already.
    """
    if teacher is not None:
        knobs = {**TEACHER_WEIGHTS, **knobs}
    method = QBert(**knobs)
    model.float().to(device)
    given = train_loader(loader)
    batches = [batch for batch, _ in zip(given, range(method.shards), strict=False)]
    wrap, _ = method.plan(model, batches, seed)
    objective = method.loader_objective(model, teacher, seed=seed, device=device)
    return fit_batches_through(
        model, objective, given, wrap, store_trained, settings=method, seed=seed, device=device
    )


class QBert(Method, DistillationSettings, TrainSettings):
    """Store weights in 4 bits, in groups, and more where the loss is sharp."""

    key: ClassVar[str] = "q_bert"
    paper: ClassVar[str] = "Shen et al. 2019, arXiv:1909.05840; Dong et al. 2019, arXiv:1905.03696"
    leaves: ClassVar[Leaves] = "files"
    tags: ClassVar[tuple[str, ...]] = ("int4",)
    tier: ClassVar[Literal["core", "useful", "research"]] = "useful"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.HEAD, Need.TEACHER})

    bits: int = Field(4, ge=2, le=8, description="Of the weights; 2 and 3 are research")
    high_bits: int = Field(8, ge=2, le=8, description="Of the layers where the loss is sharpest")
    high_share: float = Field(
        0.0, ge=0, le=1, description="Share of the layers that get high_bits; 0 needs no Hessian"
    )
    order: Order = Field(
        "hessian", description="Which layers these are; reversed and even are its controls"
    )
    group: int = Field(
        64, ge=-1, description="Weights of a row with one scale; 0: the matrix, -1: the row"
    )
    table_bits: int = Field(8, ge=2, le=8, description="Of the embedding tables")
    epochs: float | None = Field(
        None,
        ge=0,
        le=1_000,
        description="Passes over the rows, the rate falling to zero over them; 0: no training; "
        "null: until the score on the selection split no longer rises",
    )
    learning_rate: Rate = Field(
        2e-5, description="Peak learning rate of AdamW; auto: by the model's hidden size"
    )
    label_weight: float = Field(1.0, ge=0, description="Weight of the labels' loss")
    logit_weight: float = Field(0.0, ge=0, description="Weight of the teacher's logits")
    hidden_weight: float = Field(0.0, ge=0, description="Weight of the teacher's hidden states")
    shards: int = Field(
        10, ge=1, le=100, description="Batches of 16 rows, each with an eigenvalue of its own"
    )

    @model_validator(mode="after")
    def _high_is_high(self) -> QBert:
        if self.high_share and self.high_bits < self.bits:
            raise ValueError(f"high_bits {self.high_bits} are fewer than bits {self.bits}")
        return self

    def check(self, model: nn.Module) -> None:
        """Raise ShapeError for a model that cannot be stored so."""
        quantizable(model)

    def plan(
        self,
        model: nn.Module,
        batches: Sequence[Mapping[str, Tensor]],
        seed: int,
        head: Head | None = None,
    ) -> tuple[Wrap, list[float]]:
        """Return what lets a copy compute in few bits, and the layers' sharpness if it counts."""
        sharpness: list[float] = []
        layers = len(anatomy(model).layers)
        ranking = [0.0] * layers
        if self.high_share and self.order == "even":
            ranking = spread_evenly(layers, self.high_share)
        elif self.high_share:
            sharpness = layer_sharpness(model, batches, seed=seed, head=head)
            ranking = sharpness if self.order == "hessian" else [-value for value in sharpness]
        each = choose_bits(ranking, self.bits, self.high_bits, self.high_share)

        def wrap(trained: nn.Module, objective: Objective) -> Objective:
            widths = self._widths(trained, each)
            with_rounding(trained, widths, group=self.group, inputs=None)
            return objective

        return wrap, sharpness

    def _widths(self, model: nn.Module, each: Sequence[int]) -> dict[str, int]:
        """Return the bits of every module: by its layer, tables apart, pooler and head high.

        What several layers share has the most bits that one of them asks for.
        """
        of_layer: dict[int, int] = {}
        for layer, bits in zip(anatomy(model).layers, each, strict=True):
            for module in layer.module.modules():
                of_layer[id(module)] = max(bits, of_layer.get(id(module), 0))
        return {
            name: of_layer.get(id(module), self.high_bits)
            if isinstance(module, nn.Linear)
            else self.table_bits
            for name, module in quantizable(model).items()
        }

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the product in few bits, with an ONNX file where a runtime has products for it."""
        model: Any = product.model
        model.to(ctx.device)
        batches = []
        if self.high_share and self.order != "even":
            batches = calibration_batches(
                ctx.data, product.tokenizer, 16 * self.shards, 16, by_length=False
            )
        wrap, sharpness = self.plan(model, batches, ctx.seed, ctx.task.head)
        # Without a training no teacher is asked for.
        objective = self.stage_objective(product, ctx) if self.trains else LabelLoss()
        stored = fit_through(product, ctx, objective, self, wrap, store_trained)
        made = self._files(stored, ctx) if Ranks().main else []  # every process trains; one writes
        missing = "no ONNX file: no runtime here packs these bits in groups like this"
        findings = Findings(
            training=stored.findings.training,
            notes=() if made else (missing,),
            free={"sharpness": [round(value, 4) for value in sharpness]},
        )
        return Product(stored.model, stored.tokenizer, tuple(made), findings)

    def _files(self, product: Product, ctx: Context) -> list[Deployment]:
        """Return the ONNX file for each runtime that packs these bits in such groups."""
        packs = self.group >= 16 and not self.group & (self.group - 1)
        able = [r for r in all_runtimes() if r.packs_groups and not missing_packages(r)]
        if not packs or imitates(product.model) or not able:
            return []
        from bertcompress.runtimes.onnx.integers import export_qdq

        file = export_qdq(product, Layout(ctx.workdir).onnx)
        made = [each.adopt_integers(file, ctx.workdir) for each in able]
        return [each for each in made if each is not None]

    def dense_opponent(self) -> QuantizeInt8:
        """Return int8 without any training."""
        return QuantizeInt8(max_drop=None)

    def controls(self) -> Mapping[str, QBert]:
        """Return the same training on the labels alone, where a teacher takes part."""
        return self.without_teacher() if self.trains else {}
