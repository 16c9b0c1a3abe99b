"""Runs ONNX files in ONNX Runtime: fp32, or int8 with activations quantised on the fly."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bertcompress.deployment import Deployment, Layout
from bertcompress.errors import CheckpointError, DataError, ModelError
from bertcompress.runtimes import MODEL_FILE, Q4_FILE, QUANTIZED_FILE
from bertcompress.runtimes.hardware import overflows_int8
from bertcompress.runtimes.onnx.ports import check_answers, check_ports, one_line
from bertcompress.runtimes.runtime import (
    DYNAMIC,
    Batch,
    Logits,
    Runtime,
    RuntimeFile,
    join_outputs,
    require,
)

if TYPE_CHECKING:  # timing workers import this file and must not carry torch along
    from bertcompress.deployment import Product
    from bertcompress.runtimes.onnx.export import Exporter

__all__ = ["OnnxRuntime", "OnnxRuntimePredictor", "export", "predictor", "quantize"]

_RUN = Layout()


def export(product: Product, folder: Path, exporter: Exporter = "torchscript") -> Deployment:
    """Write `folder/model.onnx` in fp32, with tokenizer and plain config, checked against torch."""
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


class OnnxRuntime(Runtime):
    """Runs ONNX files on processors: fp32, dynamic int8, weights packed in 4 and 8 bits."""

    name: ClassVar[str] = "onnxruntime"
    extra: ClassVar[str | None] = "onnx"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")
    engine: ClassVar[str] = "onnxruntime"
    files: ClassVar[Mapping[str, RuntimeFile]] = {
        "int8": RuntimeFile(_RUN.onnx / QUANTIZED_FILE, 2),
        "int4-8": RuntimeFile(_RUN.onnx / Q4_FILE, 3),
        "fp32": RuntimeFile(_RUN.onnx / MODEL_FILE, 5),
    }
    packs_groups: ClassVar[bool] = True
    loads_in: ClassVar[str | None] = "ONNX Runtime, optimum; no code of ours"
    tags: ClassVar[tuple[str, ...]] = ("onnx",)
    colour: ClassVar[tuple[str, str]] = ("#D55E00", "#E69F00")
    marker: ClassVar[str] = "s"

    def export(self, product: Product, folder: Path) -> Deployment:
        """Write `onnx/model.onnx` below the folder of a run."""
        return export(product, Layout(folder).onnx)

    def quantize(
        self, folder: Path, calibration: Sequence[Batch], *, exclude: Sequence[str] = (), **how: Any
    ) -> Deployment:
        """Write `onnx/model_quantized.onnx` below the folder of a run; see the function."""
        return quantize(Layout(folder).onnx, calibration, exclude=exclude, **how)

    def quantize_settings(self) -> list[dict[str, Any]]:
        """Return the settings to try: 7 bits for weights where 8 may overflow are the default."""
        bits = {"reduce_range": not overflows_int8()}
        return [{}, {"per_channel": False}, bits, {"smoothing": 0.5}]

    def adopt_integers(self, file: Path, folder: Path) -> Deployment | None:
        """Return a deployment of the file as it is: it lies where this runtime keeps its own."""
        return Deployment(self.name, precision_of(file), file)

    def open(
        self,
        path: str | Path,
        *,
        precision: str | None = None,
        device: str = "cpu",
        threads: int | None = None,
        serving: str = DYNAMIC,
        max_length: int | None = None,
        limit: int | None = None,
    ) -> OnnxRuntimePredictor:
        """Return the ONNX file ready to run; see `predictor`."""
        return predictor(path, threads, precision)
