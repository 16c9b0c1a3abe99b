"""Two run folders, file by file: the same but for times, memory and drawings of them."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

__all__ = ["differing", "fingerprint"]

MEASURED = {
    *(
        "seconds",
        "earlier_seconds",
        "peak_memory_mb",
        "reused",
        "cost",
        "environment",
        "created",
        "date",
        "load",
    ),
    *("sentences", "warnings", "key", "notes"),
}
"""Fields that tell of the machine and its clock, and sentences that name them."""

LINES = re.compile(r"(?i)\b(cost|min|hours?|seconds?|peak memory|reused)\b|\d{4}-\d\d-\d\d")
"""Lines of pages that do the same."""

NUMBERS = re.compile(r"\d[\d.,]*|\b(yes|no)\b")
"""What pages are compared without: report.json holds the scores, and whether a stage was reused."""


def fingerprint(run: Path) -> dict[str, str]:
    """Return a digest of each file of a run, without what was measured of the machine."""
    files = (path for path in sorted(run.rglob("*")) if path.is_file())
    return {path.relative_to(run).as_posix(): _digest(path) for path in files}


def differing(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Return the names of the files that are not the same in both, missing ones included."""
    return [name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]


def _digest(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".json":
        content = json.dumps(_timeless(json.loads(content)), sort_keys=True).encode()
    elif path.suffix in (".md", ".html"):
        lines = content.decode().splitlines()
        kept = [NUMBERS.sub("#", line) for line in lines if not LINES.search(line)]
        content = "\n".join(kept).encode()
    elif path.suffix in (".svg", ".png"):
        content = b"drawn" if content else b""
    return hashlib.sha256(content).hexdigest()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(each) for key, each in value.items() if key not in MEASURED}
    return [_timeless(each) for each in value] if isinstance(value, list) else value
