"""The field of a task that names its head."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from bertcompress.errors import unknown
from bertcompress.heads import HEADS

__all__ = ["AUTO", "Problem"]

AUTO = "auto"
"""The labels tell which head."""


def _known(name: str) -> str:
    if name != AUTO and name not in HEADS:
        raise ValueError(unknown("task", "problem", name, (AUTO, *HEADS)).partition(": ")[2])
    return name


Problem = Annotated[
    str, AfterValidator(_known), WithJsonSchema({"type": "string", "enum": [AUTO, *HEADS]})
]
"""A key of `HEADS`, or `auto`."""
