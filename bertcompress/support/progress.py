"""Progress bars of what takes a while, on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

from bertcompress.support.display import shown

__all__ = ["bar", "by_hand"]

T = TypeVar("T")
_SILENT_S = 2.0
"""What is over sooner shows nothing."""


def bar(items: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
    """Return the items with a bar on standard error; it is gone at the end."""
    shown: Iterable[T] = tqdm(items, what, total, **_options())
    return shown


def by_hand(what: str, total: int, unit: str = "it") -> tqdm[Any]:
    """Return a bar for a `with` block that is moved by `update`; large units are abbreviated."""
    return tqdm(None, what, total, unit=unit, unit_scale=unit != "it", **_options())


def _options() -> dict[str, Any]:
    display = shown.get()
    silent = display is not None and display.silent
    return {"leave": False, "delay": _SILENT_S, "disable": silent or not sys.stderr.isatty()}
