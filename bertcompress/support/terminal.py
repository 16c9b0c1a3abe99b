"""The one place through which the terminal is written.

Whatever is printed is text: no markup is read in it, and what came from outside can neither move
the cursor nor show a token.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from bertcompress.wording import plain

__all__ = ["Terminal", "err", "out"]

PAGE = 200_000
"""Characters that are printed at once at most."""


class Terminal(Console):
    """A console that shows strings as they are, with what could do harm spelled out."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "highlight": False, "emoji": False} | options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as text. Tables, titles and `print` all come here with their strings."""
        off = {"markup": False, "emoji": False, "highlight": False, "highlighter": None}
        return super().render_str(_shown(text), **options | off)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print strings, texts and tables, as `Console.print` does."""
        super().print(*(_harmless(each) for each in objects), **options)


def _harmless(value: Any) -> Any:
    """Return what is printed; a text that was made elsewhere keeps its styles."""
    if not isinstance(value, Text) or _shown(value.plain) == value.plain:
        return value
    return Text(_shown(value.plain), style=value.style)


def _shown(text: str) -> str:
    """Return a text whose lines are plain, and none too long to be wrapped."""
    return "\n".join(map(plain, plain(text, PAGE, lines=True).replace("\t", "    ").split("\n")))


out = Terminal()
err = Terminal(stderr=True)
