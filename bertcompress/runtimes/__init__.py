"""Where a compressed model runs: one class per runtime, the table of them, and how one is opened.

Scoring, timing and int8 all go through `Runtime`, so nothing above this room knows a runtime by
name or a model class. `open_predictor` picks the runtime for a path.
"""

from __future__ import annotations

from pathlib import Path

from bertcompress.errors import ModelError, NotFound, unknown
from bertcompress.models.recognising import weights_obstacle, what_else
from bertcompress.runtimes.hardware import compute_device
from bertcompress.runtimes.runtime import (
    DYNAMIC,
    INPUTS,
    Artefact,
    Batch,
    Logits,
    Predictor,
    Runtime,
    RuntimeFile,
    join_outputs,
    require,
)
from bertcompress.runtimes.table import (
    REFERENCE,
    RUNTIMES,
    all_runtimes,
    available_runtimes,
    known_runtime,
    missing_runtimes,
    runtime_named,
)

__all__ = [
    "DYNAMIC",
    "INPUTS",
    "REFERENCE",
    "RUNTIMES",
    "Artefact",
    "Batch",
    "Logits",
    "Predictor",
    "Runtime",
    "RuntimeFile",
    "all_runtimes",
    "available_runtimes",
    "depends_on_company",
    "join_outputs",
    "known_runtime",
    "locate",
    "missing_runtimes",
    "open_predictor",
    "require",
    "runtime_named",
    "serving_modes",
]

MODEL_FILE = "model.onnx"
QUANTIZED_FILE = "model_quantized.onnx"
OPENVINO_INT8_FILE = "model_int8.onnx"
Q4_FILE = "model_q4.onnx"


def depends_on_company(predictor: Predictor) -> bool:
    """Return whether an answer may change with the texts that are answered beside it.

    So it is with every int8 file: ranges that are taken on the fly hold for a whole batch, and with
    fixed ones the last bits of a sum, which depend on the batch, still decide how numbers round.
    """
    runtime = known_runtime(predictor.runtime)
    return runtime is not None and predictor.precision in runtime.batch_dependent


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
        runtime: A key of `RUNTIMES`; None takes the one that the artefact was made for. Of a run
            that is its torch model, unless `precision` says otherwise.
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
    name, found = locate(path, runtime, precision)
    chosen = runtime_named(name)
    if serving is not None and serving not in chosen.serving:
        raise ModelError(unknown(f"{path} ({name})", "serving", serving, chosen.serving))
    if device == "auto":
        device = compute_device() if compute_device() in chosen.devices else "cpu"
    if device not in chosen.devices:
        raise ModelError(unknown(f"{path} ({name})", "device", device, chosen.devices))
    return chosen.open(
        found,
        precision=precision,
        device=device,
        threads=threads,
        serving=serving or DYNAMIC,
        max_length=max_length,
        limit=limit,
    )


def serving_modes(runtime: str) -> tuple[str, ...]:
    """Return how a runtime can be opened to serve texts, `dynamic` first."""
    return runtime_named(runtime).serving


def locate(
    path: str | Path, runtime: str | None = None, precision: str | None = None
) -> tuple[str, str | Path]:
    """Return runtime and exact artefact (a folder or Hub id for torch, else a file) behind a path.

    Without `runtime` and `precision`, a torch model goes first. Of ONNX files int8 goes before
    fp32, since it is what ships, and OpenVINO before ONNX Runtime. Raises NotFound, ModelError.
    """
    if runtime is not None:
        runtime_named(runtime, str(path))  # refuses an unknown one before anything is looked for
    place = Path(path).expanduser()
    if place.is_file():
        return _file(place, runtime)
    if not place.is_dir():
        return _elsewhere(path, runtime, precision)
    held = [each for of in all_runtimes() for each in of.artefacts(place)]
    held.sort(key=lambda each: each.choice)
    for each in held:
        named = each.runtime == runtime
        if (named or runtime is None) and runtime_named(each.runtime).serves(
            each.precision, precision, named=named
        ):
            return each.runtime, each.path
    if not held and (words := what_else(place)):
        raise ModelError(f"{path}: {words}")
    wanted = " for ".join(filter(None, [f"{precision or ''} model".strip(), runtime]))
    there = ", ".join(f"{each.runtime} {each.precision}" for each in held)
    there = there or f"neither config.json and *.safetensors nor *.onnx: {weights_obstacle(place)}"
    raise NotFound(f"{path}: no {wanted} in this folder; it holds {there}")


def _file(file: Path, runtime: str | None) -> tuple[str, Path]:
    """Return the runtime of a file: the one named, that it was made for, or the first for it."""
    able = [each for each in all_runtimes() if each.suffix == file.suffix]
    if not able:
        kinds = dict.fromkeys(each.suffix for each in all_runtimes() if each.suffix)
        raise ModelError(f"{file}: a model is a folder or an {' or '.join(kinds)} file")
    names = [each.name for each in able]
    if runtime is not None and runtime not in names:
        raise ModelError(
            f"{file}: {runtime} does not run {file.suffix} files; allowed: {', '.join(names)}"
        )
    made = [each for each in able if each.made_for(file)]
    # Whoever makes the file that is preferred of a whole run.
    made.sort(key=lambda each: min(its.choice for its in each.files.values()))
    return runtime or (made or able)[0].name, file


def _elsewhere(path: str | Path, runtime: str | None, precision: str | None) -> tuple[str, str]:
    """Return the runtime of an id of the Hub; raises NotFound for what can only be a path."""
    name = str(path)
    # A Hub id is `name` or `owner/name`; anything that can only be a path is a missing one.
    if isinstance(path, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise NotFound(f"{path}: no such file or folder")
    every = list(all_runtimes())
    if any(each.suffix and name.endswith(each.suffix) for each in every):
        raise NotFound(f"{path}: no such file")
    opens_ids = next(each for each in every if each.opens_folders)
    named = None if runtime is None else runtime_named(runtime)
    if named is not None and not named.opens_folders:
        raise NotFound(f"{path}: no such folder; {runtime} runs local {named.suffix} files only")
    chosen = named or opens_ids
    if not chosen.serves("fp32", precision, named=named is not None):
        raise NotFound(f"{path}: no such folder; {precision} models are local .onnx files")
    return chosen.name, name
