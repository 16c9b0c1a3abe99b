"""What is wrong with a result, to be said in red before anything else is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bertcompress.heads import has_labels, least_kept
from bertcompress.measure.chance import Standing
from bertcompress.measure.scores import Score
from bertcompress.metrics import SIGNIFICANT
from bertcompress.report.cells import percent
from bertcompress.report.rows import Control, DeploymentRow, Reading, Stage, last_of
from bertcompress.report.speed import served, uses

__all__ = [
    "above_the_baseline",
    "at_chance",
    "control_warnings",
    "cut_short",
    "far_from_original",
    "red_lines",
    "without_retention",
]

_MUCH_CUT = 0.01


def at_chance(score: Score | None, task: Mapping[str, Any]) -> str:
    """Return as the end of a sentence how a score is not above chance; empty where it is.

    Also empty where nobody knows: without a score, without labels, without a chance level.
    """
    if score is None:
        return ""
    if score.standing is not None:
        return score.alarm
    chance = task.get("chance")
    if chance is None or not has_labels(task):
        return ""
    low = -1.0 if score.ci_low is None else score.ci_low
    high = 1.0 if score.ci_high is None else score.ci_high
    standing = Standing(chance=chance, above=low > chance, below=high < chance)
    return standing.words(score.metric, score.value, score.ci_low, score.ci_high)


def without_retention(stage: Stage) -> Stage:
    """Return the stage without retention: of a baseline at chance there is nothing to keep."""
    nothing: dict[str, None] = dict.fromkeys(
        ("retention", "retention_low", "retention_high", "retention_chance_corrected")
    )
    rows = tuple(row.model_copy(update=nothing) for row in stage.deployments)
    return stage.model_copy(update={"deployments": rows})


def above_the_baseline(row: DeploymentRow) -> bool:
    """Return whether the score is significantly above the baseline's."""
    if row.retention is None or row.retention <= 1:
        return False
    by_test = row.p_value is not None and row.p_value < SIGNIFICANT
    return by_test or (row.retention_low is not None and row.retention_low > 1)


def red_lines(
    stages: Sequence[Stage],
    baseline: Stage,
    row: DeploymentRow | None,
    task: Mapping[str, Any],
    data: Reading,
) -> list[str]:
    """Return what is wrong, the gravest first. `row`: the deployment that is judged."""
    handed = [stage for stage in stages if stage.measurement is None]  # a probe trains for itself
    return [
        *_chance(baseline, last_of(stages), row, task),
        *_far(stages, baseline, row, task),
        *_refused(last_of(stages)),
        *_by_order(data),
        *_cut(data, task),
        *(line for stage in handed for line in _stopped(stage)),
        *(line for stage in handed for line in _learned_nothing(stage)),
        *_above(baseline, row),
        *(line for stage in stages if (line := _beaten(stage))),
    ]


def _chance(
    baseline: Stage, last: Stage, row: DeploymentRow | None, task: Mapping[str, Any]
) -> list[str]:
    if words := at_chance(baseline.main.headline if baseline.main else None, task):
        return [
            f"The baseline, {baseline.name}, is {words}. There is nothing to keep: no retention is "
            "stated."
        ]
    if row is None or last is baseline:
        return []
    words = at_chance(row.headline, task)
    lines = [f"The result, {row.label} of {last.name}, is {words}."] if words else []
    return [*lines, *_uses_at_chance(baseline, last, row, task)]


def _uses_at_chance(
    baseline: Stage, last: Stage, judged: DeploymentRow, task: Mapping[str, Any]
) -> list[str]:
    """Return which files that would be deployed are at chance, beside the one that is judged."""
    return [
        f"{row.label} of {last.name}, the fastest for {places}, is {words}."
        for row, places in _used(baseline, last, judged)
        if (words := at_chance(row.headline, task))
    ]


def _used(baseline: Stage, last: Stage, judged: DeploymentRow) -> list[tuple[DeploymentRow, str]]:
    """Return the files that are the fastest somewhere, beside the one that is judged, and where."""
    where: dict[str, list[str]] = {}
    for use in uses(last, baseline):
        if use.path != judged.path:
            where.setdefault(use.path, []).append(served(use.batch, use.texts))
    rows = [row for row in last.deployments if row.path in where]
    return [(row, " and ".join(where[row.path])) for row in rows]


def far_from_original(row: DeploymentRow | None, task: Mapping[str, Any]) -> str:
    """Return as the end of a sentence how a result does not stand for the original; else empty.

    Also empty with labels, which judge by themselves, and where the head states no limit.
    """
    wanted = least_kept(task)
    if row is None or row.headline is None:
        return ""
    split, low = row.headline.split, []
    for score in row.scores:
        least, standing = wanted.get(score.metric), score.standing
        if least is None or standing is None or score.split != split:
            continue
        bar = standing.bar(least)
        if score.value < bar:
            low.append(
                f"{score.value:.3f} {score.metric} (wanted: at least {bar:.3f}; by chance: "
                f"{standing.chance:.3f})"
            )
    return f"far from the original: {' and '.join(low)}" if low else ""


def _far(
    stages: Sequence[Stage],
    baseline: Stage,
    row: DeploymentRow | None,
    task: Mapping[str, Any],
) -> list[str]:
    last = last_of(stages)
    if row is None or last is baseline:
        return []
    lines = []
    if words := far_from_original(row, task):
        lines.append(
            f"The result, {row.label} of {last.name}, is {words}. Do not deploy it: keep more, "
            f"train for longer, or give more texts{_first_far(stages, baseline, task)}."
        )
    return lines + [
        f"{other.label} of {last.name}, the fastest for {places}, is {words}. Do not deploy it."
        for other, places in _used(baseline, last, row)
        if (words := far_from_original(other, task))
    ]


def _first_far(stages: Sequence[Stage], baseline: Stage, task: Mapping[str, Any]) -> str:
    """Return as the end of a sentence which stage left the original first, and where it stood."""
    after = stages[stages.index(baseline) + 1 :]
    first = next((stage for stage in after if far_from_original(stage.main, task)), None)
    if first is None or first.main is None or first.main.headline is None:
        return ""
    score = first.main.headline
    return f"; {first.name} was the first to leave it, at {score.value:.3f} {score.metric}"


def _refused(last: Stage) -> list[str]:
    """Return which shipped files lost more on the selection split than was allowed."""
    return [
        f"{row.label} of {last.name} was refused by its own gate: it loses more on the selection "
        f"split than max_drop allows{_scoring(row)}. Do not deploy {row.path}; try q8bert."
        for row in last.deployments
        if row.allowed is False
    ]


def _scoring(row: DeploymentRow) -> str:
    score = row.headline
    return f", and scores {score.value:.3f} {score.metric}" if score else ""


def _by_order(data: Reading) -> list[str]:
    """Return whose classes were matched by order, where names could not."""
    if not data.by_order:
        return []
    return [
        f"The classes of the {' and the '.join(data.by_order)} were matched with the task's by "
        "order, not by name: with another order every figure is wrong. Name them alike in "
        "config.json (id2label) and in the task (labels)."
    ]


def _cut(data: Reading, task: Mapping[str, Any]) -> list[str]:
    """Return which splits were not read whole. The selection rows are a sample of the training."""
    much = [
        f"{percent(share)} of the rows of {name}"
        for name, share in data.cut.items()
        if share > _MUCH_CUT and name != "selection"
    ]
    if not much:
        return []
    return [
        f"max_length {task.get('max_length')} cuts {', '.join(much)}: these were not read whole. "
        "Give a larger max_length, or a model that takes longer texts."
    ]


def cut_short(ended: Mapping[str, Any] | None) -> str:
    """Return which setting ended a training that was still improving, else an empty string.

    Also one that ended before anything could tell. `ended`: `findings.ended` of a training stage.
    """
    if not ended or ended.get("reason") == "stalled":
        return ""
    if not ended.get("improving") and ended.get("compared", True):
        return ""
    setting = ended.get("setting") or ended.get("reason")
    value = ended.get("value")
    return f"{setting}{'' if value is None else f' = {value}'}"


def _stopped(stage: Stage) -> list[str]:
    """Return which trainings of a stage were not at their best when they ended, in order."""
    training, control = stage.findings.training, stage.replaced_by
    before = training.ended_before if training else ()
    count = len(before) + 1
    numbered = [f"{stage.name}, training {i} of {count}," for i in range(1, count)]
    lines = [_stopped_by(stage, *each) for each in zip(numbered, before, strict=True)]
    ended = stage.findings.ended
    if control and not (control.method and cut_short(control.method.ended)):
        if cut_short(ended):
            lines.append(
                f"{stage.name}: the control, which goes on, was still improving when the method's "
                "steps were over: it is not at its best. Train on the labels alone for longer."
            )
    else:
        lines.append(_stopped_by(stage, stage.name, ended))
    return [line for line in lines if line]


def _stopped_by(stage: Stage, name: str, ended: Mapping[str, Any] | None) -> str:
    """Return that a training of a stage was stopped too early, and by which setting."""
    cap = cut_short(ended)
    if not ended or not cap:
        return ""
    early = "before its selection score could be compared: it is hardly at its best"
    late = "while its selection score was still improving: it is not at its best"
    return (
        f"{name} was stopped by {cap} {late if ended.get('compared', True) else early}. Raise "
        f"{cap.partition(' ')[0]} of {stage.method}."
    )


def _learned_nothing(stage: Stage) -> list[str]:
    """Return which trainings of a stage collapsed: every row is answered alike to the end."""
    several = len(stage.controls) > 1
    what = {stage.name: stage.method_ended} | {
        f"the control of {stage.name}" + (f" ({each.name})" if several else ""): each.ended
        for each in stage.controls
    }
    return [
        f"{name} learned nothing: it answers every row alike. Give {stage.method} a lower "
        "learning_rate."
        for name, ended in what.items()
        if ended and ended.get("learned") is False
    ]


def _above(baseline: Stage, row: DeploymentRow | None) -> list[str]:
    if row is None or row.retention is None or not above_the_baseline(row):
        return []
    return [
        f"{row.label} scores {percent(row.retention)} of the baseline, significantly above it: "
        f"{baseline.name} was not at its best. Train it for longer, or compare with the dense "
        "model given the same further steps."
    ]


def _beaten(stage: Stage) -> str:
    """Return that a method lost to a control that could not take its place."""
    if stage.replaced_by:
        return ""
    for control in stage.controls:
        ours = control.method.selection_score if control.method else None
        theirs = control.selection_score
        if control.role != "rival" or theirs is None or ours is None or theirs <= ours:
            continue
        return (
            f"{stage.name}: the control ({control.name}) is better on the selection split, "
            f"{theirs:.3f} against {ours:.3f}, but larger: the method is shown not to help."
        )
    return ""


def control_warnings(stages: Sequence[Stage]) -> list[str]:
    """Return what the controls say of their methods, one line for each kind of remark."""
    controlled = [(s, each) for s in stages for each in s.controls if each.role != "reference"]
    kinds = (
        (_stopped_side, " while its selection score was still improving: it may be better than it "
         "looks."),
        (_as_high, ": the method is not shown to help."),
        (_inside, "."),
    )  # fmt: skip
    found = [(list(filter(None, (of(*pair) for pair in controlled))), end) for of, end in kinds]
    return ["; ".join(words) + end for words, end in found if words]


def _stopped_side(stage: Stage, control: Control) -> str:
    """Return that the side which does not go on was cut short."""
    other, theirs = ("the method", control.method) if control.goes_on else ("the control", control)
    if theirs is None or not (cap := cut_short(theirs.ended)):
        return ""
    return f"{stage.name}: {other}, which does not go on, was stopped by {cap}"


def _scored(stage: Stage, control: Control) -> tuple[Score, Score] | None:
    """Return the scores of a method that goes on and of its control."""
    score = stage.main.headline if stage.main else None
    if control.goes_on or score is None or control.score is None:
        return None
    return score, control.score


def _as_high(stage: Stage, control: Control) -> str:
    scores = _scored(stage, control)
    if scores is None or scores[1].value < scores[0].value:
        return ""
    return (
        f"{stage.name}: the control ({control.name}) scores as high, "
        f"{scores[1].value:.3f} against {scores[0].value:.3f}"
    )


def _inside(stage: Stage, control: Control) -> str:
    scores = _scored(stage, control)
    if scores is None or scores[0].ci_low is None:
        return ""
    ours, theirs = scores[0].value, scores[1].value
    if not scores[0].ci_low <= theirs < ours:
        return ""
    return (
        f"{stage.name}: the control ({control.name}, {theirs:.3f}) is inside the interval of the "
        f"result ({ours:.3f})"
    )
