"""The nested JSON of SQuAD: articles, their paragraphs, and the questions on each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bertcompress.errors import DataError

__all__ = ["COLUMNS", "is_squad", "squad_rows"]

COLUMNS = ("question", "context", "answers")
"""What the rows of such a file have, beside `id` and `title`."""


def is_squad(whole: Any) -> bool:
    """Return whether a JSON value is articles with paragraphs below `data`."""
    articles = whole.get("data") if isinstance(whole, Mapping) else None
    return (
        isinstance(articles, list)
        and bool(articles)
        and all(isinstance(each, Mapping) and "paragraphs" in each for each in articles)
    )


def squad_rows(path: Path, whole: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where each question stands, and it as a row with `answers` as the Hub has them.

    An impossible question (`is_impossible`, version 2.0) has none, whatever is plausible. Raises
    DataError naming the article and the paragraph.
    """
    for a, article in enumerate(whole["data"], 1):
        for p, paragraph in enumerate(_list(path, f"article {a}", article, "paragraphs"), 1):
            at = f"article {a}, paragraph {p}"
            context = paragraph.get("context")
            for q, asked in enumerate(_list(path, at, paragraph, "qas"), 1):
                where = f"{at}, question {q}"
                golds = asked.get("answers")
                if golds is None and not asked.get("is_impossible"):
                    raise DataError(f"{path}: {where}: no `answers`; a test set says none")
                row = {
                    "id": asked.get("id"),
                    "title": article.get("title"),
                    "context": context,
                    "question": asked.get("question"),
                    "answers": [] if asked.get("is_impossible") else golds,
                }
                yield f" {where}", row


def _list(path: Path, at: str, owner: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    found = owner.get(name)
    if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
        raise DataError(f"{path}: {at}: `{name}` is no list of objects")
    return found
