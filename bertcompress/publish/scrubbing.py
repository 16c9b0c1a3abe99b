"""What must not leave this machine: tokens, passwords in addresses, absolute local paths."""

from __future__ import annotations

import contextlib
import json
import mmap
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from bertcompress.report.head import short_name
from bertcompress.wording import TOKENS, mask

__all__ = [
    "local_values",
    "named_only",
    "scrub",
    "scrub_config",
    "scrub_data",
    "scrub_yaml",
    "token_in",
]

_SECRETS = (
    (re.compile(r"\bfile://\S+"), "(local)"),
    (
        re.compile(
            r"(?<![\w.:/<\\])(?:~?(?:/[\w.@+-]+)+/?|[A-Za-z]:\\[^\s'\"|]+|\\\\\w[^\s'\"|]+)"
        ),
        "(local)",
    ),
)
# One after the other: what begins with a fixed text is searched at the speed of the memory.
_IN_BYTES = [re.compile(pattern.replace("{8,}", "{20,}").encode()) for pattern in TOKENS]
_LOCAL = re.compile(r"/|~|[A-Za-z]:\\|\\\\|file:")
_PLACES = re.compile(r"(path|file|dir|folder)s?$")


def local_values(value: Any) -> list[str]:
    """Return the strings of plain data that are local paths with spaces, the longest first."""
    if isinstance(value, dict | list | tuple):
        inner = value.values() if isinstance(value, dict) else value
        return sorted({found for each in inner for found in local_values(each)}, key=len)[::-1]
    return [value] if isinstance(value, str) and _LOCAL.match(value) and " " in value else []


def scrub(text: str, known: Sequence[str] = ()) -> str:
    """Return the text without tokens, passwords in addresses, and absolute local paths.

    `known`: what no pattern would find whole, such as paths with spaces.
    """
    for each in known:
        text = text.replace(each, "(local)")
    text = mask(text)
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def scrub_data(value: Any, known: Sequence[str] = ()) -> Any:
    """Return plain data with its strings scrubbed, and those that are local blanked as a whole."""
    if isinstance(value, dict):
        return {key: scrub_data(inner, known) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [scrub_data(inner, known) for inner in value]
    if not isinstance(value, str):
        return value
    return "(local)" if _LOCAL.match(value) else scrub(value, known)


def scrub_yaml(text: str, known: Sequence[str] = ()) -> str:
    """Return YAML with its values scrubbed."""
    plain = scrub_data(yaml.safe_load(text), known)
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))


def named_only(recipe: str) -> str:
    """Return the YAML of a recipe, the models beside its result without the folders before them."""
    plain = yaml.safe_load(recipe)
    measure = plain.get("measure") or {}
    if not measure.get("against"):
        return recipe
    measure["against"] = [_without_folders(str(each)) for each in measure["against"]]
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))


def _without_folders(model: str) -> str:
    """Return the name of a model's folder; an id of the Hub as it is."""
    local = _LOCAL.match(model) or model.startswith(".") or Path(model).exists()
    return short_name(model) if local else model


def scrub_config(text: str, known: Sequence[str] = ()) -> str:
    """Return the JSON of a model or tokenizer with the values of its places scrubbed.

    Only of those: a class or a special token may look like a path.
    """
    plain = json.loads(text)
    if not isinstance(plain, dict):
        return text
    cleaned = {k: scrub_data(v, known) if _PLACES.search(k) else v for k, v in plain.items()}
    return text if cleaned == plain else json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n"


def token_in(content: Path | bytes, known: Sequence[str] = ()) -> str | None:
    """Return how the first token in a file begins; None without one.

    Tables of tokenizers and weights are scanned too, so only what is as long as a token counts.
    """
    with _bytes(content) as held:
        return _first_token(held, known)


def _first_token(held: bytes | mmap.mmap, known: Sequence[str]) -> str | None:
    if any(secret and held.find(secret.encode()) >= 0 for secret in known):
        return "the one in use"
    for pattern in _IN_BYTES:
        for found in pattern.finditer(held):
            before = held[found.start() - 1 : found.start()] if found.start() else b""
            if not before.isalnum():
                return repr(found[0][:4].decode())
    return None


@contextlib.contextmanager
def _bytes(content: Path | bytes) -> Iterator[bytes | mmap.mmap]:
    if isinstance(content, bytes) or not content.stat().st_size:
        yield content if isinstance(content, bytes) else b""
        return
    with (
        content.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as held,
    ):
        yield held
