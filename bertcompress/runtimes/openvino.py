"""Runs ONNX files in OpenVINO: fp32, or int8 with weights and activations quantised by NNCF."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bertcompress.deployment import Deployment, Layout
from bertcompress.errors import CheckpointError, DataError, ModelError
from bertcompress.runtimes import MODEL_FILE, OPENVINO_INT8_FILE, Q4_FILE
from bertcompress.runtimes.buckets import BucketPredictor, bucket_lengths, padding_id, text_limit
from bertcompress.runtimes.onnx.ports import check_answers, check_ports, one_line
from bertcompress.runtimes.onnxruntime import precision_of
from bertcompress.runtimes.runtime import (
    DYNAMIC,
    Batch,
    Logits,
    Predictor,
    Runtime,
    RuntimeFile,
    join_outputs,
    require,
)

if TYPE_CHECKING:  # timing workers import this file and must not carry torch along
    from bertcompress.deployment import Product
    from bertcompress.runtimes.onnx.export import Exporter

__all__ = ["OpenVino", "OpenVinoPredictor", "export", "predictor", "quantize"]

_RUN = Layout()
INTERMEDIATE_FILE = "openvino_model.xml"
"""As sentence-transformers and optimum-intel call it; its weights lie beside it, in `.bin`."""


def export(product: Product, folder: Path, exporter: Exporter = "torchscript") -> Deployment:
    """Write `folder/model.onnx` in fp32, with tokenizer and plain config, checked against torch."""
    from bertcompress.runtimes.onnx.export import export_onnx

    return Deployment("openvino", "fp32", export_onnx(product, folder, exporter))


def quantize(
    folder: Path,
    calibration: Iterable[Batch],
    out: Path | None = None,
    *,
    smoothing: float | None = None,
    percentile: bool = False,
    exclude: Sequence[str] = (),
) -> Deployment:
    """Write `model_int8.onnx` from `folder/model.onnx`: static int8, ranges from real batches.

    Args:
        folder: Holds `model.onnx`, its config and tokenizer.
        calibration: Batches of real rows; each row is used by itself, without its padding.
        out: Where to write, with config and tokenizer; None is `openvino/` beside `folder`.
        smoothing: Alpha of SmoothQuant for linears, 0 to 1; None takes NNCF's (for weights with
            several uses ours), -1 switches it off.
        percentile: Cut the ranges of activations where 1 in 1,000 values lies beyond.
        exclude: Names of nodes that stay in fp32.

    Raises:
        DataError without any calibration row; ModelError where NNCF fails; MissingExtra.
    """
    from bertcompress.runtimes.onnx.export import companions
    from bertcompress.runtimes.onnx.graph import share, unshare_transposed
    from bertcompress.runtimes.onnx.smoothquant import ALPHA, smooth_shared

    onnx, nncf = require("onnx", "openvino"), _nncf()
    proto = onnx.load(folder / MODEL_FILE)
    unshare_transposed(proto)
    names = [tensor.name for tensor in proto.graph.input]
    rows = list(_rows(calibration, names))
    if not rows:
        raise DataError(f"{folder}: static int8 needs calibration rows; none were given")
    smoothed = smooth_shared(proto, rows, ALPHA if smoothing is None else smoothing)
    left = [*smoothed, *exclude]
    try:
        with _quiet():
            quantized = nncf.quantize(
                proto,
                nncf.Dataset(rows),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(rows),
                ignored_scope=nncf.IgnoredScope(names=left) if left else None,
                advanced_parameters=_advanced(nncf, smoothing, percentile),
            )
    except Exception as error:  # NNCF has one class per cause
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"{folder}: NNCF did not quantise it: {words[0]}") from error
    share(quantized)
    out = out or Layout(folder.parent).openvino
    companions(folder, out)
    file = out / OPENVINO_INT8_FILE
    onnx.save(quantized, file)
    _write_intermediate(file)
    return Deployment("openvino", "int8", file)


def _write_intermediate(file: Path) -> None:
    """Write a sentence embedder beside its ONNX file in OpenVINO's own format.

    That is the only one that sentence-transformers looks for (`backend="openvino"`).
    """
    from bertcompress.models.recognising import sentence_modules

    if not sentence_modules(file.parent):
        return
    openvino = require("openvino", "openvino")
    model = openvino.Core().read_model(file)
    openvino.save_model(model, file.with_name(INTERMEDIATE_FILE), compress_to_fp16=False)


def _advanced(nncf: Any, smoothing: float | None, percentile: bool) -> Any:
    """Return NNCF's further parameters; None where all are its defaults."""
    if smoothing is None and not percentile:
        return None
    options: dict[str, Any] = {}
    if smoothing is not None:
        options["smooth_quant_alphas"] = nncf.AdvancedSmoothQuantParameters(matmul=smoothing)
    if percentile:
        ends = nncf.quantization.range_estimator
        options["activations_range_estimator_params"] = ends.RangeEstimatorParameters(
            min=ends.StatisticsCollectorParameters(
                statistics_type=ends.StatisticsType.QUANTILE, quantile_outlier_prob=1e-3
            ),
            max=ends.StatisticsCollectorParameters(
                statistics_type=ends.StatisticsType.QUANTILE, quantile_outlier_prob=1e-3
            ),
        )
    return nncf.AdvancedQuantizationParameters(**options)


def predictor(
    path: str | Path,
    threads: int | None = None,
    precision: str | None = None,
    serving: str = "dynamic",
    max_length: int | None = None,
    limit: int | None = None,
) -> Predictor:
    """Return the ONNX file ready to run on the CPU, tuned for latency.

    Args:
        path: An `.onnx` file.
        threads: Threads of one inference; None takes OpenVINO's choice.
        precision: None tells it by the name of the file. `auto` lets OpenVINO run an fp32 file in
            what it prefers on this processor (on some bf16); else what is not int8 runs in fp32.
        serving: `dynamic` compiles for each new length when it comes. The others pad single texts
            to 16, 32, 64 ... tokens and are ready for these once open: `warmed` in one model,
            `buckets` in a model each, which takes several times the memory.
        max_length: Tokens of the longest text that is padded; None takes the model's limit.
        limit: Tokens of the longest text that the model takes; None tells it by the config.json
            beside the file.

    Raises:
        CheckpointError for a file that OpenVINO cannot read; ModelError where its texts cannot be
        padded; MissingExtra.
    """
    file = Path(path)
    named = precision_of(file)
    if precision is None or (precision == "auto" and named != "fp32"):
        precision = named
    options: dict[str, Any] = {"precision": precision, "threads": threads}
    if serving == "dynamic":
        return OpenVinoPredictor(file, **options)
    limit, pad_id = limit or text_limit(file.parent), padding_id(file.parent)
    lengths = bucket_lengths(max_length or limit, limit)
    per_token = _per_token(file, serving)
    opened: dict[int, Predictor]
    plain: Callable[[], Predictor]
    if serving == "buckets":
        opened = {n: OpenVinoPredictor(file, **options, length=n) for n in lengths}
        plain = partial(OpenVinoPredictor, file, **options)
    else:
        one = OpenVinoPredictor(file, **options)
        opened, plain = dict.fromkeys(lengths, one), lambda: one
    return BucketPredictor(opened, plain, serving=serving, pad_id=pad_id, per_token=per_token)


class OpenVinoPredictor:
    """One compiled model with one request; only the inputs that the graph has are fed."""

    runtime = "openvino"
    serving = "dynamic"

    def __init__(
        self, file: Path, precision: str, threads: int | None = None, length: int | None = None
    ) -> None:
        """Compile the file; with `length` for single texts of so many tokens and nothing else."""
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        if precision != "auto":
            # Where OpenVINO prefers bf16 (AMX), 2026.4 answers wrongly, or ends the process, where
            # an int8 text has as many tokens as a head has dimensions; f32 is as fast there.
            options["INFERENCE_PRECISION_HINT"] = "f32"
        core = require("openvino", "openvino").Core()
        read = _read(core, file)
        if length is not None:
            _reshape(read, length)
        try:
            model = core.compile_model(read, "CPU", options)
        except RuntimeError as error:
            words = one_line(error)
            raise CheckpointError(f"{file}: not readable by OpenVINO: {words}") from error
        ports = {port.get_any_name(): _sizes(port) for port in model.inputs}
        check_ports(file, ports, [_sizes(port) for port in model.outputs])
        if precision == "auto":
            hint = model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
            precision = {"f32": "fp32"}.get(hint, hint)
        self.precision = precision
        self._request = model.create_infer_request()
        self._inputs = [port.get_any_name() for port in model.inputs]
        self._outputs, self._file = len(model.outputs), file

    def __call__(self, batch: Batch) -> Logits:
        """Return the logits. Shape: (B, T) -> (B, K)."""
        inputs = {name: batch[name] for name in self._inputs if name in batch}
        try:
            self._request.infer(inputs, share_inputs=True)
        except RuntimeError as error:
            shape, words = batch["input_ids"].shape, one_line(error)
            raise ModelError(f"{self._file}: fails on texts of shape {shape}: {words}") from error
        outputs = [self._request.get_output_tensor(i).data for i in range(self._outputs)]
        check_answers(self._file, outputs, len(batch["input_ids"]))
        # Copied: the request's buffers are written again by the next call.
        return join_outputs([np.array(output) for output in outputs])


def _read(core: Any, file: Path) -> Any:
    try:
        return core.read_model(str(file))
    except RuntimeError as error:
        words = one_line(error)
        raise CheckpointError(f"{file}: not readable by OpenVINO: {words}") from error


def _sizes(port: Any) -> list[int | None]:
    shape = port.partial_shape
    if shape.rank.is_dynamic:
        return [None, None]
    return [size.get_length() if size.is_static else None for size in shape]


def _reshape(model: Any, length: int) -> None:
    """Fix a model that was read to single texts of one length, in place."""
    model.reshape({port.get_any_name(): [1, length] for port in model.inputs})


def _per_token(file: Path, serving: str) -> bool:
    """Return whether the answers are as long as the texts; ModelError where padding would count."""
    model = _read(require("openvino", "openvino").Core(), file)
    ranks = {port.get_any_name(): len(port.partial_shape) for port in model.inputs}
    if "attention_mask" not in ranks or set(ranks.values()) != {2}:
        raise ModelError(
            f"{file}: serving '{serving}' pads texts, and needs an attention_mask and inputs of "
            f"(texts, tokens); this graph has {', '.join(sorted(ranks))}; allowed: dynamic"
        )
    sizes = []
    for length in (2, 3):
        _reshape(model, length)
        sizes.append([tuple(port.shape) for port in model.outputs])
    return sizes[0] != sizes[1]


def _rows(batches: Iterable[Batch], names: list[str]) -> Iterator[dict[str, NDArray[np.int64]]]:
    """Yield each row by itself, without padding, whose activations would count as real ones."""
    for batch in batches:
        for i, mask in enumerate(batch["attention_mask"]):
            real = mask.astype(bool) if mask.ndim == 1 else np.ones(mask.shape[-1], bool)
            yield {name: batch[name][i : i + 1][..., real] for name in names if name in batch}


def _nncf() -> Any:
    """Import NNCF with its usage reports switched off: what a user compresses is their business."""
    before = os.environ.get("NNCF_CI")
    os.environ["NNCF_CI"] = "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return require("nncf", "openvino")
    finally:
        if before is None:
            del os.environ["NNCF_CI"]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """NNCF prints progress bars on standard output and logs each step."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class OpenVino(Runtime):
    """Runs ONNX files on processors: fp32, and int8 with ranges from rows of the task."""

    name: ClassVar[str] = "openvino"
    extra: ClassVar[str | None] = "openvino"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "openvino", "nncf")
    engine: ClassVar[str] = "openvino"
    serving: ClassVar[tuple[str, ...]] = (DYNAMIC, "warmed", "buckets")
    files: ClassVar[Mapping[str, RuntimeFile]] = {
        "int8": RuntimeFile(_RUN.openvino / OPENVINO_INT8_FILE, 1),
        "int4-8": RuntimeFile(_RUN.onnx / Q4_FILE, 4, own=False),
        "fp32": RuntimeFile(_RUN.onnx / MODEL_FILE, 6, own=False),
    }
    needs_rows: ClassVar[bool] = True
    loads_in: ClassVar[str | None] = "OpenVINO; no code of ours"
    tags: ClassVar[tuple[str, ...]] = ("onnx", "openvino")
    colour: ClassVar[tuple[str, str]] = ("#009E73", "#2BC59A")
    marker: ClassVar[str] = "D"

    def export(self, product: Product, folder: Path) -> Deployment:
        """Write `onnx/model.onnx` below the folder of a run."""
        return export(product, Layout(folder).onnx)

    def quantize(
        self, folder: Path, calibration: Sequence[Batch], *, exclude: Sequence[str] = (), **how: Any
    ) -> Deployment:
        """Write `openvino/model_int8.onnx` below the folder of a run; see the function."""
        run = Layout(folder)
        return quantize(run.onnx, calibration, run.openvino, exclude=exclude, **how)

    def quantize_settings(self) -> list[dict[str, Any]]:
        """Return the settings to try: of smoothing, and of what counts as an outlier."""
        return [{}, {"smoothing": 0.5}, {"percentile": True}, {"smoothing": -1.0}]

    def adopt_integers(self, file: Path, folder: Path) -> Deployment | None:
        """Return a deployment of a copy of the file in `openvino/`, config and tokenizer beside."""
        from bertcompress.runtimes.onnx.export import companions

        copy = folder / self.files["int8"].path
        companions(file.parent, copy.parent)
        shutil.copy2(file, copy)
        _write_intermediate(copy)
        return Deployment(self.name, "int8", copy)

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
    ) -> Predictor:
        """Return the ONNX file ready to run; see `predictor`."""
        return predictor(path, threads, precision, serving, max_length, limit)
