"""What a notebook or a prompt shows of an object: a line, or a small table, every text escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from pydantic import BaseModel

from bertcompress.errors import few

__all__ = ["model_html", "pairs_html", "short"]

_LONGEST = 80


def short(text: object) -> str:
    """Return text on one line, cut after 80 characters, without control characters."""
    plain = "".join(c if c.isprintable() else " " for c in str(text))
    return plain if len(plain) <= _LONGEST else f"{plain[:_LONGEST]}..."


def pairs_html(title: str, pairs: Sequence[tuple[str, Any]]) -> str:
    """Return names and values as a table of two columns; empty values are left out."""
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(short(value))}</td></tr>'
        for name, value in pairs
        if value not in (None, "", (), {})
    )
    return f"<b>{escape(short(title))}</b><table>{rows}</table>"


def model_html(title: str, model: BaseModel, *without: str) -> str:
    """Return the fields of a model that are not its defaults as a small table."""
    given = model.model_dump(exclude_defaults=True, exclude=set(without))
    pairs = [(key, few(map(str, v)) if isinstance(v, tuple) else v) for key, v in given.items()]
    return pairs_html(title, pairs)
