"""Where a compressed model runs: one file per runtime, each with the same three functions.

`export(product, folder) -> Deployment`, `quantize(folder, calibration, ...) -> Deployment` and
`predictor(path, ...) -> Predictor`. Scoring, timing and int8 all go through these, so nothing above
this room knows a model class. `open_predictor` picks the runtime for a path.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bertcompress.deployment import precision_name
from bertcompress.errors import MissingExtra, ModelError, NotFound, unknown
from bertcompress.models.config_fields import lowbit_widths, read_fields_of
from bertcompress.models.recognising import encoder_folder, weights_obstacle, what_else
from bertcompress.runtimes.hardware import compute_device

__all__ = [
    "DEVICES",
    "ONNX_FILES",
    "RUNTIMES",
    "SERVING",
    "Batch",
    "Int8Runtime",
    "Logits",
    "Predictor",
    "available_runtimes",
    "depends_on_company",
    "fits",
    "join_outputs",
    "locate",
    "missing_runtimes",
    "open_predictor",
    "require",
    "serving_modes",
]

Batch = Mapping[str, NDArray[np.int64]]
"""`input_ids`, `attention_mask` and, for families that use them, `token_type_ids`. Shape: (B, T);
(B, choices, T) for multiple choice."""

Logits = NDArray[np.float32]
"""Shape: (B, K) for classification and regression, (B, T, K) per token, (B, T, 2) for start and end
of an answer, (B, T, H) for a bare model."""

RUNTIMES = ("torch", "onnxruntime", "openvino")

SERVING: Mapping[str, tuple[str, ...]] = {"openvino": ("dynamic", "warmed", "buckets")}
"""How a runtime can be opened to serve texts, where there is a choice. `dynamic`: any batch as it
comes. The others pad single texts to a few lengths, for which they are ready once open."""

DEVICES: Mapping[str, tuple[str, ...]] = {"torch": ("cpu", "cuda")}
"""Where a runtime can compute, if not on the processor alone."""

_NEEDS: Mapping[Int8Runtime, tuple[str, ...]] = {
    "onnxruntime": ("onnx", "onnxruntime"),
    "openvino": ("onnx", "openvino", "nncf"),
}
_EXTRA = {"onnxruntime": "onnx", "openvino": "openvino"}

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
MODEL_FILE = "model.onnx"
QUANTIZED_FILE = "model_quantized.onnx"
OPENVINO_INT8_FILE = "model_int8.onnx"
Q4_FILE = "model_q4.onnx"

ONNX_FILES = (
    ("openvino", "int8", "openvino", OPENVINO_INT8_FILE),
    ("onnxruntime", "int8", "onnx", QUANTIZED_FILE),
    ("onnxruntime", "int4-8", "onnx", Q4_FILE),
    ("openvino", "int4-8", "onnx", Q4_FILE),
    ("onnxruntime", "fp32", "onnx", MODEL_FILE),
    ("openvino", "fp32", "onnx", MODEL_FILE),
)
"""Runtime, precision, folder and file of what a model ships besides torch; first choice first."""


@runtime_checkable
class Predictor(Protocol):
    """A loaded artefact: a batch in, logits out, in eval and inference mode, not warmed up."""

    runtime: str
    """`torch`, `onnxruntime` or `openvino`."""
    precision: str
    """`fp32`, `bf16`, `int8` or `int4-8`."""

    def __call__(self, batch: Batch) -> Logits:
        """Return the logits. Shape: (B, T) -> (B, K)."""
        ...


Int8Runtime = Literal["onnxruntime", "openvino"]


def available_runtimes() -> list[Int8Runtime]:
    """Return the int8 runtimes that are installed; raises MissingExtra where there is none."""
    found = [runtime for runtime in _NEEDS if not _lacking(runtime)]
    if not found:
        raise MissingExtra("onnxruntime", "onnx")
    return found


def missing_runtimes(names: Sequence[str]) -> tuple[str, ...]:
    """Return a line for each int8 runtime that is not among `names` for want of a package."""
    return tuple(
        f"no file for {runtime}: {MissingExtra(_lacking(runtime)[0], _EXTRA[runtime])}"
        for runtime in _NEEDS
        if runtime not in names and _lacking(runtime)
    )


def _lacking(runtime: Int8Runtime) -> list[str]:
    return [name for name in _NEEDS[runtime] if not importlib.util.find_spec(name)]


def depends_on_company(predictor: Predictor) -> bool:
    """Return whether an answer may change with the texts that are answered beside it.

    So it is with every int8 file: ranges that are taken on the fly hold for a whole batch, and with
    fixed ones the last bits of a sum, which depend on the batch, still decide how numbers round.
    """
    ran = (predictor.runtime, predictor.precision)
    return predictor.precision == "int8" and ran in {row[:2] for row in ONNX_FILES}


def open_predictor(
    path: str | Path,
    runtime: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    *,
    serving: str | None = None,
    max_length: int | None = None,
    limit: int | None = None,
    device: str = "cpu",
) -> Predictor:
    """Return an artefact ready to run: a model folder, `.onnx` file, run folder or Hub id.

    Args:
        path: What `locate` understands.
        runtime: One of `RUNTIMES`; None takes the one that the artefact was made for. Of a run that
            is its torch model, unless `precision` says otherwise.
        threads: Threads of one inference; None leaves the runtime's own choice.
        precision: `fp32`, `bf16` or `int8`; None takes what the artefact holds. Only a runtime that
            holds it is chosen: torch, which could convert to int8 on loading, does so where
            `runtime` names it.
        serving: What `serving_modes` offers for the runtime; None is `dynamic`. `warmed` and
            `buckets` pad single texts to 16, 32, 64 ... tokens and have compiled for these lengths
            when this returns. Other batches, and longer texts, are answered as by `dynamic`.
        max_length: Tokens of the longest text that is padded so; None takes the model's limit.
        limit: Tokens of the longest text that the model takes; None tells it by its config.
        device: `cpu`, `cuda`, or `auto` for the GPU where there is one that the runtime uses.

    Raises:
        NotFound, ModelError, CheckpointError, MissingExtra.
    """
    runtime, found = locate(path, runtime, precision)
    module = importlib.import_module(f"bertcompress.runtimes.{runtime}")
    options: dict[str, Any] = {} if precision is None else {"precision": precision}
    modes = serving_modes(runtime)
    if serving is not None and serving not in modes:
        raise ModelError(unknown(f"{path} ({runtime})", "serving", serving, modes))
    if serving not in (None, "dynamic"):
        options |= {"serving": serving, "max_length": max_length, "limit": limit}
    devices = DEVICES.get(runtime, ("cpu",))
    if device == "auto":
        device = compute_device() if compute_device() in devices else "cpu"
    if device not in devices:
        raise ModelError(unknown(f"{path} ({runtime})", "device", device, devices))
    if device != "cpu":
        options["device"] = device
    return cast(Predictor, module.predictor(found, threads=threads, **options))


def serving_modes(runtime: str) -> tuple[str, ...]:
    """Return how a runtime can be opened to serve texts, `dynamic` first."""
    return SERVING.get(runtime, ("dynamic",))


def locate(
    path: str | Path, runtime: str | None = None, precision: str | None = None
) -> tuple[str, str | Path]:
    """Return runtime and exact artefact (a folder or Hub id for torch, else a file) behind a path.

    Without `runtime` and `precision`, a torch model goes first. Of ONNX files int8 goes before
    fp32, since it is what ships, and OpenVINO before ONNX Runtime. Raises NotFound, ModelError.
    """
    if runtime is not None and runtime not in RUNTIMES:
        raise ModelError(unknown(str(path), "runtime", runtime, RUNTIMES))
    place = Path(path).expanduser()
    if place.is_file():
        return _file(place, runtime)
    if not place.is_dir():
        return _elsewhere(path, runtime, precision)
    held = list(_held(place))
    for name, has, found in held:
        if runtime in (None, name) and fits(name, has, runtime, precision):
            return name, found
    if not held and (words := what_else(place)):
        raise ModelError(f"{path}: {words}")
    wanted = " for ".join(filter(None, [f"{precision or ''} model".strip(), runtime]))
    there = ", ".join(f"{name} {has}" for name, has, _ in held)
    there = there or f"neither config.json and *.safetensors nor *.onnx: {weights_obstacle(place)}"
    raise NotFound(f"{path}: no {wanted} in this folder; it holds {there}")


def _held(place: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield runtime, precision and artefact of what a folder holds, the first choice first."""
    for folder in (place, place / "model", encoder_folder(place)):
        if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
            yield "torch", _stored(folder), folder
            break
    for runtime, precision, folder_name, file in ONNX_FILES:
        for found in (place / file, place / folder_name / file):
            if found.is_file():
                yield runtime, precision, found
                break


def _stored(folder: Path) -> str:
    """Return in what the weights of a model folder are stored, by the record in its config."""
    fields = read_fields_of(folder / "config.json", str(folder))
    return precision_name(lowbit_widths(fields, str(folder)))


def fits(runtime: str, holds: str, asked: str | None, precision: str | None) -> bool:
    """Return whether an artefact serves a wish for a precision."""
    if runtime == "torch" and (asked == "torch" or precision == "bf16"):
        return True  # PyTorch converts on loading, and refuses what it cannot
    return precision in (None, holds)


def _file(file: Path, runtime: str | None) -> tuple[str, Path]:
    if file.suffix != ".onnx":
        raise ModelError(f"{file}: a model is a folder or an .onnx file")
    if runtime == "torch":
        raise ModelError(f"{file}: torch does not run .onnx files; allowed: onnxruntime, openvino")
    made_for_openvino = file.name == OPENVINO_INT8_FILE or file.parent.name == "openvino"
    return runtime or ("openvino" if made_for_openvino else "onnxruntime"), file


def _elsewhere(path: str | Path, runtime: str | None, precision: str | None) -> tuple[str, str]:
    name = str(path)
    # A Hub id is `name` or `owner/name`; anything that can only be a path is a missing one.
    if isinstance(path, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise NotFound(f"{path}: no such file or folder")
    if name.endswith(".onnx"):
        raise NotFound(f"{path}: no such file")
    if runtime not in (None, "torch"):
        raise NotFound(f"{path}: no such folder; {runtime} runs local .onnx files only")
    if not fits("torch", "fp32", runtime, precision):
        raise NotFound(f"{path}: no such folder; {precision} models are local .onnx files")
    return "torch", name


def join_outputs(outputs: Sequence[NDArray[Any]]) -> Logits:
    """Return a model's outputs as one array: start and end logits are stacked on a last axis."""
    joined = outputs[0] if len(outputs) == 1 else np.stack(outputs, axis=-1)
    return np.ascontiguousarray(joined, dtype=np.float32)


def require(package: str, extra: str) -> Any:
    """Return an optional package; raises MissingExtra with the pip command where it is absent."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise MissingExtra(package, extra) from error
