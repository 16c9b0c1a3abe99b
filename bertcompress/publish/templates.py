"""The templates of this room: the card, and what one runtime adds to it and to `serve.py`.

A template is named after its runtime. One that a runtime does not have is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["template"]


def template(name: str, shown: Callable[[Any], Any] = lambda value: value) -> Template | None:
    """Return a template of this folder; None where there is none of that name.

    `shown`: what becomes of each value that the template writes.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        finalize=shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name) if name in environment.list_templates() else None
