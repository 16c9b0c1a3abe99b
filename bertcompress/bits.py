"""What weights that are stored in few bits are called."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["precision_name"]


def precision_name(bits: Iterable[int]) -> str:
    """Return `int8`, `int4-8` where weights differ, or `fp32` for a model that stores none so.

    >>> precision_name([8, 4, 8]), precision_name([8]), precision_name([])
    ('int4-8', 'int8', 'fp32')
    """
    found = sorted(set(bits))
    if not found:
        return "fp32"
    return f"int{found[0]}" if len(found) == 1 else f"int{found[0]}-{found[-1]}"
