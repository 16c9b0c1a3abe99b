"""Runs ONNX files in ONNX Runtime: fp32, or int8 with activations quantised on the fly."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertcompress.errors import CheckpointError, DataError, ModelError
from bertcompress.runtimes import (
    MODEL_FILE,
    QUANTIZED_FILE,
    Batch,
    Logits,
    join_outputs,
    require,
)
from bertcompress.runtimes.hardware import overflows_int8
from bertcompress.runtimes.onnx.ports import check_answers, check_ports, one_line

if TYPE_CHECKING:  # timing workers import this file and must not carry torch along
    from bertcompress.deployment import Deployment, Product
    from bertcompress.runtimes.onnx.export import Exporter

__all__ = ["OnnxRuntimePredictor", "export", "predictor", "quantize"]


def export(product: Product, folder: Path, exporter: Exporter = "torchscript") -> Deployment:
    """Write `folder/model.onnx` in fp32, with tokenizer and plain config, checked against torch."""
    from bertcompress.deployment import Deployment
    from bertcompress.runtimes.onnx.export import export_onnx

    return Deployment("onnxruntime", "fp32", export_onnx(product, folder, exporter))


def quantize(
    folder: Path,
    calibration: Iterable[Batch] = (),
    reduce_range: bool | None = None,
    *,
    per_channel: bool = True,
    smoothing: float | None = None,
    exclude: Sequence[str] = (),
    out: Path | None = None,
) -> Deployment:
    """Write `model_quantized.onnx` from `folder/model.onnx`: int8 weights, per channel.

    The range of an activation is taken when the model runs, over the tokens that the mask keeps.

    Args:
        folder: Holds `model.onnx`, its config and tokenizer.
        calibration: Rows to smooth on; the first batch, where there is one, is run as a check.
        reduce_range: 7 bits for weights; None: on processors where 8 can overflow, without VNNI.
        per_channel: A scale for each output of a weight; else one for the matrix.
        smoothing: Alpha of SmoothQuant, 0 to 1, which needs rows: what is large in single channels
            of an activation goes into the weight. None leaves them as they are.
        exclude: Names of nodes that stay in fp32.
        out: Where to write; None is `folder` itself.

    Raises:
        ModelError where the quantised model answers with infinities or NaN; DataError for smoothing
        without rows.
    """
    from bertcompress.deployment import Deployment
    from bertcompress.runtimes.onnx.graph import share, unshare_transposed
    from bertcompress.runtimes.onnx.masking import mask_ranges

    onnx, tools = require("onnx", "onnx"), require("onnxruntime.quantization", "onnx")
    proto = onnx.load(folder / MODEL_FILE)
    unshare_transposed(proto)
    seen = list(calibration)
    if smoothing is not None:
        _smooth(proto, folder, seen, smoothing)
    file = (out or folder) / QUANTIZED_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    with _quiet():
        tools.quantize_dynamic(
            proto,
            file,
            per_channel=per_channel,
            nodes_to_exclude=list(exclude),
            reduce_range=overflows_int8() if reduce_range is None else reduce_range,
            weight_type=tools.QuantType.QInt8,
        )
    proto = onnx.load(file)
    mask_ranges(proto)
    share(proto)
    onnx.save(proto, file)
    _check(file, seen[:1])
    return Deployment("onnxruntime", "int8", file)


def _smooth(proto: Any, folder: Path, rows: Sequence[Batch], alpha: float) -> None:
    """Smooth every product, in place, on the inputs that the graph has."""
    from bertcompress.runtimes.onnx.smoothquant import smooth_all

    if not rows:
        raise DataError(f"{folder}: smoothing needs rows to see activations on; none were given")
    names = {port.name for port in proto.graph.input}
    smooth_all(proto, [{n: v for n, v in row.items() if n in names} for row in rows], alpha)


def _check(file: Path, batches: Sequence[Batch]) -> None:
    """Remove a file that answers in no numbers, and raise ModelError."""
    loaded = OnnxRuntimePredictor(file, "int8")
    for batch in batches or [loaded.example()]:
        if not np.isfinite(loaded(batch)).all():
            file.unlink()
            raise ModelError(f"{file}: the quantised model answers with infinities or NaN")


def predictor(
    path: str | Path, threads: int | None = None, precision: str | None = None
) -> OnnxRuntimePredictor:
    """Return the ONNX file ready to run on the CPU.

    Args:
        path: An `.onnx` file.
        threads: Threads within one operator; None takes the physical cores.
        precision: What the file holds; None tells it by the name.

    Raises:
        CheckpointError for a file that ONNX Runtime cannot read; MissingExtra.
    """
    return OnnxRuntimePredictor(Path(path), precision or precision_of(Path(path)), threads)


def precision_of(file: Path) -> str:
    """Return `int8` for the names that quantised files have here and at optimum, `int4-8` for q4.

    Any other name is taken for `fp32`.
    """
    if "q4" in file.stem:
        return "int4-8"
    return "int8" if any(mark in file.stem for mark in ("int8", "quantized")) else "fp32"


class OnnxRuntimePredictor:
    """One session; only the inputs that the graph has are fed."""

    runtime = "onnxruntime"

    def __init__(self, file: Path, precision: str, threads: int | None = None) -> None:
        ort = require("onnxruntime", "onnx")
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime has one private class per cause
            words = one_line(error)
            raise CheckpointError(f"{file}: not readable by ONNX Runtime: {words}") from error
        self.precision, self._file = precision, file
        ports = {i.name: _sizes(i.shape) for i in self._session.get_inputs()}
        check_ports(file, ports, [_sizes(o.shape) for o in self._session.get_outputs()])
        self._ranks = {name: len(shape) for name, shape in ports.items()}

    def __call__(self, batch: Batch) -> Logits:
        """Return the logits. Shape: (B, T) -> (B, K)."""
        inputs = {name: batch[name] for name in self._ranks if name in batch}
        try:
            outputs = self._session.run(None, inputs)
        except Exception as error:  # ONNX Runtime has one private class per cause
            shape = batch["input_ids"].shape
            words = one_line(error)
            raise ModelError(f"{self._file}: fails on texts of shape {shape}: {words}") from error
        check_answers(self._file, outputs, len(batch["input_ids"]))
        return join_outputs(outputs)

    def example(self) -> dict[str, Any]:
        """Return a batch of one row of 8 tokens that this graph takes."""
        # Every model has a first token type, not every one a second.
        return {
            name: np.full((1,) * (rank - 1) + (8,), int(name != "token_type_ids"), np.int64)
            for name, rank in self._ranks.items()
        }


def _sizes(shape: Sequence[Any]) -> list[int | None]:
    return [size if isinstance(size, int) else None for size in shape]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser warns through the root logger, of a step that is not needed here."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)
