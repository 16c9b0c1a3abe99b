"""Static word vectors beside a result: whether they do as well, in words and as a table.

Of models of others `other_models` says it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bertcompress.heads import least_kept
from bertcompress.measure.scores import Score
from bertcompress.report.cells import score_cell, shown
from bertcompress.report.columns import Column, Table, build, words
from bertcompress.report.rows import DeploymentRow, Margin, Opponent, ReportData
from bertcompress.report.speed import judged

__all__ = ["as_good", "below", "beside", "near_enough"]


def as_good(opponents: Sequence[Opponent], row: DeploymentRow | None) -> list[str]:
    """Return which opponents the judged deployment is not shown to be better than."""
    return [
        f"{_named(each)} do as well: {_value(each.score)} {each.metric} against {_ours(each, row)} "
        f"of {row.label}. Nothing is gained over a table look-up for each token: take {each.path} "
        "instead, or keep more and train for longer."
        for each in _static(opponents)
        if row is not None and (margin := _margin(each, row)) and margin.difference_low <= 0
    ]


def near_enough(
    opponents: Sequence[Opponent], row: DeploymentRow | None, task: Mapping[str, Any]
) -> list[str]:
    """Return which opponents that are worse are near the original all the same."""
    least = least_kept(task)
    return [
        f"{_named(each)} may be enough: {_value(each.score)} {each.metric} against "
        f"{_ours(each, row)}, by a table look-up for each token ({each.path})."
        for each in _static(opponents)
        if _worse(each, row) and each.metric in least and _kept(each.score, least[each.metric])
    ]


def below(opponents: Sequence[Opponent], row: DeploymentRow | None) -> list[str]:
    """Return the opponents that a result is better than, and by how much."""
    return [
        f"{_named(each)} have {_value(each.score)} {each.metric}, the result {_ours(each, row)}."
        for each in _static(opponents)
        if _worse(each, row)
    ]


def beside(report: ReportData) -> Table:
    """Return what could be taken instead, with its size and its scores."""
    row = judged(report.last) or report.last.main
    columns: list[Column[tuple[Opponent, Score]]] = [
        words("instead", lambda x: x[0].name),
        words("metric", lambda x: x[1].metric),
        Column("score [95 % interval]", lambda x: score_cell(x[1])),
        Column("result minus that", lambda x: _difference(*x, row)),
        Column("MB", lambda x: f"{x[0].size_mb:.1f}"),
        Column("dimensions", lambda x: shown(x[0].dimensions, "d")),
        Column("tokens", lambda x: f"{x[0].tokens:,}"),
    ]
    lines = [(each, score) for each in _static(report.opponents) for score in each.scores]
    note = (
        "Made of the model before it was cut: each token by itself, principal components, weights "
        "by frequency. No layer is computed: a row of a table for each token. Its cosine is that "
        "of a text's similarities with the others where it has other dimensions, and is not "
        "compared. It was not timed."
    )
    return build("What could be taken instead", lines, columns, note)


def _static(opponents: Sequence[Opponent]) -> list[Opponent]:
    return [each for each in opponents if each.kind == "static"]


def _named(each: Opponent) -> str:
    return f"{each.name[:1].upper()}{each.name[1:]} of {each.size_mb:.1f} MB from the same model"


def _value(score: Score | None) -> str:
    return shown(score.value if score else None, ".3f")


def _margin(each: Opponent, row: DeploymentRow | None) -> Margin | None:
    return next((m for m in each.margins if row is not None and m.path == row.path), None)


def _ours(each: Opponent, row: DeploymentRow | None) -> str:
    margin = _margin(each, row)
    return shown(each.score.value + margin.difference if each.score and margin else None, ".3f")


def _worse(each: Opponent, row: DeploymentRow | None) -> bool:
    margin = _margin(each, row)
    return margin is not None and margin.difference_low > 0


def _kept(score: Score | None, least: float) -> bool:
    if score is None or score.standing is None:
        return False
    return score.value >= score.standing.bar(least)


def _difference(each: Opponent, score: Score, row: DeploymentRow | None) -> str:
    margin = _margin(each, row)
    if margin is None or score.metric != each.metric:
        return shown(None, ".3f")
    span = f"[{margin.difference_low:+.3f}, {margin.difference_high:+.3f}]"
    return f"{margin.difference:+.3f} {span}"
