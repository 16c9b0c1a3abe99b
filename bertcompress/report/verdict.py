"""The verdict of a report, computed from its rows and said in plain words.

One deployment of the last stage is judged, and every figure is of that one: size, score and speed
of different files are never mixed. Simulated deployments are never judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bertcompress.measure.timing.candidates import busy_words
from bertcompress.metrics import SIGNIFICANT
from bertcompress.report.alarms import (
    above_the_baseline,
    at_chance,
    control_warnings,
    far_from_original,
    red_lines,
    without_retention,
)
from bertcompress.report.cells import percent
from bertcompress.report.judgement import Verdict
from bertcompress.report.opponents import as_good, below, near_enough
from bertcompress.report.other_models import does_as_well, stands_beside
from bertcompress.report.rows import DeploymentRow, Opponent, Reading, Stage, last_of
from bertcompress.report.speed import (
    deploy_words,
    judged,
    smallest_dense,
    speed_ups,
    speed_warnings,
    uses,
)

__all__ = ["baseline_of", "comparable", "judge"]


def baseline_of(stages: Sequence[Stage]) -> Stage:
    """Return the stage marked as baseline, else the first; ValueError where there is none."""
    if not stages:
        raise ValueError("a report needs at least one stage")
    return next((stage for stage in stages if stage.baseline), stages[0])


def comparable(stages: Sequence[Stage], task: Mapping[str, Any]) -> tuple[Stage, ...]:
    """Return the stages, without retention where the baseline is not above chance."""
    main = baseline_of(stages).main
    hopeless = at_chance(main.headline if main else None, task)
    return tuple(map(without_retention, stages) if hopeless else stages)


def judge(
    stages: Sequence[Stage],
    seeds: int = 1,
    busy: float | None = None,
    disturbed: float | None = None,
    task: Mapping[str, Any] | None = None,
    data: Reading | None = None,
    opponents: Sequence[Opponent] = (),
) -> Verdict:
    """Return the verdict on the last stage.

    `seeds`: how many the figures are a mean of, >= 1; `busy`: cores that something else used
    during the timing; `disturbed`: share of the rounds in which that was too much; `task`: as in
    the report, for the chance level; `data`: how rows and classes were read; `opponents`: what
    could be taken instead.
    """
    stages = comparable(stages, task or {})
    baseline, last = baseline_of(stages), last_of(stages)
    row = judged(last)
    red = tuple(red_lines(stages, baseline, row, task or {}, data or Reading()))
    if last is not baseline:
        red += (*as_good(opponents, row), *does_as_well(opponents, last, row))
    named = Verdict(stage=last.name, baseline=baseline.name, red=red)
    if row is None:
        what = "is only simulated" if last.deployments else "has no deployment"
        sentence = f"Stage {last.name} {what}: no size and no speed is claimed."
        return named.model_copy(update={"sentences": (sentence,)})
    if last is baseline:
        words = (
            _scored(row) or "Score: not measured.",
            "Nothing was compressed: it is the baseline.",
        )
        return named.model_copy(update={"sentences": words})
    verdict = named.model_copy(update=_figures(row, last, baseline))
    far = bool(far_from_original(row, task or {}))
    sentences = (
        *_quality(verdict, row, far),
        *below(opponents, row),
        *stands_beside(opponents, last, row, task or {}),
        *_size(verdict, stages, row),
    )
    warnings = (
        *_noise(verdict, row, seeds),
        *_selection(baseline, stages),
        *control_warnings(stages),
        *near_enough(opponents, row, task or {}),
        *busy_words(busy, disturbed),
        *speed_warnings(row, baseline),
    )
    deploy = () if far else deploy_words(verdict.uses)
    return verdict.model_copy(
        update={"deploy": deploy, "sentences": sentences, "warnings": warnings}
    )


def _figures(row: DeploymentRow, last: Stage, baseline: Stage) -> dict[str, Any]:
    """Return the fields of a verdict that are figures of the deployment that is judged."""
    torch, small = baseline.main, smallest_dense(baseline)
    return {
        "runtime": row.runtime,
        "precision": row.precision,
        "retention": row.retention,
        "retention_low": row.retention_low,
        "retention_high": row.retention_high,
        "significant": None if row.p_value is None else row.p_value < SIGNIFICANT,
        "smaller_by": _ratio(torch.size_mb, row.size_mb) if torch else None,
        "encoder_smaller_by": _ratio(torch.encoder_mb, row.encoder_mb) if torch else None,
        "smallest_dense": small.label if small else None,
        "smaller_than_dense": _ratio(small.size_mb, row.size_mb) if small else None,
        "encoder_smaller_than_dense": _ratio(small.encoder_mb, row.encoder_mb) if small else None,
        "speed": speed_ups(row, baseline),
        "uses": uses(last, baseline),
    }


def _ratio(before: float | None, after: float | None) -> float | None:
    return before / after if before and after else None


def _scored(row: DeploymentRow) -> str:
    score = row.headline
    return f"{row.label} scores {score.value:.3f} {score.metric}" if score else ""


def _quality(verdict: Verdict, row: DeploymentRow, far: bool) -> list[str]:
    text = _scored(row)
    if not text:
        return ["Score: not measured."]
    doubtful = far or above_the_baseline(row)  # a red line says what that means
    if verdict.retention is None or doubtful:
        return [f"{text}."]
    low, high = verdict.retention_low, verdict.retention_high
    interval = (
        "" if low is None or high is None else f", 95 % interval {percent(low)} to {percent(high)}"
    )
    words = [f"{text}: it keeps {percent(verdict.retention)} of the baseline{interval}."]
    if verdict.significant:
        words.append(f"The difference to the baseline is significant (p = {row.p_value:.2g}).")
    return words


def _size(verdict: Verdict, stages: Sequence[Stage], row: DeploymentRow) -> list[str]:
    torch = baseline_of(stages).main
    if torch is None or verdict.smaller_by is None or verdict.smaller_than_dense is None:
        return ["Size against the baseline: not measured."]
    words = [
        _smaller(
            verdict.smaller_than_dense,
            verdict.encoder_smaller_than_dense,
            f"the smallest dense deployment, {verdict.smallest_dense}",
        )
    ]
    against = _smaller(
        verdict.smaller_by, verdict.encoder_smaller_by, f"the baseline in {torch.label}"
    )
    words = [against] if torch.label == verdict.smallest_dense else [*words, against]
    came = stages[0].source_mb
    if came:
        words.append(
            f"The checkpoint came in 16 bits: of its own {came:.1f} MB it is "
            f"{came / row.size_mb:.1f}x smaller, not of the fp32 baseline."
        )
    return words


def _smaller(factor: float, encoder: float | None, what: str) -> str:
    verb = "Smaller" if factor >= 1 else "Not smaller"
    layers = "not measured" if encoder is None else f"{encoder:.1f}x"
    return f"{verb} in bytes than {what}: {factor:.1f}x; the encoder alone: {layers}."


def _noise(verdict: Verdict, row: DeploymentRow, seeds: int) -> list[str]:
    words = []
    if verdict.retention is not None and verdict.retention > 1 and not above_the_baseline(row):
        words.append(
            "Retention above 100 % is a sign that the baseline stopped training early: "
            "compare with the dense model given the same further steps."
        )
    if verdict.significant is False and verdict.retention is not None:
        words.append(
            f"The difference to the baseline is not significant (p = {row.p_value:.2g}): it is "
            "within the noise of this validation set."
        )
    if seeds == 1 and row.headline is not None:
        words.append("One seed: the interval is over examples; another seed may differ by more.")
    return words


def _selection(baseline: Stage, stages: Sequence[Stage]) -> list[str]:
    """Warn where the rows that were chosen by may not be new to a model that came fine-tuned."""
    chose = [
        stage.name
        for stage in stages
        if stage.findings.chosen_on_selection and not stage.measurement
    ]
    if not baseline.is_original or not chose:
        return []
    return [
        f"The model came fine-tuned and may have been trained on the selection rows that "
        f"{', '.join(chose)} chose by: those scores may be too high; the ones reported here are on "
        "other rows."
    ]
