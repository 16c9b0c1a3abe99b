"""Correct answers as data sets write them: SQuAD's columns, its nested form, JSON in a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bertcompress.errors import DataError

__all__ = ["are_answers", "check_answers", "read_answers"]

_FORM = '{"text": ["..."], "answer_start": [0]}'
_SHOWN = 3


def are_answers(cell: Any) -> bool:
    """Return whether a cell, or the type of a column of `datasets`, is of the form of SQuAD."""
    if isinstance(cell, (list, tuple)):
        return bool(cell) and all(map(are_answers, cell))
    if isinstance(cell, str):
        parsed = _parsed(cell)
        return parsed is not None and are_answers(parsed)
    return isinstance(cell, Mapping) and {"text", "answer_start"} <= set(cell)


def read_answers(where: str, cell: Any) -> dict[str, list[Any]]:
    """Return the answers of a row as lists `text` and `answer_start`; empty where there is none.

    `cell`: such an object, a list of objects with one text each, or either as JSON; None and an
    empty list say that there is no answer. Raises DataError for anything else.
    """
    if isinstance(cell, str) and cell.strip():
        cell = _parsed(cell)
        if cell is None:
            raise DataError(f"{where}: answers that are a text; expected {_FORM}")
    if isinstance(cell, (list, tuple)) and all(isinstance(each, Mapping) for each in cell):
        cell = {name: [each.get(name) for each in cell] for name in ("text", "answer_start")}
    if cell is None or cell == "":
        return {"text": [], "answer_start": []}
    if not are_answers(cell):
        raise DataError(f"{where}: answers of type {type(cell).__name__}; expected {_FORM}")
    texts, starts = (_listed(cell[name]) for name in ("text", "answer_start"))
    if len(texts) != len(starts):
        raise DataError(f"{where}: {len(texts)} answers with {len(starts)} places (answer_start)")
    for text, start in zip(texts, starts, strict=True):
        whole = isinstance(start, (int, float)) and not isinstance(start, bool)
        if not isinstance(text, str) or not whole or start != int(start):
            raise DataError(f"{where}: the answer {text!r} at {start!r} is no text with its place")
    return {"text": texts, "answer_start": [int(start) for start in starts]}


def check_answers(
    where: str,
    questions: Sequence[str],
    contexts: Sequence[str],
    answers: Sequence[Mapping[str, Sequence[Any]]],
) -> None:
    """Raise DataError for rows that lack a question or a context, and for answers out of place."""
    wrong: list[str] = []
    rows = zip(questions, contexts, answers, strict=True)
    for number, (question, context, given) in enumerate(rows, 1):
        if not (question.strip() and context.strip()):
            lacking = "context" if question.strip() else "question"
            raise DataError(f"{where}: row {number} has no {lacking}")
        wrong += [
            f"row {number}: {text[:40]!r} at {start}, where the context has "
            f"{context[max(0, start) :][: max(1, len(text))][:40]!r}"
            f"{_nearest(context, text, start)}"
            for text, start in zip(given["text"], given["answer_start"], strict=True)
            if not text or start < 0 or context[start : start + len(text)] != text
        ]
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise DataError(
            f"{where}: answers that are not where `answer_start` says (characters from 0), "
            f"{'; '.join(wrong[:_SHOWN])}{more}"
        )


def _nearest(context: str, text: str, start: int) -> str:
    """Return in words where an answer stands; an empty text where it does not."""
    places: list[int] = []
    found = context.find(text) if text else -1
    while found >= 0 and len(places) < 1_000:
        places.append(found)
        found = context.find(text, found + 1)
    if not places:
        return " (it stands nowhere in it)"
    return f" (it stands at {min(places, key=lambda place: abs(place - start))})"


def _parsed(text: str) -> Any:
    try:
        return json.loads(text) if text.strip().startswith(("{", "[")) else None
    except (ValueError, RecursionError):
        return None


def _listed(value: Any) -> list[Any]:
    if hasattr(value, "tolist"):
        value = value.tolist()
    return list(value) if isinstance(value, (list, tuple)) else [value]
