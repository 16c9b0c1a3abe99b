"""Text from outside, as it may be shown: without control characters and tokens, and not too long.

A name of a task, a class, a file or a processor, a server's words, another model's card: none of
them may move a cursor, colour a terminal, become markup, or carry a secret along.
"""

from __future__ import annotations

import os
import re
from typing import Any

__all__ = ["NAME", "TOKENS", "clean", "markdown", "mask", "plain"]

LINE = 4_000
"""Characters of a line that are shown at most."""
NAME = 200
"""Characters of a name that are shown at most."""
DEEP = 50
"""Levels of plain data that are looked into; what lies deeper is left out."""

TOKENS = (
    r"hf_[A-Za-z0-9]{8,}",
    r"gh[pousr]_[A-Za-z0-9]{20,}",
    r"github_pat_\w{20,}",
    r"glpat-[\w-]{20,}",
    r"sk-[A-Za-z0-9_-]{20,}",
    r"xox[abprs]-[\w-]{10,}",
    r"AKIA[0-9A-Z]{16}",
    r"AIza[\w-]{35}",
    r"npm_[A-Za-z0-9]{30,}",
    r"pypi-[\w-]{50,}",
    r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
)
"""What tokens and keys of widely used services look like."""

_TOKEN = re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(TOKENS)})")
_PASSWORD = re.compile(r"(?<!\w)(\w{1,20}://)[^\s/@]{1,1000}@")
_IN_QUERY = re.compile(
    r"([?&][\w-]{0,40}(?:token|key|secret|password|signature|sig)=)[^&\s]+", re.I
)
_KNOWN = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GITHUB_TOKEN", "GH_TOKEN", "WANDB_API_KEY"),
    *("AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY"),
)
"""Environment variables whose value may be a token that looks like nothing."""

# Besides the control characters: what turns the direction of a line, hides, or ends it, and halves
# of characters, which no stream can write. The joiners of Indic scripts and of emoji stay.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ud800-\udfff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_CONTROL_BUT_LINES = re.compile(_CONTROL.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))


def mask(text: str) -> str:
    """Return a text without tokens, and without passwords and keys in addresses."""
    for name in _KNOWN:
        known = os.environ.get(name, "").strip()
        if len(known) >= 8:
            text = text.replace(known, "(token)")
    text = _TOKEN.sub("(token)", text)
    return _IN_QUERY.sub(r"\1(token)", _PASSWORD.sub(r"\1", text))


def plain(text: object, limit: int = LINE, *, lines: bool = False) -> str:
    r"""Return a text that any terminal, page or file may show.

    Control characters are spelled out (`\x1b`), tokens masked, and what is longer than `limit`
    characters is cut, which is said. `lines`: line breaks and tabs stay.

    >>> plain("\x1b[31mred")
    '\\x1b[31mred'
    """
    whole = str(text)
    # A token that the limit would cut in two is still one.
    shown = mask(whole[: limit + NAME])
    if len(whole) > limit:
        shown = f"{shown[:limit]}... ({len(whole):,} characters)"
    return (_CONTROL_BUT_LINES if lines else _CONTROL).sub(_spelled, shown)


def clean(value: Any, limit: int = LINE, *, levels: int = DEEP) -> Any:
    """Return plain data (mappings, lists, strings, numbers) with every string made plain."""
    if isinstance(value, str):
        return plain(value, limit)
    if not levels:
        return None if isinstance(value, dict | list | tuple) else value
    if isinstance(value, dict):
        below = {k: clean(v, limit, levels=levels - 1) for k, v in value.items()}
        return {plain(k, NAME) if isinstance(k, str) else k: v for k, v in below.items()}
    if isinstance(value, list | tuple):
        inner = [clean(each, limit, levels=levels - 1) for each in value]
        return inner if isinstance(value, list) else tuple(inner)
    return value


def markdown(text: object, limit: int = LINE) -> str:
    """Return a text for Markdown, in which it makes no HTML, no link and no picture."""
    return plain(text, limit).replace("<", "&lt;").replace("](", "]\\(")


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    short = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return short.get(found[0]) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
