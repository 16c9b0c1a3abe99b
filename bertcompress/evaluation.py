"""Verbs on models that exist: `evaluate`, `bench`, `export`, `inspect`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from bertcompress.artefact import (
    Deployment,
    Product,
    class_of,
    load,
    locate,
    max_tokens,
    precision_of,
    rung,
)
from bertcompress.data import TaskData, data_of, load_data
from bertcompress.display import logged
from bertcompress.errors import InputError, ModelError, NotFound, Notice
from bertcompress.heads.stock import check_one_output, head_words, is_classifier
from bertcompress.measure import (
    Candidate,
    Claim,
    Latency,
    LayerRow,
    Parameters,
    Row,
    Score,
    Timing,
    busy_words,
    count_parameters,
    cut_words,
    environment,
    layer_table,
    machine_load,
    predict,
    ratio_claim,
    score,
    speed_claim,
    task_batches,
    time_candidates,
)
from bertcompress.measure.probe import record
from bertcompress.places import Place, Say, all_places, find_place
from bertcompress.publish.serving import write_serving
from bertcompress.recognising import left_out_layers
from bertcompress.run_task import TEST, is_test_file, kept_task, with_test_file
from bertcompress.runtimes import open_predictor
from bertcompress.task import Task
from bertcompress.tokenizing import check_vocabulary, longest_text

__all__ = ["BenchRow", "Inspection", "bench", "evaluate", "export", "inspect"]


def evaluate(
    model: str | Path,
    task: str | Task | None = None,
    *,
    test: str | Path | None = None,
    runtime: str | None = None,
    precision: str | None = None,
    split: str = "validation",
    data_dir: str | Path | None = None,
    limit: int | None = None,
    revision: str | None = None,
    say: Say = logged,
) -> list[Score]:
    """Return the task's metrics of a model with their 95 % intervals.

    `model`: a folder, a run, an `.onnx` file or its folder, or a Hub id. A run stands for the
    deployment that its verdict is about; `runtime` and `precision` choose another, and `say` is
    told which it was. Without `task` it is that of the run, its limit of rows included; `test` is a
    file of rows that takes the place of the validation split, and is called `test` in the result.
    Labels are aligned by name through the model's `id2label`. Raises InputError and its kin.
    """
    place = find_place(model, runtime, precision, revision, say)
    _check_head(place)
    wanted, limit = _judged_by(place, task, test, limit)
    # A config that names no classes has two, called LABEL_0 and LABEL_1; one output names none.
    names = {int(i): str(name) for i, name in place.config.id2label.items()}
    given = names if len(names) > 1 else None
    data = data_of(str(model), given, wanted, data_dir=data_dir, limit=limit)
    check_one_output(place.config, data.task, str(model))
    if not data.task.head.has_labels:
        raise InputError(
            f"task '{data.task.name}' has no labels to evaluate against; compare models with "
            "bench, or run a recipe: its report gives the agreement with the original"
        )
    tokenizer = place.tokenizer()
    check_vocabulary(tokenizer, data.split(split)["text"][:], str(model))
    predictor = open_predictor(place.path, place.runtime, None, place.precision, device="auto")
    splits = [split, *data.also] if split == "validation" else [split]
    data = data.fitted(tokenizer)
    for line in data.notes:
        say(line)
    rows = [
        row
        for name in splits
        for row in score(data.task, data, name, predict(predictor, data, name, tokenizer))
    ]
    if not is_test_file(wanted):
        return rows
    return [row.model_copy(update={"split": TEST}) for row in rows]


def _judged_by(
    place: Place, task: str | Task | None, test: str | Path | None, limit: int | None
) -> tuple[Task, int | None]:
    """Return the task that was asked for, else that of the model's run, and the limit of rows."""
    if task is None:
        kept = kept_task(place.path)
        if kept is None:
            raise InputError(
                f"task: {place.model} is no run, which would know its own; name one: "
                "`bertcompress list tasks` shows them"
            )
        task, limit = kept[0], limit if limit or test else kept[1]
    wanted = task if isinstance(task, Task) else Task.load(task)
    return (wanted if test is None else with_test_file(wanted, test)), limit


def _check_head(place: Place) -> None:
    """Raise ModelError for a model that gives no row of numbers for each text."""
    if place.runtime == "torch":
        cls = class_of(place.path)
        if not is_classifier(cls):
            raise ModelError(
                f"model '{place.model}': {head_words(cls)}; evaluate needs a sequence "
                "classification head, which answers for whole texts. export, bench and inspect "
                "take it as it is"
            )


class BenchRow(Row):
    """How fast one model is at one batch size and length, beside the others of the same run."""

    model: str = Field(description="As it was given")
    runtime: str = Field(description="torch, onnxruntime or openvino")
    precision: str = Field(description="fp32, bf16 or int8")
    time: Latency = Field(description="Its times")
    speedup_vs_first: float = Field(description="Times faster than the first model")
    spread: float = Field(ge=0, description="Of that ratio, from the rounds of both sides")
    load_s: float = Field(ge=0, description="Seconds from opening it to its first answer")
    memory_mb: float = Field(ge=0, description="Megabytes that its process held at most")

    @property
    def label(self) -> str:
        """Runtime, precision and how it was opened, in words."""
        mode = "" if self.time.serving == "dynamic" else f", {self.time.serving}"
        return f"{self.runtime} {self.precision}{mode}"

    @property
    def claim(self) -> Claim:
        """The speed-up over the first model, which stands where it exceeds its spread."""
        return ratio_claim(self.speedup_vs_first, self.spread, disturbed=self.time.disturbed)

    @property
    def cells(self) -> dict[str, str]:
        """What a table shows of it beside the model, by heading."""
        time = self.time
        return {
            "runtime": self.label,
            "batch": str(time.batch),
            "tokens": str(time.length),
            "ms": f"{time.batch_ms:.2f}",
            "p95 ms": f"{time.p95_ms:.2f}",
            "first pass": "-" if time.first_batch_ms is None else f"{time.first_batch_ms:.2f}",
            "per s": f"{time.throughput_per_s:.0f}",
            "vs first": self.claim.exact_words,
        }


def bench(
    models: Sequence[str | Path],
    *,
    runtime: str | None = None,
    precision: str | None = None,
    shapes: Sequence[tuple[int, int]] = ((1, 128), (8, 128)),
    task: str | Task | None = None,
    data_dir: str | Path | None = None,
    threads: int | None = None,
    seconds: float = 20.0,
    revision: str | None = None,
    say: Say = logged,
) -> list[BenchRow]:
    """Return load time, memory, latency and throughput of models, timed in turn in one run.

    The first is what the ratios refer to; with `task`, its own texts are timed too, one at a time
    in the serving mode that is best for each model. `seconds` is spent on each shape, as much again
    at most where something else disturbs. A run alone stands for all that it ships; beside other
    models, for the deployment that its verdict is about. `runtime` and `precision` choose for every
    model, `revision` for every Hub id.
    """
    if not models:
        raise NotFound("bench: no model given")
    alone = len(models) == 1 and runtime is None and precision is None
    places = all_places(str(models[0]), revision) if alone else []
    if places:
        say(f"{models[0]}: all that it ships; --runtime and --precision choose one")
    else:
        places = [find_place(model, runtime, precision, revision, say) for model in models]
    batches: list[Any] = [None] * len(places)
    if task is not None:
        data = load_data(task if isinstance(task, Task) else Task.load(task), data_dir=data_dir)
        batches = _texts_for(places, data, say)
    candidates = [
        Candidate(
            path=place.path,
            runtime=place.runtime,
            precision=place.precision,
            vocab_size=place.vocab_size,
            longest=longest_text(place.folder, str(place.path)),
            task_batches=own,
        )
        for place, own in zip(places, batches, strict=True)
    ]
    for words in cut_words(shapes, candidates):
        say(words)
    count = len(shapes) + (2 if task is not None else 0)
    timings = time_candidates(candidates, shapes, threads=threads, seconds=seconds * count)
    load = machine_load(timings)
    for words in busy_words(load["busy_cores"], load["disturbed_rounds"]):
        say(words)
    return [
        _bench_row(place.model, timing, time, first)
        for place, timing in zip(places, timings, strict=True)
        for time, first in zip(timing.latency, timings[0].latency, strict=True)
    ]


def _texts_for(places: Sequence[Place], data: TaskData, say: Say) -> list[Any]:
    """Return a task's texts in batches for each model; what is cut of them is said."""
    tokenizers = [place.tokenizer() for place in places]
    read = [data.fitted(tokenizer) for tokenizer in tokenizers]
    cut = [each.notes[len(data.notes) :] for each in read]
    told = [f"{p.model}: {line}" for p, lines in zip(places, cut, strict=True) for line in lines]
    for line in (*data.notes, *dict.fromkeys(told)):
        say(line)
    if len(set(cut)) > 1:
        say("not all models are timed on the same part of these texts: some are cut for a model")
    return [
        task_batches(each, "validation", tokenizer)
        for each, tokenizer in zip(read, tokenizers, strict=True)
    ]


def _bench_row(model: str, timing: Timing, time: Latency, first: Latency) -> BenchRow:
    claim = speed_claim(first, time)
    return BenchRow(
        model=model,
        runtime=timing.runtime,
        precision=timing.precision,
        time=time,
        speedup_vs_first=claim.ratio,
        spread=claim.spread,
        load_s=timing.load_s,
        memory_mb=timing.peak_memory_mb,
    )


def export(
    model: str | Path,
    out: str | Path,
    *,
    revision: str | None = None,
    say: Say = logged,
) -> list[Deployment]:
    """Write `onnx/` with fp32 and dynamic int8 files under `out`, and return them.

    Beside those of a classifier lies `serve.py`, which answers texts without this package.

    The int8 file has to answer as fp32 does, to random tokens: where it does not with the default
    settings, others are tried, then modules stay in fp32, and `say` is told what was taken. Static
    int8 for OpenVINO, and a score, need rows: that is the method `quantize_int8` of a recipe.

    Raises:
        ModelError where nothing that is tried answers as fp32 does; the fp32 file is there then,
        and no int8 file.
    """
    from bertcompress.runtimes import onnxruntime
    from bertcompress.runtimes.qdq import export_qdq

    product = load(model, revision=revision)
    out = Path(out).expanduser()
    folder = out / "onnx"
    if gone := left_out_layers(locate(str(model), revision=revision)):
        warnings.warn(
            f"{model}: of this sentence-transformers model the encoder alone is exported; trained "
            f"layers behind it are not in the file: {', '.join(gone)}",
            Notice,
            stacklevel=2,
        )
    if precision_of(product.model) != "fp32":  # its integers, not new ones
        file = export_qdq(product, folder)
        made = [Deployment("onnxruntime", onnxruntime.precision_of(file), file)]
    else:
        made = _alike(product, out, say)
    if is_classifier(type(product.model)):
        record(made, product, environment())
        longest = max_tokens(product.model, product.tokenizer)
        config, best = product.model.config, made[-1]
        write_serving(best.path, best.runtime, config, product.tokenizer, longest)
    return made


def _alike(product: Product, out: Path, say: Say) -> list[Deployment]:
    """Write fp32 and an int8 file that answers alike; raises ModelError where none does."""
    from bertcompress.engines.likeness import likeness
    from bertcompress.methods.quantization.int8 import quantize_guarded

    same = likeness(product)
    made, tried = quantize_guarded(product, out, ("onnxruntime",), same.batches, same)
    every, best = tried["onnxruntime"]
    if not every[0].passes:
        say(f"int8 by {every[0].words}; {len(every)} ways were tried")
    if best.passes:
        if best is not every[0]:
            say(f"taken: {best.words}" + "".join(f", {name}" for name in best.kept))
        return made
    made[-1].path.unlink(missing_ok=True)
    raise ModelError(
        f"{made[-1].path}: not written: int8 answers otherwise than fp32 at best ({best.words}); "
        f"{made[0].path} is there. A recipe with quantize_int8 tries on rows of your task; q8bert "
        "trains for int8"
    )


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
