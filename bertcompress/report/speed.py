"""Which deployment is fastest where, and how it stands to the best dense one of any runtime."""

from __future__ import annotations

from collections.abc import Sequence

from bertcompress.measure.timing.candidates import Latency
from bertcompress.measure.timing.claims import Claim, ratio_claim, speed_claim
from bertcompress.report.judgement import SpeedUp, Use
from bertcompress.report.rows import DeploymentRow, Stage

__all__ = [
    "best_dense",
    "deploy_words",
    "deployable",
    "fastest_or_smallest",
    "judged",
    "over_best_dense",
    "served",
    "settings_that_count",
    "smallest_dense",
    "speed_ups",
    "speed_warnings",
    "texts_of",
    "time_of",
    "torch_claim",
    "uses",
    "why_not",
]

Timed = tuple[DeploymentRow, Latency]


def deployable(stage: Stage) -> list[DeploymentRow]:
    """Return what may be recommended: what the gate refused only where nothing else is shipped."""
    real = [row for row in stage.deployments if not row.simulated]
    return [row for row in real if row.allowed is not False] or real


def judged(stage: Stage) -> DeploymentRow | None:
    """Return the deployment that the verdict is about: the fastest measured, else the smallest.

    Fastest on single texts of the task's own lengths, else at the first shape that was timed.
    Speed and size decide, never the score: nothing is chosen on the set that is reported. What the
    gate refused on the selection split is left out.
    """
    return fastest_or_smallest(deployable(stage))


def fastest_or_smallest(rows: Sequence[DeploymentRow]) -> DeploymentRow | None:
    """Return the deployment that is the fastest where it counts first; untimed, the smallest."""
    settings = settings_that_count(rows)
    if not settings:
        return min(rows, key=lambda row: row.size_mb, default=None)
    return min(_timed(rows, *settings[0]), key=lambda pair: pair[1].batch_ms)[0]


def settings_that_count(rows: Sequence[DeploymentRow]) -> list[tuple[int, int | str]]:
    """Return batch sizes and lengths that count: own lengths alone, where those were timed."""
    every = dict.fromkeys((time.batch, time.length) for row in rows for time in row.latency)
    own = [setting for setting in every if setting[1] == "task"]
    return sorted(own or every, key=lambda setting: setting[0]) if own else list(every)


def _timed(
    rows: Sequence[DeploymentRow], batch: int, length: int | str
) -> list[tuple[DeploymentRow, Latency]]:
    """Return what was timed there of deployments that can be shipped."""
    return [
        (row, time)
        for row in rows
        if not row.simulated
        for time in row.latency
        if (time.batch, time.length) == (batch, length)
    ]


def best_dense(baseline: Stage, batch: int, length: int | str) -> Timed | None:
    """Return the fastest dense deployment there; None where dense was only timed in fp32."""
    pairs = _timed(baseline.deployments, batch, length)
    if all(row.precision == "fp32" for row, _ in pairs):
        return None
    return min(pairs, key=lambda pair: pair[1].batch_ms)


def smallest_dense(baseline: Stage) -> DeploymentRow | None:
    """Return the smallest dense deployment."""
    real = [row for row in baseline.deployments if not row.simulated]
    return min(real, key=lambda row: row.size_mb, default=None)


def over_best_dense(baseline: Stage, time: Latency) -> Claim | None:
    """Return the speed-up over the best dense deployment; None where there is none to compare."""
    dense = best_dense(baseline, time.batch, time.length)
    return speed_claim(dense[1], time) if dense else None


def speed_ups(row: DeploymentRow, baseline: Stage) -> tuple[SpeedUp, ...]:
    """Return the speed of one deployment at every batch size and length."""
    made = []
    for time in row.latency:
        dense = best_dense(baseline, time.batch, time.length)
        claim = over_best_dense(baseline, time)
        made.append(
            SpeedUp(
                batch=time.batch,
                length=time.length,
                threads=time.threads,
                over_dense_int8=time.speedup_vs_dense_int8,
                over_best_dense=claim.ratio if claim else None,
                best_dense=dense[0].label if dense else None,
                stands=claim.stands if claim else None,
                over_torch=time.speedup_vs_torch,
                spread=time.spread,
            )
        )
    return tuple(made)


def uses(stage: Stage, baseline: Stage) -> tuple[Use, ...]:
    """Return which deployment of a stage to deploy for each way of serving that was timed."""
    rows = deployable(stage)
    return tuple(_use(rows, baseline, *setting) for setting in settings_that_count(rows))


def _use(rows: Sequence[DeploymentRow], baseline: Stage, batch: int, length: int | str) -> Use:
    pairs = _timed(rows, batch, length)
    row, time = min(pairs, key=lambda pair: pair[1].batch_ms)
    dense, claim = best_dense(baseline, batch, length), over_best_dense(baseline, time)
    return Use(
        batch=batch,
        length=length,
        texts=time.texts,
        runtime=row.runtime,
        precision=row.precision,
        path=row.path,
        serving=time.serving,
        metric=row.headline.metric if row.headline else None,
        score=row.headline.value if row.headline else None,
        batch_ms=time.batch_ms,
        first_batch_ms=time.first_batch_ms,
        as_fast=tuple(
            other.label
            for other, its in pairs
            # Of a disturbed timing it says nothing that two differ by less than their spread.
            if other is not row and not ((c := speed_claim(its, time)).stands or c.disturbed)
        ),
        best_dense=dense[0].label if dense else None,
        best_dense_ms=dense[1].batch_ms if dense else None,
        over_best_dense=claim.ratio if claim else None,
        stands=claim.stands if claim else None,
    )


# -- in words


def deploy_words(where: Sequence[Use]) -> tuple[str, ...]:
    """Return one line per way of serving: which file to deploy for it."""
    return tuple(map(_deploy, where))


def torch_claim(time: Latency) -> Claim:
    """Return the speed-up over the baseline in torch fp32; reports of version 1 lack its spread."""
    spread = time.spread if time.spread_vs_torch is None else time.spread_vs_torch
    return ratio_claim(time.speedup_vs_torch or 0.0, spread, disturbed=time.disturbed)


def texts_of(length: int | str) -> str:
    """Return in words which texts come."""
    return f"at length {length}" if isinstance(length, int) else "on the task's own lengths"


def served(batch: int, texts: str = "texts") -> str:
    """Return in words how many texts come at a time; `texts`: what they are."""
    if batch == 1:
        return f"single {texts}"
    return f"batches of {batch}" + (f" {texts}" if texts != "texts" else "")


def time_of(row: DeploymentRow, batch: int, length: int | str) -> Latency | None:
    """Return what a deployment took there; None where it was not timed."""
    return next((t for t in row.latency if (t.batch, t.length) == (batch, length)), None)


def _deploy(use: Use) -> str:
    words = f"For {served(use.batch, use.texts)} {texts_of(use.length)} deploy {use.path} "
    mode = "" if use.serving == "dynamic" else f", opened as '{use.serving}'"
    scored = "" if use.score is None else f", {use.score:.3f} {use.metric}"
    words += f"({use.runtime} {use.precision}{mode}{scored}): {use.batch_ms:.1f} ms"
    if use.first_batch_ms is not None:
        words += f", {use.first_batch_ms:.1f} in the first pass of a fresh server"
    if use.as_fast:
        words += f" ({', '.join(use.as_fast)} not measurably slower)"
    if use.over_best_dense is None:
        return f"{words}."
    dense = f"the best dense deployment ({use.best_dense}, {use.best_dense_ms:.1f} ms)"
    if not use.stands:
        return f"{words}; no difference to {dense} can be measured here."
    if use.over_best_dense < 1:
        return f"{words}; {dense} is faster."
    return f"{words}, {use.over_best_dense:.2f}x faster than {dense}."


def why_not(stage: Stage, baseline: Stage, use: Use) -> str:
    """Return why no difference to the best dense deployment can be measured for a use."""
    row = next(row for row in stage.deployments if row.path == use.path)
    time = time_of(row, use.batch, use.length)
    claim = over_best_dense(baseline, time) if time else None
    return _why(claim) if claim else "not measured"


def _why(claim: Claim) -> str:
    return (
        "the machine was busy"
        if claim.disturbed
        else f"the rounds spread by {100 * claim.spread:.0f} %"
    )


def speed_warnings(row: DeploymentRow, baseline: Stage) -> list[str]:
    """Return where the deployment that is judged is not shown to be faster than dense.

    One line for each kind, with all the places of that kind.
    """
    if row.latency and all(time.speedup_vs_dense_int8 == 1 for time in row.latency):
        return ["These files are the dense int8 themselves: no faster dense one was timed."]
    claims = [
        (f"batch {time.batch} {texts_of(time.length)}", claim)
        for time in row.latency
        if (claim := over_best_dense(baseline, time)) is not None
    ]
    if not claims:
        return ["Speed against dense int8: not measured."]
    unknown = [f"{place} ({_why(claim)})" for place, claim in claims if not claim.stands]
    slower = [f"{place} ({c.ratio:.2f}x)" for place, c in claims if c.stands and c.ratio < 1]
    words = []
    if unknown:
        words.append(
            "No difference in speed to the best dense deployment can be measured at "
            f"{', '.join(unknown)}."
        )
    if slower:
        words.append(f"Not faster than the best dense deployment at {', '.join(slower)}.")
    return words
