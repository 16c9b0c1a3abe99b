"""Train on with weights and inputs rounded to 8 bits, so that int8 costs nothing at the end.

Zafrir et al. 2019, "Q8BERT" (1910.06188): symmetric 8 bits for every linear and table, weights by
their largest magnitude, inputs by a moving average of theirs, gradients straight through the
rounding; LayerNorm, softmax and GELU stay in floats. Two things differ. The published decay is
reached by a warm-up, since a training of some hundred steps would else round by what its first
batch had. And what is averaged is the range that rounds a batch with the least squared error
(`ranges: mse`), since a few far values leave the others few integers by their largest magnitude
(`max`, as published), which cost what training had gained. With weights for the teacher's terms the
training distils at the same time. What comes out is one int8 model: an artefact of ours, and ONNX
files with the learned scales for ONNX Runtime and OpenVINO.

Costs the named epochs, each step about a tenth more than a plain one. Four times smaller on disk,
and faster wherever the processor has int8 instructions. Not before `quantize_int8` lost more than
you allow: post-training int8 takes a minute and often loses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from bertcompress.data.batches import Batches
from bertcompress.deployment import Deployment, Layout, Product
from bertcompress.engines.distillation.settings import TEACHER_WEIGHTS, DistillationSettings
from bertcompress.engines.quantization.fake_quantize import (
    quantizable,
    store_trained,
    with_rounding,
)
from bertcompress.engines.quantization.input_range import InputRange
from bertcompress.method import Context, Leaves, Method, Need, Objective
from bertcompress.methods.quantization.int8 import QuantizeInt8
from bertcompress.runtimes import available_runtimes, missing_runtimes, runtime_named
from bertcompress.runtimes.onnx.graph import check_size
from bertcompress.support.distributed import Ranks
from bertcompress.training import Rate, TrainSettings, fit_batches_through, fit_through

__all__ = ["Q8bert", "export_int8", "q8bert"]


def q8bert(
    model: nn.Module,
    loader: Batches,
    *,
    teacher: nn.Module | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    **knobs: Any,
) -> nn.Module:
    """Train `model` through rounding on the loader, store it in int8, in place, and return it.

    `knobs` are the fields of `Q8bert`; with a `teacher` its terms count with the weights of
    `Distill` unless they are given. It comes back on the CPU and in fp32. Raises ShapeError for a
    model with a masked-LM head, and for one that is stored in few bits already.
    """
    if teacher is not None:
        knobs = {**TEACHER_WEIGHTS, **knobs}
    method = Q8bert(**knobs)
    objective = method.loader_objective(model, teacher, seed=seed, device=device)
    model.float()
    return fit_batches_through(
        model,
        objective,
        loader,
        method.wrap,
        store_trained,
        settings=method,
        seed=seed,
        device=device,
    )


def export_int8(product: Product, folder: Path) -> list[Deployment]:
    """Write the files of a model stored in int8 under a folder.

    For the runtimes that are installed; each file holds the integers and scales of the model.
    """
    from bertcompress.runtimes.onnx.integers import export_qdq

    chosen = [runtime_named(name) for name in available_runtimes()]
    file = export_qdq(product, Layout(folder).onnx)
    made = [each.adopt_integers(file, folder) for each in chosen]
    return [each for each in made if each is not None]


class Q8bert(Method, DistillationSettings, TrainSettings):
    """Train on with weights and inputs rounded to 8 bits."""

    key: ClassVar[str] = "q8bert"
    paper: ClassVar[str] = "Zafrir et al. 2019, arXiv:1910.06188"
    leaves: ClassVar[Leaves] = "files"
    tags: ClassVar[tuple[str, ...]] = ("int8",)
    requires: ClassVar[frozenset[Need]] = frozenset({Need.HEAD, Need.TEACHER})
    speeds_up: ClassVar[bool] = True

    learning_rate: Rate = Field(
        2e-5, description="Peak learning rate of AdamW; auto: by the model's hidden size"
    )
    label_weight: float = Field(1.0, ge=0, description="Weight of the labels' loss")
    logit_weight: float = Field(0.0, ge=0, description="Weight of the teacher's logits")
    hidden_weight: float = Field(0.0, ge=0, description="Weight of the teacher's hidden states")
    per_channel: bool = Field(
        True,
        description="A scale for each row of a weight; false: one for the matrix, as published",
    )
    ranges: Literal["mse", "max"] = Field(
        "mse",
        description="Of each input, a moving average over batches: mse, that of the least squared "
        "error; max, the largest magnitude, as published",
    )
    decay: float = Field(0.9999, ge=0, lt=1, description="Of the moving average of the ranges")
    warm_up_decay: bool = Field(
        True,
        description="Let the decay grow from 0.1, so that the first batches are forgotten; false: "
        "as published, where the first batch is most of the average for thousands of steps",
    )

    def check(self, model: nn.Module) -> None:
        """Raise ShapeError for a model that cannot be stored so, MissingExtra without a runtime.

        ModelError for one that no file holds.
        """
        quantizable(model)
        check_size(model)
        available_runtimes()

    def wrap(self, model: nn.Module, objective: Objective) -> Objective:
        """Let the model compute as its integers will, in place, and return the objective."""
        with_rounding(
            model,
            dict.fromkeys(quantizable(model), 8),
            group=-1 if self.per_channel else 0,
            inputs=InputRange(self.decay, self.warm_up_decay, self.ranges == "mse"),
        )
        return objective

    def left_out(self) -> tuple[str, ...]:
        """Return a line for each runtime that is not installed."""
        return missing_runtimes(available_runtimes())

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the product in int8, with a file for each runtime."""
        objective = self.stage_objective(product, ctx)
        stored = fit_through(product, ctx, objective, self, self.wrap, store_trained)
        # Every process trains; one writes.
        made = export_int8(stored, ctx.workdir) if Ranks().main else []
        return Product(stored.model, stored.tokenizer, tuple(made), stored.findings)

    def dense_opponent(self) -> QuantizeInt8:
        """Return int8 without any training."""
        return QuantizeInt8(max_drop=None)

    def controls(self) -> Mapping[str, Q8bert]:
        """Return the same training on the labels alone, where a teacher takes part."""
        return self.without_teacher()
