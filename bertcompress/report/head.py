"""The head of a report: three tiles, what to deploy, what to know. One content for every output.

A tile says in words why there is no figure, where one would mislead: a baseline at chance, classes
that were matched by order, a timing in which no difference can be measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from bertcompress.measure.scores import Score
from bertcompress.report.alarms import (
    above_the_baseline,
    at_chance,
    cut_short,
    far_from_original,
)
from bertcompress.report.cells import NOT_MEASURED, cost_line, percent
from bertcompress.report.rows import DeploymentRow, ReportData, Stage
from bertcompress.report.speed import judged, served, texts_of, time_of, why_not

__all__ = ["Head", "Tile", "head", "short_name"]

MILLISECONDS = "Milliseconds, before and after"
SCORE_KEPT = "Score kept"
_MUST_STAY = 0.9
"""Of what a baseline has above chance, for a share of its score to be shown as good."""
TIMES_SMALLER = "Times smaller"


@dataclass(frozen=True)
class Tile:
    """One figure that a reader looks for, or why there is none."""

    name: str
    value: str
    detail: str
    good: bool
    """Whether the figure is a gain that nothing in red puts in doubt."""


@dataclass(frozen=True)
class Head:
    """What stands first in a page, and last in a terminal."""

    title: str
    about: str
    """Date, recipe, processor and threads."""
    red: tuple[str, ...]
    tiles: tuple[Tile, ...]
    deploy: tuple[str, ...]
    warnings: tuple[str, ...]
    sentences: tuple[str, ...]
    cost: str


def head(report: ReportData) -> Head:
    """Return the head of a report."""
    verdict = report.verdict
    return Head(
        title=report.title,
        about=_about(report),
        red=verdict.red,
        tiles=(_smaller(report), _kept(report), _milliseconds(report)),
        deploy=verdict.deploy,
        warnings=verdict.warnings,
        sentences=verdict.sentences,
        cost=cost_line(report),
    )


def short_name(model: object) -> str:
    """Return the name of a model without the folders before it: `runs/ann/bert` is `bert`."""
    return str(model).rstrip("/\\").replace("\\", "/").rpartition("/")[2].rpartition(":")[2]


def _about(report: ReportData) -> str:
    host, methods = report.environment, report.methods
    threads = host.get("threads")
    parts = [
        host.get("date"),
        f"recipe: {', '.join(methods)}" if methods else "recipe: none",
        host.get("processor"),
        f"{threads} threads" if threads else None,
    ]
    return " · ".join(str(part) for part in parts if part)


def _row(report: ReportData) -> DeploymentRow | None:
    """Return the deployment that the verdict is about; None where nothing was compressed."""
    return None if report.last is report.reference else judged(report.last)


def _without(name: str, report: ReportData) -> Tile:
    """Return a tile of a report without a deployment to judge."""
    if report.last is report.reference:
        return Tile(name, "nothing compressed", "the result is the baseline", False)
    what = "it is only simulated" if report.last.deployments else "it has no deployment"
    return Tile(name, "not claimed", f"{what}: {report.last.name}", False)


def _smaller(report: ReportData) -> Tile:
    row, torch = _row(report), report.reference.main
    if row is None:
        return _without(TIMES_SMALLER, report)
    if torch is None or not row.size_mb:
        return Tile(TIMES_SMALLER, NOT_MEASURED, "", False)
    # A checkpoint in 16 bits is what the user has: it is not grown to fp32 before it is shrunk.
    source_mb = report.stages[0].source_mb
    before_mb = source_mb or torch.size_mb
    what = "the 16-bit checkpoint" if source_mb else torch.label
    detail = f"{before_mb:.1f} MB ({what}) to {row.size_mb:.1f} MB ({row.label})"
    dense = report.verdict.smaller_than_dense
    if dense is not None:
        detail += f"; {dense:.1f}x against the smallest dense file"
    factor = before_mb / row.size_mb
    value = f"{factor:.1f}x" if factor > 1 else "not smaller"
    return Tile(TIMES_SMALLER, value, detail, factor > 1 and not report.verdict.red)


def _kept(report: ReportData) -> Tile:
    row = _row(report)
    if row is None:
        return _without(SCORE_KEPT, report)
    if row.headline is None:
        return Tile(SCORE_KEPT, NOT_MEASURED, "no score", False)
    main = report.reference.main
    before = main.headline if main else None
    metric = row.headline.metric
    scores = f"{row.headline.value:.3f} {metric}"
    if before is not None:
        scores = f"{before.value:.3f} to {scores}"
    if words := _no_share(report, row):
        return Tile(SCORE_KEPT, words[0], f"{words[1]}; {scores}", False)
    if row.retention is None:
        return Tile(SCORE_KEPT, NOT_MEASURED, scores, False)
    low, high = row.retention_low, row.retention_high
    span = "" if low is None or high is None else f"95 % interval {percent(low)} to {percent(high)}"
    detail = "; ".join(filter(None, (span, f"{scores} ({row.label})")))
    good = not report.verdict.red and not _much_lost(row, before, report)
    return Tile(SCORE_KEPT, percent(row.retention), detail, good)


def _much_lost(row: DeploymentRow, before: Score | None, report: ReportData) -> bool:
    """Return whether a tenth of what the baseline has above chance is lost, and not by chance."""
    chance = report.task.get("chance") or 0.0
    if before is None or row.headline is None or not report.verdict.significant:
        return False
    return row.headline.value - chance < _MUST_STAY * (before.value - chance)


def _no_share(report: ReportData, row: DeploymentRow) -> tuple[str, str] | None:
    """Return why no share of the score is stated, in few words and in more; None where it is."""
    main = report.reference.main
    if at_chance(main.headline if main else None, report.task):
        return "nothing to keep", "the baseline is not above chance"
    if at_chance(row.headline, report.task):
        return "at chance", "the result is not above chance"
    if far_from_original(row, report.task):
        return "far off", "it does not stand for the original"
    if row.allowed is False:
        return "refused", f"{row.label} lost more than its own gate allows"
    if report.data.by_order:
        return "in doubt", "the classes were matched by order, not by name"
    if above_the_baseline(row):
        return "in doubt", "significantly above a baseline that was not at its best"
    if _unfinished(report.reference):
        return "in doubt", "the baseline was not trained to its end"
    return None


def _unfinished(stage: Stage) -> bool:
    return bool(cut_short(stage.findings.ended))


def _milliseconds(report: ReportData) -> Tile:
    row, uses = _row(report), report.verdict.uses
    if row is None:
        return _without(MILLISECONDS, report)
    if not uses:
        return Tile(MILLISECONDS, NOT_MEASURED, "nothing was timed", False)
    use = uses[0]
    place = f"{served(use.batch, use.texts)} {texts_of(use.length)}"
    torch = report.reference.main
    plain = time_of(torch, use.batch, use.length) if torch else None
    in_torch = f"{torch.label} takes {plain.batch_ms:.1f} ms" if torch and plain else ""
    if use.best_dense is None or use.best_dense_ms is None or use.over_best_dense is None:
        words = f"{place}; nothing dense but fp32 was timed to compare with"
        return Tile(MILLISECONDS, f"{use.batch_ms:.1f} ms after", words, False)
    if not use.stands:
        words = f"{place}: {why_not(report.last, report.reference, use)}"
        return Tile(MILLISECONDS, "no difference measurable", words, False)
    faster = use.over_best_dense > 1
    dense = f"the best dense deployment, {use.best_dense}"
    parts = (place, f"before: {dense}" if faster else f"slower than {dense}", in_torch)
    value = f"{use.best_dense_ms:.1f} to {use.batch_ms:.1f} ms"
    detail = "; ".join(filter(None, parts))
    return Tile(MILLISECONDS, value, detail, faster and not report.verdict.red)
