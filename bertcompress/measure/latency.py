"""Latency of several artefacts side by side: a process for each, rounds in turn.

Candidates share the noise of the machine, and no thread pool spins under another's measurement.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from bertcompress.bars import by_hand
from bertcompress.runtimes import Batch
from bertcompress.runtimes.host import physical_cores
from bertcompress.runtimes.process import WorkerProcess
from bertcompress.runtimes.worker import save_batches

__all__ = [
    "Candidate",
    "Latency",
    "Timing",
    "busy_words",
    "cut_words",
    "measure_latency",
    "time_candidates",
    "within",
]

Baseline = Literal["torch", "dense_int8"]
Shape = tuple[int, int | Literal["task"]]


class Latency(BaseModel):
    """How long one batch takes, on this machine, beside the other candidates of the same run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch: int = Field(ge=1, description="Texts at a time")
    length: int | Literal["task"] = Field(
        description="Tokens per text; `task`: the task's texts, padded to the longest of a batch"
    )
    threads: int = Field(ge=1, description="Threads of the process")
    p50_ms: float = Field(ge=0, description="Median time of a batch, over all rounds")
    p95_ms: float = Field(ge=0, description="95 % of the batches took at most this")
    throughput_per_s: float = Field(gt=0, description="Texts per second; ratios are of these")
    spread: float = Field(
        ge=0, description="Interquartile range of the rounds' medians divided by their median"
    )
    speedup_vs_torch: float | None = Field(
        None, description="Times faster than the baseline in torch fp32, in the same run"
    )
    speedup_vs_dense_int8: float | None = Field(
        None, description="Times faster than dense int8 of the same runtime, in the same run"
    )

    @property
    def batch_ms(self) -> float:
        """Milliseconds that the ratios are of: `p50_ms`, but on own lengths every batch counts.

        There it is the mean over the batches of each one's median: the median alone would leave
        out what long texts cost.
        """
        return self.batch / self.throughput_per_s * 1e3


@dataclass(frozen=True)
class Candidate:
    """One artefact to be timed."""

    path: str | Path
    runtime: str | None = None
    precision: str | None = None
    baseline: Baseline | None = None
    """What others are compared with: `torch` (one), `dense_int8` (one per runtime)."""
    vocab_size: int = 100
    """Random tokens are drawn below this number; the artefact must know them."""
    longest: int | None = None
    """Tokens of the longest text that it takes; None: any."""
    task_batches: Mapping[int, Sequence[Batch]] | None = None
    """The task's texts in this artefact's tokens, where its tokenizer differs from the others'."""


@dataclass(frozen=True)
class Timing:
    """What one worker process found out about its candidate."""

    runtime: str
    precision: str
    load_s: float
    """Seconds from opening the artefact to its first answer, without importing the runtime."""
    memory_mb: float
    """Megabytes by which the process grew over the same."""
    peak_memory_mb: float
    """The most that the process ever held, runtime and Python included."""
    latency: list[Latency] = field(default_factory=list)


BUSY = 0.3
"""Cores; what a machine does for itself stays below."""


def busy_words(cores: float | None) -> list[str]:
    """Return a warning where something else kept cores busy when timing began; see `busy_cores`."""
    if cores is None or cores < BUSY:
        return []
    return [
        f"Something else kept {cores:.1f} cores busy when timing began: times and ratios may be "
        "far off. Time again on a quiet machine, with `bertcompress bench RUN`."
    ]


def measure_latency(
    candidates: Sequence[Candidate],
    shapes: Sequence[tuple[int, int]] = ((1, 128), (8, 128)),
    **options: Any,
) -> list[list[Latency]]:
    """Return each candidate's rows: `time_candidates` without load time and memory."""
    return [timing.latency for timing in time_candidates(candidates, shapes, **options)]


def time_candidates(
    candidates: Sequence[Candidate],
    shapes: Sequence[tuple[int, int]] = ((1, 128), (8, 128)),
    *,
    task_batches: Mapping[int, Sequence[Batch]] | None = None,
    threads: int | None = None,
    rounds: int = 7,
    seconds: float = 60.0,
    progress: Callable[[int, int, int], None] | None = None,
) -> list[Timing]:
    """Time the candidates in turn, round by round, each in its own process.

    Args:
        candidates: What is timed, in this order within a round.
        shapes: (batch, tokens) of random texts, cut to what every candidate takes.
        task_batches: Real batches by batch size; a candidate's own take precedence.
        threads: Threads of each process; None takes the physical cores.
        rounds: Turns that each candidate gets per shape, at least 1.
        seconds: About how long the whole may time; slow candidates get fewer repeats, at least 3.
        progress: Called with (candidate, turns done, turns in all) after each turn.

    Raises:
        WorkerError with what the process said last, where one dies or fails.
    """
    threads = threads or physical_cores()
    shapes = within(shapes, candidates)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workers = [stack.enter_context(WorkerProcess(str(c.path))) for c in candidates]
        opened = [_open(w, c, threads) for w, c in zip(workers, candidates, strict=True)]
        requests = [_requests(c, shapes, task_batches, scratch) for c in candidates]
        took = _rounds(workers, requests, rounds, seconds, progress)
        peaks = [float(worker.ask("memory")["peak_memory_mb"]) for worker in workers]
    rows = _rows(candidates, [o["runtime"] for o in opened], took, threads)
    return [
        Timing(**answer, peak_memory_mb=peak, latency=latency)
        for answer, peak, latency in zip(opened, peaks, rows, strict=True)
    ]


def within(
    shapes: Sequence[tuple[int, int]], candidates: Sequence[Candidate]
) -> list[tuple[int, int]]:
    """Return the shapes, each once, no longer than the shortest limit of the candidates."""
    limit = min((c.longest for c in candidates if c.longest), default=None)
    cut = ((batch, min(tokens, limit or tokens)) for batch, tokens in shapes)
    return list(dict.fromkeys(cut))


def cut_words(shapes: Sequence[tuple[int, int]], candidates: Sequence[Candidate]) -> list[str]:
    """Return a line where a shape is longer than a candidate takes, and so is timed shorter."""
    limited = [c for c in candidates if c.longest and any(t > c.longest for _, t in shapes)]
    if not limited:
        return []
    least = min(limited, key=lambda c: c.longest or 0)
    return [
        f"{least.path} takes texts of at most {least.longest} tokens: longer ones are timed at "
        "that length"
    ]


def _open(worker: WorkerProcess, candidate: Candidate, threads: int) -> dict[str, Any]:
    return worker.ask(
        "open",
        path=str(candidate.path),
        runtime=candidate.runtime,
        precision=candidate.precision,
        threads=threads,
        vocab_size=candidate.vocab_size,
        longest=candidate.longest,
    )


def _requests(
    candidate: Candidate,
    shapes: Sequence[tuple[int, int]],
    task_batches: Mapping[int, Sequence[Batch]] | None,
    scratch: Path,
) -> dict[Shape, dict[str, Any]]:
    """Return the `time` request of each shape."""
    requests: dict[Shape, dict[str, Any]] = {
        (batch, length): {"batch": batch, "length": length, "vocab_size": candidate.vocab_size}
        for batch, length in shapes
    }
    for batch, batches in (candidate.task_batches or task_batches or {}).items():
        file = scratch / f"{len(list(scratch.iterdir()))}.npz"
        save_batches(batches, file)
        requests[(batch, "task")] = {"batches": str(file)}
    return requests


MIN_ROUNDS = 3
"""Turns that each candidate gets even where they take longer than was asked for."""

Took = dict[Shape, Any]
"""Milliseconds by shape. Shape: (rounds, repeats, batches)."""


def _rounds(
    workers: Sequence[WorkerProcess],
    requests: Sequence[dict[Shape, dict[str, Any]]],
    rounds: int,
    seconds: float,
    progress: Callable[[int, int, int], None] | None,
) -> list[Took]:
    turns = sum(len(shapes) for shapes in requests) * rounds
    repeats = [
        {shape: _repeats(worker, request, seconds / turns) for shape, request in shapes.items()}
        for worker, shapes in zip(workers, requests, strict=True)
    ]
    took: list[dict[Shape, list[Any]]] = [{shape: [] for shape in shapes} for shapes in requests]
    done, started = 0, time.monotonic()
    with by_hand("timing, in turn", turns) as shown:
        for turn in range(rounds):
            if turn >= MIN_ROUNDS and time.monotonic() - started > seconds:
                break  # a busy machine: fewer rounds, and the spread will say so
            for shape in dict.fromkeys(shape for shapes in requests for shape in shapes):
                for i, worker in enumerate(workers):
                    if shape not in requests[i]:
                        continue
                    count = repeats[i][shape]
                    answer = worker.ask("time", **requests[i][shape], repeats=count)
                    took[i][shape].append(np.reshape(answer["ms"], (count, -1)))
                    shown.update()
                    done += 1
                    if progress:
                        progress(i, done, turns)
    return [{shape: np.stack(parts) for shape, parts in shapes.items()} for shapes in took]


def _repeats(worker: WorkerProcess, request: dict[str, Any], seconds: float) -> int:
    """Return how often a request fits into its share of the time; warms the worker up for it."""
    once = worker.ask("time", **request, repeats=1, warmup=2)["ms"]
    return int(np.clip(seconds * 1e3 / max(sum(once), 1e-3), 1 if len(once) > 1 else 3, 1000))


def _rows(
    candidates: Sequence[Candidate], runtimes: Sequence[str], took: Sequence[Took], threads: int
) -> list[list[Latency]]:
    torch = next((i for i, c in enumerate(candidates) if c.baseline == "torch"), None)
    dense = {runtimes[i]: i for i, c in enumerate(candidates) if c.baseline == "dense_int8"}
    rows = []
    for runtime, shapes in zip(runtimes, took, strict=True):
        bases = [_of(took, torch), _of(took, dense.get(runtime))]
        rows.append([_row(s, t, threads, *(b.get(s) for b in bases)) for s, t in shapes.items()])
    return rows


def _of(took: Sequence[Took], candidate: int | None) -> Took:
    return {} if candidate is None else took[candidate]


def _row(shape: Shape, times: Any, threads: int, torch: Any, dense: Any) -> Latency:
    batch, length = shape
    medians = np.median(times, axis=(1, 2))
    low, high = np.quantile(medians, [0.25, 0.75])
    ms = _mean_ms(times)
    return Latency(
        batch=batch,
        length=length,
        threads=threads,
        p50_ms=float(np.median(times)),
        p95_ms=float(np.quantile(times, 0.95)),
        throughput_per_s=batch / ms * 1e3,
        spread=float((high - low) / np.median(medians)),
        speedup_vs_torch=None if torch is None else _mean_ms(torch) / ms,
        speedup_vs_dense_int8=None if dense is None else _mean_ms(dense) / ms,
    )


def _mean_ms(times: Any) -> float:
    """Mean over the batches of each one's median: lengths count, noise does not."""
    return float(np.median(times, axis=(0, 1)).mean())
