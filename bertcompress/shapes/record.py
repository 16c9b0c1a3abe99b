"""What a config and its record of edits say of a model's size, read without building an edit.

Apart from the edits, so that a training that only asks this does not depend on their code.
"""

from __future__ import annotations

from typing import Any

__all__ = ["hidden_size"]


def hidden_size(config: Any) -> int:
    """Return H of a model by its config, which keeps the original one; 0 where it says none."""
    edits = (getattr(config, "bertcompress", None) or {}).get("edits", {})
    return int(edits.get("hidden", {}).get("size") or getattr(config, "hidden_size", 0))
