"""Runs a model folder in PyTorch: fp32 or bf16 (dynamic int8 only as an opponent in benchmarks)."""

from __future__ import annotations

import contextlib
import copy
import inspect
import statistics
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from bertcompress.deployment import Deployment, Product
from bertcompress.errors import ModelError, unknown
from bertcompress.heads.outputs import outputs_of
from bertcompress.models import io as artefact
from bertcompress.runtimes import INPUTS, Batch, Logits, join_outputs, require
from bertcompress.runtimes.hardware import compute_device

__all__ = ["TorchPredictor", "export", "predictor", "quantize", "scoring"]

PRECISIONS = ("fp32", "bf16", "int8", "torchao")


def export(product: Product, folder: Path) -> Deployment:
    """Write the product to `folder` as safetensors, config and tokenizer."""
    artefact.save(product.model, folder, product.tokenizer)
    return Deployment(runtime="torch", precision="fp32", path=folder)


def quantize(folder: Path, calibration: Iterable[Batch] = ()) -> Deployment:
    """Raise ModelError: int8 is not offered in torch."""
    raise ModelError(
        f"{folder}: int8 is not offered for the torch runtime; allowed: onnxruntime, openvino"
    )


def predictor(
    path: str | Path,
    threads: int | None = None,
    precision: str = "fp32",
    device: str = "cpu",
) -> TorchPredictor:
    """Return the model of a folder or Hub id, ready to run.

    Args:
        path: Model folder or Hub id.
        threads: Threads of one operator. PyTorch keeps this number for the whole process.
        precision: `fp32`, `bf16` (weights and activations), or `int8`: torch.ao's dynamic
            quantisation made on loading, or `torchao`, the same by that package and compiled; both
            for comparison only.
        device: `cpu` or `cuda`.

    Raises:
        ModelError for another precision; what `artefact.load` raises.
    """
    model = artefact.load(path).model
    held = artefact.precision_of(model)
    allowed = PRECISIONS if held == "fp32" else (held, "fp32")
    if precision not in allowed:
        raise ModelError(unknown(str(path), "precision", precision, allowed))
    if threads is not None:
        torch.set_num_threads(threads)
    return TorchPredictor(model, precision, device)


class TorchPredictor:
    """A model in memory, in eval and inference mode.

    fp32 puts nothing but eval mode on the model it is given; the other precisions convert it. A
    model that is stored in few bits stays so, and computes in fp32.
    """

    runtime = "torch"

    def __init__(
        self, model: PreTrainedModel, precision: str = "fp32", device: str | None = None
    ) -> None:
        held = artefact.precision_of(model)
        self.precision = precision if held == "fp32" else held
        self._device = torch.device(device) if device else model.device
        ready = _converted(model, precision) if held == "fp32" else model
        self._model = ready.eval().to(self._device)
        taken = inspect.signature(model.forward).parameters
        self._inputs = [name for name in INPUTS if name in taken]

    def __call__(self, batch: Batch) -> Logits:
        """Return the logits. Shape: (B, T) -> (B, K)."""
        inputs = {
            name: torch.as_tensor(batch[name], device=self._device)
            for name in self._inputs
            if name in batch
        }
        with torch.inference_mode():
            outputs = self._model(**inputs, return_dict=True)
        return join_outputs([outputs_of(outputs).float().cpu().numpy()])


@contextlib.contextmanager
def scoring(model: PreTrainedModel) -> Iterator[TorchPredictor]:
    """Yield a model ready to be scored, on the GPU where there is one; later it is back again."""
    before = model.device
    try:
        yield TorchPredictor(model, device=compute_device())
    finally:
        model.to(before)  # type: ignore[arg-type]


def bf16_gain(model: PreTrainedModel, rounds: int = 5) -> float:
    """Return how many times faster bf16 is than fp32 here: 8 texts of up to 128 tokens, in turn.

    On some processors it is several times slower: see docs/measuring.md.
    """
    longest = min(128, artefact.max_tokens(model))
    batch = {"input_ids": np.full((8, longest), 1), "attention_mask": np.ones((8, longest), int)}
    both = [TorchPredictor(copy.deepcopy(model), precision) for precision in ("fp32", "bf16")]
    seconds: list[list[float]] = [[], []]
    for turn in range(rounds + 1):
        for taken, predictor in zip(seconds, both, strict=True):
            start = time.perf_counter()
            predictor(batch)
            if turn:  # the first warms up
                taken.append(time.perf_counter() - start)
    return statistics.median(seconds[0]) / statistics.median(seconds[1])


def _compiled(model: Any) -> Any:
    """Return what torchao recommends for int8 on processors: linears on the fly, compiled."""
    tools = require("torchao.quantization", "torchao")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ready = model.eval().float()
        tools.quantize_(ready, tools.Int8DynamicActivationInt8WeightConfig())
        return torch.compile(ready, dynamic=True)


def _converted(model: Any, precision: str) -> Any:
    if precision == "torchao":
        return _compiled(model)
    if precision != "int8":
        return model.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    quantize_dynamic: Any = torch.ao.quantization.quantize_dynamic
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return quantize_dynamic(model.eval().float(), {nn.Linear}, dtype=torch.qint8)
