"""Rounds in turn: each worker is asked once a round, and disturbed rounds are repeated.

What other processes use is watched through every round of every shape. Which rounds count is
decided by that alone, never by the times that came out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from bertcompress.support.progress import by_hand

__all__ = ["BUSY", "MIN_ROUNDS", "Asked", "Progress", "Shape", "Times", "counted", "take_rounds"]

Shape = tuple[int, int | Literal["task"]]
"""Texts at a time and tokens of each, or `task` for the task's own texts."""

Progress = Callable[[int, int, int], None]
"""Is called with worker, turns done, turns in all."""

BUSY = 0.3
"""Cores. A round in which others used as much is disturbed; what a machine does for itself stays
below."""

MIN_ROUNDS = 3
"""Turns that each worker gets even where they take longer than was asked for."""


class Asked(Protocol):
    """A worker process, or what stands in for one."""

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """Return the answer to one request."""
        ...


@dataclass(frozen=True)
class Times:
    """What one worker took for one shape, in the rounds that count."""

    ms: Any
    """Milliseconds. Shape: (rounds, repeats, batches)."""
    busy: tuple[float, ...] = ()
    """Cores that others used, by round."""

    @property
    def disturbed(self) -> float:
        """Share of these rounds that are disturbed, 0 to 1."""
        return sum(cores >= BUSY for cores in self.busy) / max(len(self.busy), 1)


def take_rounds(
    workers: Sequence[Asked],
    requests: Sequence[Mapping[Shape, Mapping[str, Any]]],
    watch: Callable[[], float],
    *,
    rounds: int,
    seconds: float,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> list[dict[Shape, Times]]:
    """Return what each worker took, by shape.

    Args:
        workers: Asked one after the other within a round.
        requests: The `time` request of each shape that a worker is timed on, by worker.
        watch: Returns the cores that others used since it was called last.
        rounds: Undisturbed rounds that are wanted of each shape. Fewer where `seconds` are over
            after three; disturbed ones are repeated, at most as many as there were rounds, and no
            longer than `seconds` again.
        seconds: About how long all rounds may take.
        progress: Called after each turn.
        clock: Seconds that pass.
    """
    turns = sum(len(shapes) for shapes in requests) * rounds
    repeats = [
        {shape: _repeats(worker, request, seconds / turns) for shape, request in shapes.items()}
        for worker, shapes in zip(workers, requests, strict=True)
    ]
    took: list[dict[Shape, list[Any]]] = [{shape: [] for shape in shapes} for shapes in requests]
    busy: dict[Shape, list[float]] = {shape: [] for shapes in requests for shape in shapes}
    done, planned, started = 0, 0, clock()

    def ask_all(shape: Shape) -> None:
        nonlocal done
        for i, worker in enumerate(workers):
            if shape not in requests[i]:
                continue
            count = repeats[i][shape]
            answer = worker.ask("time", **requests[i][shape], repeats=count)
            took[i][shape].append(np.reshape(answer["ms"], (count, -1)))
            done += 1
            shown.update()
            if progress:
                progress(i, done, max(turns, done))
        busy[shape].append(watch())

    with by_hand("timing, in turn", turns) as shown:
        watch()
        while planned < rounds and (planned < MIN_ROUNDS or clock() - started <= seconds):
            for shape in busy:
                ask_all(shape)
            planned += 1
        for _ in range(planned):
            lacking = [shape for shape, cores in busy.items() if _quiet(cores) < planned]
            if clock() - started > 2 * seconds:
                break
            for shape in lacking:
                ask_all(shape)
    kept = {shape: counted(cores, planned) for shape, cores in busy.items()}
    return [{s: _times(parts, busy[s], kept[s]) for s, parts in own.items()} for own in took]


def counted(busy: Sequence[float], planned: int) -> list[int]:
    """Return which rounds count: the undisturbed, or the least disturbed where those are too few.

    `busy`: cores that others used, by round; `planned`: rounds that there would have been without
    repeating any.
    """
    quiet = [i for i, cores in enumerate(busy) if cores < BUSY]
    if len(quiet) >= min(MIN_ROUNDS, planned):
        return quiet
    return sorted(sorted(range(len(busy)), key=lambda i: busy[i])[:planned])


def _quiet(busy: Sequence[float]) -> int:
    return sum(cores < BUSY for cores in busy)


def _times(parts: Sequence[Any], busy: Sequence[float], kept: Sequence[int]) -> Times:
    return Times(np.stack([parts[i] for i in kept]), tuple(busy[i] for i in kept))


def _repeats(worker: Asked, request: Mapping[str, Any], seconds: float) -> int:
    """Return how often a request fits into its share of the time; warms the worker up for it."""
    once = worker.ask("time", **request, repeats=1, warmup=2)["ms"]
    return int(np.clip(seconds * 1e3 / max(sum(once), 1e-3), 1 if len(once) > 1 else 3, 1000))
