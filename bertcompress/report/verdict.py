"""The verdict of a report, computed from its rows and said in plain words.

One deployment of the last stage is judged, and every figure is of that one: size, score and speed
of different files are never mixed. Simulated deployments are never judged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from bertcompress.measure import busy_words
from bertcompress.report.cells import percent
from bertcompress.report.rows import DeploymentRow, SpeedUp, Stage, Verdict

__all__ = ["baseline_of", "judge", "judged"]

SIGNIFICANT = 0.05


def baseline_of(stages: Sequence[Stage]) -> Stage:
    """Return the stage marked as baseline, else the first; ValueError where there is none."""
    if not stages:
        raise ValueError("a report needs at least one stage")
    return next((stage for stage in stages if stage.baseline), stages[0])


def judged(stage: Stage) -> DeploymentRow | None:
    """Return the deployment that the verdict is about: the fastest measured, else the smallest.

    Speed and size decide, never the score: nothing is chosen on the set that is reported.
    """
    real = [row for row in stage.deployments if not row.simulated]
    timed = [row for row in real if row.latency]
    if timed:
        return min(timed, key=lambda row: row.latency[0].batch_ms)
    return min(real, key=lambda row: row.size_mb, default=None)


def judge(
    stages: Sequence[Stage],
    seeds: int = 1,
    busy: float | None = None,
    disturbed: float | None = None,
) -> Verdict:
    """Return the verdict on the last stage.

    `seeds`: how many the figures are a mean of, >= 1; `busy`: cores that something else used
    during the timing; `disturbed`: share of the rounds in which that was too much.
    """
    baseline, last = baseline_of(stages), stages[-1]
    row = judged(last)
    if row is None:
        what = "is only simulated" if last.deployments else "has no deployment"
        sentence = f"Stage {last.name} {what}: no size and no speed is claimed."
        return Verdict(stage=last.name, baseline=baseline.name, sentences=(sentence,))
    if last is baseline:
        words = (
            _scored(row) or "Score: not measured.",
            "Nothing was compressed: it is the baseline.",
        )
        return Verdict(stage=last.name, baseline=last.name, sentences=words)
    dense = baseline.main
    verdict = Verdict(
        stage=last.name,
        baseline=baseline.name,
        runtime=row.runtime,
        precision=row.precision,
        retention=row.retention,
        retention_low=row.retention_low,
        retention_high=row.retention_high,
        significant=None if row.p_value is None else row.p_value < SIGNIFICANT,
        smaller_by=_ratio(dense.size_mb, row.size_mb) if dense else None,
        encoder_smaller_by=_ratio(dense.encoder_mb, row.encoder_mb) if dense else None,
        speed=_speed(row),
    )
    sentences = (*_quality(verdict, row), *_size(verdict, stages, row), *_speed_words(verdict))
    warnings = (
        *_noise(verdict, row, seeds),
        *_selection(baseline, stages),
        *_controls(stages),
        *busy_words(busy, disturbed),
        *_speed_warnings(verdict, _dense_spreads(baseline, row.runtime)),
    )
    return verdict.model_copy(update={"sentences": sentences, "warnings": warnings})


def _ratio(before: float | None, after: float | None) -> float | None:
    return before / after if before and after else None


def _speed(row: DeploymentRow) -> tuple[SpeedUp, ...]:
    return tuple(
        SpeedUp(
            batch=time.batch,
            length=time.length,
            threads=time.threads,
            over_dense_int8=time.speedup_vs_dense_int8,
            over_torch=time.speedup_vs_torch,
            spread=time.spread,
        )
        for time in row.latency
    )


def _scored(row: DeploymentRow) -> str:
    score = row.headline
    return f"{row.label} scores {score.value:.3f} {score.metric}" if score else ""


def _quality(verdict: Verdict, row: DeploymentRow) -> list[str]:
    text = _scored(row)
    if not text:
        return ["Score: not measured."]
    if verdict.retention is None:
        return [f"{text}; retention: not measured."]
    low, high = verdict.retention_low, verdict.retention_high
    interval = (
        "" if low is None or high is None else f", 95 % interval {percent(low)} to {percent(high)}"
    )
    words = [f"{text}: it keeps {percent(verdict.retention)} of the baseline{interval}."]
    if verdict.significant:
        words.append(f"The difference to the baseline is significant (p = {row.p_value:.2g}).")
    return words


def _size(verdict: Verdict, stages: Sequence[Stage], row: DeploymentRow) -> list[str]:
    if verdict.smaller_by is None:
        return ["Size against the baseline: not measured."]
    encoder = verdict.encoder_smaller_by
    layers = "not measured" if encoder is None else f"{encoder:.1f}x"
    words = [f"Smaller by {verdict.smaller_by:.1f}x in bytes; the encoder alone: {layers}."]
    came = stages[0].source_mb
    if came:
        words.append(
            f"The checkpoint came in 16 bits: of its own {came:.1f} MB it is "
            f"{came / row.size_mb:.1f}x smaller, not of the fp32 baseline."
        )
    return words


def _speed_words(verdict: Verdict) -> list[str]:
    return [
        words
        for against, field in (
            (f"dense int8 on {verdict.runtime}", "over_dense_int8"),
            ("the baseline in torch fp32", "over_torch"),
        )
        if (words := _against(verdict, against, field))
    ]


def _against(verdict: Verdict, what: str, field: str) -> str:
    by_batch: dict[int, list[str]] = {}
    for row in verdict.speed:
        factor = getattr(row, field)
        if factor is not None:
            by_batch.setdefault(row.batch, []).append(f"{factor:.2f}x {_texts(row)}")
    if not by_batch:
        return ""
    threads = ", ".join(sorted({str(row.threads) for row in verdict.speed}))
    parts = [f"batch {batch}: {', '.join(words)}" for batch, words in by_batch.items()]
    return f"Speed over {what}, {threads} threads: {'; '.join(parts)}."


def _texts(row: SpeedUp) -> str:
    return f"at length {row.length}" if isinstance(row.length, int) else "on the task's own lengths"


def _noise(verdict: Verdict, row: DeploymentRow, seeds: int) -> list[str]:
    words = []
    if verdict.retention is not None and verdict.retention > 1:
        words.append(
            "Retention above 100 % is a sign that the baseline stopped training early: "
            "compare with the dense model given the same further steps."
        )
    if verdict.significant is False:
        words.append(
            f"The difference to the baseline is not significant (p = {row.p_value:.2g}): it is "
            "within the noise of this validation set."
        )
    if seeds == 1 and row.headline is not None:
        words.append("One seed: the interval is over examples; another seed may differ by more.")
    return words


def _controls(stages: Sequence[Stage]) -> list[str]:
    words = []
    for stage in stages:
        score = stage.main.headline if stage.main else None
        if stage.control is None or score is None:
            continue
        control = stage.control.score.value
        if control >= score.value:
            words.append(
                f"{stage.name}: the control ({stage.control.name}) scores as high, {control:.3f} "
                f"against {score.value:.3f}: the method is not shown to help."
            )
        elif control >= score.ci_low:
            words.append(
                f"{stage.name}: the control ({stage.control.name}, {control:.3f}) is inside the "
                f"interval of the result ({score.value:.3f})."
            )
    return words


def _selection(baseline: Stage, stages: Sequence[Stage]) -> list[str]:
    """Warn where the rows that were chosen by may not be new to a model that came fine-tuned."""
    chose = [
        s.name for s in stages if s.facts.get("selection_score") is not None or s.facts.get("tried")
    ]
    if baseline.method != "original" or not chose:
        return []
    return [
        f"The model came fine-tuned and may have been trained on the selection rows that "
        f"{', '.join(chose)} chose by: those scores may be too high; the ones reported here are on "
        "other rows."
    ]


def _dense_spreads(baseline: Stage, runtime: str) -> dict[tuple[int, int | str], float]:
    """Return how much the rounds of dense int8 on this runtime differed, by batch and length."""
    dense = [r for r in baseline.deployments if (r.runtime, r.precision) == (runtime, "int8")]
    return {(time.batch, time.length): time.spread for row in dense for time in row.latency}


def _speed_warnings(verdict: Verdict, dense: Mapping[tuple[int, int | str], float]) -> list[str]:
    known = [(row, row.over_dense_int8) for row in verdict.speed if row.over_dense_int8 is not None]
    if not known:
        return ["Speed against dense int8: not measured."]
    words = []
    for row, factor in known:
        place = f"at batch {row.batch} {_texts(row)}"
        if factor <= 1:
            words.append(f"Not faster than dense int8 {place} ({factor:.2f}x).")
            continue
        # Of a ratio: both sides were measured, and either may have been disturbed.
        spread = math.hypot(row.spread, dense.get((row.batch, row.length), 0.0))
        if factor * spread >= factor - 1:
            words.append(
                f"The speed-up over dense int8 {place} ({factor:.2f}x) is within the spread of the "
                f"rounds ({percent(spread)})."
            )
    return words
