"""What a config and its record of edits say of a model's size, read without building an edit.

Apart from the edits, so that a training that only asks this does not depend on their code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["hidden_size", "written_bits"]


def hidden_size(config: Any) -> int:
    """Return H of a model by its config, which keeps the original one; 0 where it says none."""
    edits = (getattr(config, "bertcompress", None) or {}).get("edits", {})
    return int(edits.get("hidden", {}).get("size") or getattr(config, "hidden_size", 0))


def written_bits(fields: Mapping[str, Any]) -> list[Any]:
    """Return what a config.json says that weights are stored in, in bits; nobody checked it yet."""
    found: Any = fields
    for key in ("bertcompress", "edits", "lowbit", "weights"):
        found = found.get(key) if isinstance(found, dict) else None
    values = found.values() if isinstance(found, dict) else ()
    return [each.get("bits") if isinstance(each, dict) else each for each in values]
