"""Models of others beside a result: whether one of them does as well, in words and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertcompress.heads import has_labels
from bertcompress.measure.scores import Score
from bertcompress.measure.timing.claims import Claim, speed_claim
from bertcompress.report.alarms import cut_short
from bertcompress.report.cells import count, score_cell, shown
from bertcompress.report.columns import Column, Table, build, words
from bertcompress.report.rows import DeploymentRow, Margin, Opponent, ReportData, Stage
from bertcompress.report.speed import judged, served, settings_that_count, texts_of, time_of

__all__ = ["does_as_well", "others", "stands_beside"]

LARGER = 1.01
"""A file of more than so many times the bytes of another one is larger."""


@dataclass(frozen=True)
class _Pair:
    """A file of another model, and the deployment of the result that is judged."""

    other: Opponent
    theirs: DeploymentRow
    ours: DeploymentRow
    margin: Margin
    macs: int | None
    """Of the result."""

    @property
    def larger(self) -> bool:
        """Whether the other one has more bytes: by more than a hundredth."""
        return self.theirs.size_mb > LARGER * self.ours.size_mb

    @property
    def claims(self) -> dict[tuple[int, int | str], Claim]:
        """How many times faster the other one is, for each way of serving that counts."""
        found = {}
        for setting in settings_that_count([self.ours, self.theirs]):
            ours, theirs = time_of(self.ours, *setting), time_of(self.theirs, *setting)
            if ours and theirs:
                found[setting] = speed_claim(ours, theirs)
        return found

    @property
    def slower(self) -> bool:
        """Whether the other one is shown to be slower somewhere; untimed, whether it has to be."""
        if claims := self.claims:
            return any(each.stands and each.ratio < 1 for each in claims.values())
        return bool(self.other.macs and self.macs and self.other.macs > self.macs)

    @property
    def as_good(self) -> bool:
        """Whether the result is not shown to be better in anything than one above chance."""
        better = self.margin.difference_low > 0 or self.larger or self.slower
        return not better and not self.alarm

    @property
    def score(self) -> float:
        """What the other one scores."""
        found = _score(self.other, self.theirs)
        return found.value if found else float("-inf")

    @property
    def alarm(self) -> str:
        """What is wrong with that score as the end of a sentence; empty where nothing is."""
        found = _score(self.other, self.theirs)
        return found.alarm if found else ""


def does_as_well(
    opponents: Sequence[Opponent], last: Stage, row: DeploymentRow | None
) -> list[str]:
    """Return which models the judged deployment is better than in nothing that was measured."""
    return [
        f"A small model of its own does as well: {each.name}, {_came(each)}, scores "
        f"{best.score:.3f} {each.metric} in {best.theirs.label} against "
        f"{best.score + best.margin.difference:.3f} of {best.ours.label} "
        f"(difference {_span(best.margin)}). It is {_size(best)} and {_speed(best)}. Nothing is "
        f"gained over taking {each.name}: take it, or keep more and train for longer."
        for each in opponents
        if (best := _as_good(each, last, row))
    ]


def stands_beside(
    opponents: Sequence[Opponent],
    last: Stage,
    row: DeploymentRow | None,
    task: Mapping[str, Any],
) -> list[str]:
    """Return how the other models stand to the judged deployment, a line each."""
    lines = []
    for each in opponents:
        pairs = _pairs(each, last, row)
        pair = next((p for p in pairs if p.theirs.path == each.path), None)
        if pair is None or _as_good(each, last, row):
            continue
        parts = [
            f"{each.name}, {_came(each)}, scores {pair.score:.3f} {each.metric} in "
            f"{pair.theirs.label}: {_difference(pair.margin)}. It is {_size(pair)} and "
            f"{_speed(pair)}.",
            *_doubts(pair, task),
            *_lost_in_few_bits(pair, pairs),
        ]
        lines.append(" ".join(parts))
    return lines


def others(report: ReportData) -> Table:
    """Return every file of the models beside the result, with scores, sizes and times."""
    row = judged(report.last) or report.last.main
    files = [
        (each, theirs)
        for each in report.opponents
        if each.kind == "model"
        for theirs in each.deployments
    ]
    setting = next(iter(settings_that_count([each for _, each in files])), None)
    columns: list[Column[tuple[Opponent, DeploymentRow]]] = [
        words("model", lambda x: x[0].name),
        words("taken", lambda x: "fine-tuned" if x[0].finetuned else "as it comes"),
        words("runs on", lambda x: x[1].label),
        words("metric", lambda x: x[0].metric),
        Column("score [95 % interval]", lambda x: score_cell(_score(*x))),
        Column("result minus that", lambda x: _cell(_margin(*x, row))),
        Column("MB", lambda x: f"{x[1].size_mb:.1f}"),
        *([_milliseconds(*setting)] if setting else []),
        Column("MACs at 128 tokens", lambda x: count(x[0].macs)),
        Column("minutes", lambda x: shown(x[0].cost.seconds / 60 if x[0].cost else None, ".1f")),
    ]
    note = (
        "Models of others, on the same rows and in the same rounds; nothing was chosen by them, "
        "and none ships. Minutes: what fine-tuning took, by the recipe's own step. Their int8 "
        "files were made without a gate."
    )
    if not has_labels(report.task):
        note += f" {_UNLABELLED}"
    note += "".join(f" {each.name}: {line}." for each in report.opponents for line in each.notes)
    return build("Other models beside the result", files, columns, note)


_UNLABELLED = (
    "Without labels a model is judged by how far it agrees with the original, which a good one "
    "need not: scored pairs or a search would tell."
)


def _pairs(each: Opponent, last: Stage, row: DeploymentRow | None) -> list[_Pair]:
    """Return a model's files, each beside the judged deployment; none of static vectors."""
    if row is None or each.kind != "model":
        return []
    return [
        _Pair(each, theirs, row, margin, last.macs)
        for theirs in each.deployments
        if (margin := _margin(each, theirs, row)) and not theirs.simulated
    ]


def _as_good(each: Opponent, last: Stage, row: DeploymentRow | None) -> _Pair | None:
    """Return the file of a model that does as well, the best of several; None without one."""
    found = [pair for pair in _pairs(each, last, row) if pair.as_good]
    return max(found, key=lambda pair: pair.score, default=None)


def _margin(each: Opponent, theirs: DeploymentRow, row: DeploymentRow | None) -> Margin | None:
    asked = (row.path if row else None, theirs.path)
    return next((m for m in each.margins if (m.path, m.against) == asked), None)


def _score(each: Opponent, theirs: DeploymentRow) -> Score | None:
    return next((score for score in theirs.scores if score.metric == each.metric), None)


def _milliseconds(batch: int, length: int | str) -> Column[tuple[Opponent, DeploymentRow]]:
    def cell(line: tuple[Opponent, DeploymentRow]) -> str:
        time = time_of(line[1], batch, length)
        return shown(time.batch_ms if time else None, ".1f")

    return Column(f"ms, {served(batch)} {texts_of(length)}", cell)


def _span(margin: Margin) -> str:
    low, high = margin.difference_low, margin.difference_high
    return f"{margin.difference:+.3f} [{low:+.3f}, {high:+.3f}]"


def _cell(margin: Margin | None) -> str:
    return _span(margin) if margin else shown(None, ".3f")


def _came(each: Opponent) -> str:
    if not each.finetuned:
        return "as it comes"
    minutes = f" in {each.cost.seconds / 60:.1f} minutes" if each.cost else ""
    return f"fine-tuned here{minutes}"


def _difference(margin: Margin) -> str:
    if margin.difference_low > 0:
        return f"the result is above it by {_span(margin)}"
    if margin.difference_high < 0:
        return f"the result is below it by {_span(margin)}"
    return f"no difference to the result is shown, {_span(margin)}"


def _size(pair: _Pair) -> str:
    theirs, ours = (f"{each.size_mb:.1f}" for each in (pair.theirs, pair.ours))
    if not pair.larger and LARGER * pair.theirs.size_mb >= pair.ours.size_mb:
        return f"as large ({theirs} MB against {ours})"
    return f"{'larger' if pair.larger else 'smaller'} ({theirs} MB against {ours})"


def _speed(pair: _Pair) -> str:
    """Return how the other one's speed stands to the result's, for each way of serving."""
    if not pair.claims:
        theirs, ours = count(pair.other.macs), count(pair.macs)
        return f"computes {theirs} MACs a text against {ours} (it was not timed beside the result)"
    return ", ".join(_served(pair, *setting, claim) for setting, claim in pair.claims.items())


def _served(pair: _Pair, batch: int, length: int | str, claim: Claim) -> str:
    ours, theirs = (time_of(each, batch, length) for each in (pair.ours, pair.theirs))
    assert ours and theirs
    verb = "not measurably slower or faster"
    if claim.disturbed:
        verb = "not comparable, since the machine was busy,"
    elif claim.stands:
        verb = "faster" if claim.ratio > 1 else "slower"
    where = f"for {served(batch)} {texts_of(length)}"
    return f"{verb} {where} ({theirs.batch_ms:.1f} ms against {ours.batch_ms:.1f})"


def _lost_in_few_bits(pair: _Pair, pairs: Sequence[_Pair]) -> list[str]:
    """Return that a result is above a file alone, and not above what that was made of.

    The file has no gate: what the result gains may be no more than what that lost.
    """
    best = max(pairs, key=lambda each: each.score)
    if pair.margin.difference_low <= 0 or best.margin.difference_low > 0:
        return []
    return [
        f"In {best.theirs.label} it scores {best.score:.3f}, which the result is not shown to be "
        "better than: its file in few bits was made without a gate, and one that keeps more may "
        "do as well."
    ]


def _doubts(pair: _Pair, task: Mapping[str, Any]) -> list[str]:
    """Return what may be better or worse about a model than its score says."""
    found = [] if has_labels(task) else [_UNLABELLED]
    if cap := cut_short(pair.other.ended):
        found.append(
            f"Its training was stopped by {cap} while it was still improving: it may be better "
            "than it looks."
        )
    if pair.alarm:
        found.append(f"It is {pair.alarm}.")
    return found
