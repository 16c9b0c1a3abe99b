"""Times artefacts side by side: a process for each, rounds in turn.

Candidates share the noise of the machine, and no thread pool spins under another's measurement. A
runtime that can be opened in several ways is timed in each of them on the task's own texts, one at
a time, and the way that serves best is reported.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertcompress.errors import ModelError, WorkerError
from bertcompress.measure.timing.candidates import Candidate, Timing, within
from bertcompress.measure.timing.process import WorkerProcess
from bertcompress.measure.timing.rounds import BUSY, Progress, Shape, take_rounds
from bertcompress.measure.timing.served import Served, timings_of
from bertcompress.measure.timing.worker import save_batches
from bertcompress.runtimes import Batch, serving_modes
from bertcompress.runtimes.hardware import Others, physical_cores

__all__ = ["time_candidates"]

Watch = Callable[[], float]
"""Returns the cores that others used since it was called last."""

FIRST_PASS_S = 10.0
"""Seconds after which a first pass ends, with the texts that it has met by then."""

ONE_TEXT: Shape = (1, "task")
"""What serving modes differ in: the task's own texts, one at a time."""


def time_candidates(
    candidates: Sequence[Candidate],
    shapes: Sequence[tuple[int, int]] = ((1, 128), (8, 128)),
    *,
    task_batches: Mapping[int, Sequence[Batch]] | None = None,
    threads: int | None = None,
    rounds: int = 7,
    seconds: float = 60.0,
    progress: Progress | None = None,
    watch: Callable[[Sequence[int]], Watch] = Others,
) -> list[Timing]:
    """Time the candidates in turn, round by round, each in its own process.

    Args:
        candidates: What is timed, in this order within a round.
        shapes: (batch, tokens) of random texts, cut to what every candidate takes.
        task_batches: Real batches by batch size; a candidate's own take precedence.
        threads: Threads of each process; None takes the physical cores.
        rounds: Undisturbed turns that each candidate gets per shape, at least 1.
        seconds: About how long the whole may time; slow candidates get fewer repeats, at least 3.
            As long again at most where rounds are disturbed, which are repeated.
        progress: Called with (process, turns done, turns in all) after each turn; the processes of
            further serving modes come after those of the candidates.
        watch: Begins to watch what other processes than these use.

    Raises:
        WorkerError with what the process said last, where one dies or fails.
    """
    threads = threads or physical_cores()
    shapes = within(shapes, candidates)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        opener = _Opener(stack, watch, threads)
        wanted = [
            _wanted(c, shapes, c.task_batches or task_batches or {}, scratch) for c in candidates
        ]
        opened = [opener.open(i, each, wanted[i]) for i, each in enumerate(candidates)]
        for first in list(opened):
            i = first.candidate
            opened += opener.open_in_other_modes(i, candidates[i], wanted[i], first)
        workers = [each.worker for each in opened]
        took = take_rounds(
            workers,
            [each.requests for each in opened],
            opener.begin(),
            rounds=rounds,
            seconds=seconds,
            progress=progress,
        )
        peaks = [float(worker.ask("memory")["peak_memory_mb"]) for worker in workers]
    served = [
        Served(each.candidate, each.answer, times, each.first_pass_ms, peak)
        for each, times, peak in zip(opened, took, peaks, strict=True)
    ]
    return timings_of(candidates, served, threads)


@dataclass(frozen=True)
class _Wanted:
    """What one candidate is to be timed on."""

    requests: dict[Shape, dict[str, Any]]
    """The `time` request of each shape."""
    longest: int | None
    """Tokens of the longest of the task's texts, where they are timed one at a time."""


def _wanted(
    candidate: Candidate,
    shapes: Sequence[tuple[int, int]],
    task_batches: Mapping[int, Sequence[Batch]],
    scratch: Path,
) -> _Wanted:
    requests: dict[Shape, dict[str, Any]] = {
        (batch, length): {"batch": batch, "length": length, "vocab_size": candidate.vocab_size}
        for batch, length in shapes
    }
    for batch, batches in task_batches.items():
        file = scratch / f"{len(list(scratch.iterdir()))}.npz"
        save_batches(batches, file)
        requests[(batch, "task")] = {"batches": str(file)}
    lengths = [one["input_ids"].shape[-1] for one in task_batches.get(1, ())]
    return _Wanted(requests, max(lengths, default=None))


@dataclass(frozen=True)
class _Opened:
    """A worker process whose artefact is open, and its first pass over."""

    candidate: int
    worker: WorkerProcess
    answer: dict[str, Any]
    """What it said when it opened the artefact."""
    requests: dict[Shape, dict[str, Any]]
    first_pass_ms: dict[Shape, float]
    """Milliseconds a text, of the task's own ones."""


@dataclass
class _Opener:
    """Starts worker processes, which end with the stack."""

    stack: contextlib.ExitStack
    watch: Callable[[Sequence[int]], Watch]
    threads: int
    pids: list[int] = field(default_factory=list)
    waits: bool = True
    """Whether a disturbed first pass is taken again: not on a machine that stays busy."""

    def begin(self) -> Watch:
        """Begin to watch what others than the processes so far use."""
        return self.watch(self.pids)

    def open(self, i: int, candidate: Candidate, wanted: _Wanted, **mode: Any) -> _Opened:
        """Return a candidate, opened, and its first pass.

        One that was disturbed is taken again in a fresh process, and the less disturbed one counts.
        Where the second is disturbed too, the machine is taken to be busy and no further one is
        repeated.
        """
        passes = []
        while True:
            with contextlib.ExitStack() as own:
                worker = own.enter_context(WorkerProcess(str(candidate.path)))
                self.pids.append(worker.pid)
                answer = worker.ask(
                    "open",
                    path=str(candidate.path),
                    runtime=candidate.runtime,
                    precision=candidate.precision,
                    threads=self.threads,
                    vocab_size=candidate.vocab_size,
                    longest=candidate.longest,
                    device=candidate.device,
                    **mode,
                )
                watch = self.begin()
                first = dict(_first_pass(worker, wanted.requests))
                passes.append((watch(), first))
                disturbed = bool(first) and passes[-1][0] >= BUSY
                if len(passes) > 1 and disturbed:
                    self.waits = False
                if not disturbed or not self.waits:
                    self.stack.enter_context(own.pop_all())
                    quietest = min(passes, key=lambda each: each[0])[1]
                    return _Opened(i, worker, answer, wanted.requests, quietest)

    def open_in_other_modes(
        self, i: int, candidate: Candidate, wanted: _Wanted, first: _Opened
    ) -> Iterator[_Opened]:
        """Yield a candidate once more for each further way that its runtime serves single texts."""
        if ONE_TEXT not in wanted.requests:
            return
        one = _Wanted({ONE_TEXT: wanted.requests[ONE_TEXT]}, wanted.longest)
        for serving in serving_modes(first.answer["runtime"])[1:]:
            with contextlib.suppress(WorkerError, ModelError):  # not every model can be served so
                yield self.open(i, candidate, one, serving=serving, max_length=wanted.longest)


def _first_pass(
    worker: WorkerProcess, requests: Mapping[Shape, Mapping[str, Any]]
) -> Iterator[tuple[Shape, float]]:
    """Yield the milliseconds a text in the first pass over the task's own, by shape."""
    for (batch, length), request in requests.items():
        if length == "task":
            took = worker.ask("time", **request, repeats=1, warmup=0, seconds=FIRST_PASS_S)["ms"]
            yield (batch, length), sum(took) / (len(took) * batch)
