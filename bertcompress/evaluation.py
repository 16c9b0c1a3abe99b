"""Verbs on models that exist: `evaluate`, `bench`, `export`, `inspect`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from bertcompress.artefact import Deployment, Product, load, locate, rung
from bertcompress.data import load_data
from bertcompress.errors import InputError, ModelError, NotFound
from bertcompress.measure import (
    Candidate,
    LayerRow,
    Parameters,
    Score,
    Timing,
    count_parameters,
    layer_table,
    predict,
    score,
    task_batches,
    time_candidates,
)
from bertcompress.runtimes import locate as locate_artefact
from bertcompress.runtimes import open_predictor
from bertcompress.task import Task

__all__ = ["Inspection", "bench", "evaluate", "export", "inspect"]


@dataclass(frozen=True)
class _Place:
    """Where an artefact is, and the folder with its config and tokenizer."""

    runtime: str
    path: Path
    folder: Path

    @property
    def config(self) -> dict[str, Any]:
        """The plain content of config.json."""
        file = self.folder / "config.json"
        if not file.is_file():
            raise ModelError(f"{self.path}: no config.json beside it")
        return dict(json.loads(file.read_text(encoding="utf-8")))

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that lies with the artefact."""
        try:
            found = AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)
        except Exception as error:  # the tokenizers package raises bare ones
            reason = " ".join(str(error).split())
            raise ModelError(f"{self.path}: no tokenizer beside it ({reason})") from None
        return found


def _find(model: str | Path, runtime: str | None, revision: str | None = None) -> _Place:
    local = Path(model).expanduser()
    path: str | Path = local if local.exists() else locate(str(model), revision=revision)
    name, found = locate_artefact(path, runtime)
    place = Path(found)
    return _Place(name, place, place if place.is_dir() else place.parent)


def evaluate(
    model: str | Path,
    task: str | Task,
    *,
    runtime: str | None = None,
    split: str = "validation",
    data_dir: str | Path | None = None,
    limit: int | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> list[Score]:
    """Return the task's metrics of a model with their 95 % intervals.

    `model`: a folder, a run, an `.onnx` file or its folder, or a Hub id. Labels are aligned by name
    through the model's `id2label`. Raises InputError and its kin.
    """
    place = _find(model, runtime, revision)
    wanted = task if isinstance(task, Task) else Task.load(task)
    # A config that names no classes has two, called LABEL_0 and LABEL_1.
    given = place.config.get("id2label") or {0: "LABEL_0", 1: "LABEL_1"}
    names = {int(i): str(name) for i, name in given.items()}
    data = load_data(wanted, data_dir=data_dir, limit=limit, model_labels=names)
    if data.task.problem == "unlabelled":
        raise InputError(
            f"task '{data.task.name}' has no labels to evaluate against; compare models with "
            "bench, or run a recipe: its report gives the agreement with the original"
        )
    predictor = open_predictor(place.path, place.runtime, None, trust_remote_code)
    splits = [split, *data.also] if split == "validation" else [split]
    tokenizer = place.tokenizer()
    return [
        row
        for name in splits
        for row in score(data.task, data, name, predict(predictor, data, name, tokenizer))
    ]


def bench(
    models: Sequence[str | Path],
    *,
    shapes: Sequence[tuple[int, int]] = ((1, 128), (8, 128)),
    task: str | Task | None = None,
    data_dir: str | Path | None = None,
    threads: int | None = None,
    seconds: float = 20.0,
) -> list[Timing]:
    """Return load time, memory, latency and throughput of models, timed in turn in one run.

    The first model is what the ratios refer to; with `task`, its own texts are timed too. `seconds`
    is spent on each shape.
    """
    if not models:
        raise NotFound("bench: no model given")
    places = [_find(model, None) for model in models]
    batches: list[Any] = [None] * len(places)
    if task is not None:
        data = load_data(task if isinstance(task, Task) else Task.load(task), data_dir=data_dir)
        batches = [task_batches(data, "validation", place.tokenizer()) for place in places]
    candidates = [
        Candidate(
            path=place.path,
            runtime=place.runtime,
            baseline="torch" if i == 0 else None,
            vocab_size=int(place.config["vocab_size"]),
            task_batches=own,
        )
        for i, (place, own) in enumerate(zip(places, batches, strict=True))
    ]
    count = len(shapes) + (2 if task is not None else 0)
    return time_candidates(candidates, shapes, threads=threads, seconds=seconds * count)


def export(model: str | Path, out: str | Path, *, revision: str | None = None) -> list[Deployment]:
    """Write `onnx/` with fp32 and dynamic int8 files under `out`, and return them.

    Static int8 for OpenVINO needs calibration rows: that is the method `quantize_int8` of a recipe.
    """
    from bertcompress.runtimes import onnxruntime

    product = load(model, revision=revision)
    folder = Path(out) / "onnx"
    return [onnxruntime.export(product, folder), onnxruntime.quantize(folder)]


@dataclass(frozen=True)
class Inspection:
    """Where a model's parameters, bytes and multiply-accumulates are."""

    product: Product
    parameters: Parameters
    rows: list[LayerRow]
    loads_in: str


def inspect(model: str | Path, *, length: int = 128, revision: str | None = None) -> Inspection:
    """Return where parameters, bytes and multiply-accumulates are, layer by layer."""
    product = load(model, revision=revision)
    rows = layer_table(product.model, length)
    return Inspection(product, count_parameters(product.model), rows, rung(product.model)[1])
