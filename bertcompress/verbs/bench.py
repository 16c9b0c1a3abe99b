"""`bench`: how fast models are that exist, timed in turn in one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from bertcompress.data import TaskData, load_data
from bertcompress.errors import NotFound
from bertcompress.measure.row import Row
from bertcompress.measure.scores import task_batches
from bertcompress.measure.timing.candidates import (
    Candidate,
    Latency,
    Timing,
    busy_words,
    cut_words,
    machine_load,
)
from bertcompress.measure.timing.claims import Claim, ratio_claim, speed_claim
from bertcompress.measure.timing.interleaved import time_candidates
from bertcompress.models.tokenizers import longest_text
from bertcompress.runtimes import DYNAMIC
from bertcompress.runtimes.table import in_words
from bertcompress.support.display import logged
from bertcompress.task import Task
from bertcompress.verbs.places import Place, Say, all_places, find_place

__all__ = ["BenchRow", "bench", "search_words"]


class BenchRow(Row):
    """How fast one model is at one batch size and length, beside the others of the same run."""

    model: str = Field(description="As it was given")
    runtime: str = Field(description=in_words())
    precision: str = Field(description="fp32, bf16 or int8")
    time: Latency = Field(description="Its times")
    speedup_vs_first: float = Field(description="Times faster than the first model")
    spread: float = Field(ge=0, description="Of that ratio, from the rounds of both sides")
    load_s: float = Field(ge=0, description="Seconds from opening it to its first answer")
    memory_mb: float = Field(ge=0, description="Megabytes that its process held at most")

    @property
    def label(self) -> str:
        """Runtime, precision and how it was opened, in words."""
        device = "" if self.time.device == "cpu" else f" on {self.time.device}"
        mode = "" if self.time.serving == DYNAMIC else f", {self.time.serving}"
        return f"{self.runtime} {self.precision}{device}{mode}"

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
            "tokens": str(time.length) if time.texts == "texts" else time.texts,
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
    in the serving mode that is best for each model; of a search its queries, and its documents in
    batches. `seconds` is spent on each shape, as much again
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
    texts: dict[int, str] = {}
    if task is not None:
        data = load_data(task if isinstance(task, Task) else Task.load(task), data_dir=data_dir)
        batches = _texts_for(places, data, say)
        texts = {size: data.task.head.served_texts(size) for each in batches for size in each}
    candidates = [
        Candidate(
            path=place.path,
            runtime=place.runtime,
            precision=place.precision,
            vocab_size=place.vocab_size,
            longest=longest_text(place.folder, str(place.path)),
            task_batches=own,
            texts=texts if own else {},
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


def search_words(rows: Sequence[BenchRow]) -> list[str]:
    """Return a line for each model of a search: what a query costs, and what a passage."""
    lines: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        time = row.time
        if time.texts == "queries":
            words = f"a query {time.batch_ms:.2f} ms"
        elif time.texts == "passages":
            words = (
                f"a passage in batches of {time.batch} {time.text_ms:.2f} ms, "
                f"{time.throughput_per_s:,.0f} passages/s"
            )
        else:
            continue
        lines.setdefault((row.model, f"{row.runtime} {row.precision}"), []).append(words)
    return [f"{model}, {how}: {'; '.join(words)}" for (model, how), words in lines.items()]


def _texts_for(places: Sequence[Place], data: TaskData, say: Say) -> list[Any]:
    """Return a task's texts in batches for each model; what is cut of them is said."""
    own = [replace(data, task=place.reads(data.task)) for place in places]
    tokenizers = [p.tokenizer(each.task) for p, each in zip(places, own, strict=True)]
    read = [each.fitted(tokenizer) for each, tokenizer in zip(own, tokenizers, strict=True)]
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
