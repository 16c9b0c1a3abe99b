"""From what the worker processes took to the rows of a report: best modes, medians, ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bertcompress.measure.timing.candidates import Candidate, Latency, Timing
from bertcompress.measure.timing.claims import Claim, ratio_claim
from bertcompress.measure.timing.rounds import BUSY, Shape, Times
from bertcompress.runtimes import DYNAMIC

__all__ = ["Served", "timings_of"]


@dataclass(frozen=True)
class Served:
    """What one worker process found out: one candidate in one serving mode."""

    candidate: int
    """Its place among the candidates."""
    answer: Mapping[str, Any]
    """What the worker said when it opened the artefact."""
    times: Mapping[Shape, Times]
    first_pass_ms: Mapping[Shape, float] = field(default_factory=dict)
    peak_memory_mb: float = 0.0


def timings_of(
    candidates: Sequence[Candidate], served: Sequence[Served], threads: int
) -> list[Timing]:
    """Return what was found out about each candidate: of each shape the mode that serves best.

    Load time and memory are the largest of the modes that a row is of.
    """
    best = [_best([each for each in served if each.candidate == i]) for i in range(len(candidates))]
    runtimes = [next(iter(shapes.values())).answer["runtime"] for shapes in best]
    torch = next((i for i, c in enumerate(candidates) if c.baseline == "torch"), None)
    dense = {runtimes[i]: i for i, c in enumerate(candidates) if c.baseline == "dense_int8"}
    made = []
    for candidate, runtime, shapes in zip(candidates, runtimes, best, strict=True):
        bases = [{} if of is None else best[of] for of in (torch, dense.get(runtime))]
        rows = [_row(s, one, threads, *(b.get(s) for b in bases)) for s, one in shapes.items()]
        rows = [_of_texts(row, candidate) for row in rows]
        made.append(_timing([one for one in served if one in shapes.values()], rows))
    return made


def _best(modes: Sequence[Served]) -> dict[Shape, Served]:
    """Return the serving mode of each shape that is reported.

    It is the fastest once warm; where the spread does not tell modes apart, that of them whose
    first pass is the fastest.
    """
    found = {}
    for shape in modes[0].times:
        having = [mode for mode in modes if shape in mode.times]
        fastest = min(having, key=lambda mode: _mean_ms(mode.times[shape].ms))
        level = [m for m in having if not _over(m.times[shape], fastest.times[shape]).faster]
        found[shape] = min(level, key=lambda mode: mode.first_pass_ms.get(shape, 0.0))
    return found


def _timing(used: Sequence[Served], rows: list[Latency]) -> Timing:
    busy = [cores for each in used for times in each.times.values() for cores in times.busy]
    return Timing(
        runtime=used[0].answer["runtime"],
        precision=used[0].answer["precision"],
        load_s=max(each.answer["load_s"] for each in used),
        memory_mb=max(each.answer["memory_mb"] for each in used),
        peak_memory_mb=max(each.peak_memory_mb for each in used),
        latency=rows,
        busy_cores=float(np.mean(busy)) if busy else 0.0,
        disturbed=float(np.mean([cores >= BUSY for cores in busy])) if busy else 0.0,
    )


def _row(
    shape: Shape, served: Served, threads: int, torch: Served | None, dense: Served | None
) -> Latency:
    batch, length = shape
    times = served.times[shape]
    against_torch, against_dense = (
        None if base is None else _over(base.times[shape], times) for base in (torch, dense)
    )
    return Latency(
        batch=batch,
        length=length,
        threads=threads,
        serving=served.answer.get("serving", DYNAMIC),
        device=served.answer.get("device", "cpu"),
        p50_ms=float(np.median(times.ms)),
        p95_ms=float(np.quantile(times.ms, 0.95)),
        throughput_per_s=batch / _mean_ms(times.ms) * 1e3,
        spread=_spread(times.ms),
        first_pass_ms=served.first_pass_ms.get(shape),
        disturbed=times.disturbed if times.busy else None,
        speedup_vs_torch=against_torch and against_torch.ratio,
        spread_vs_torch=against_torch and against_torch.spread,
        speedup_vs_dense_int8=against_dense and against_dense.ratio,
        spread_vs_dense_int8=against_dense and against_dense.spread,
    )


def _of_texts(row: Latency, candidate: Candidate) -> Latency:
    """Return a row that says what the task's texts are, where they are not all alike."""
    named = candidate.texts.get(row.batch) if row.length == "task" else None
    return row.model_copy(update={"texts": named}) if named else row


def _over(before: Times, after: Times) -> Claim:
    """Return the claim that one is faster than the other; the same times have no noise."""
    if before is after:
        return ratio_claim(1.0)
    ratio = _mean_ms(before.ms) / _mean_ms(after.ms)
    return ratio_claim(ratio, _spread(before.ms), _spread(after.ms))


def _spread(ms: Any) -> float:
    """Return the interquartile range of what the rounds tell, divided by its median."""
    rounds = np.median(ms, axis=1).mean(axis=1)
    low, high = np.quantile(rounds, [0.25, 0.75])
    return float((high - low) / np.median(rounds))


def _mean_ms(ms: Any) -> float:
    """Mean over the batches of each one's median: lengths count, noise does not."""
    return float(np.median(ms, axis=(0, 1)).mean())
