"""The field of a method that names runtimes to make int8 files for. It needs no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from bertcompress.errors import unknown
from bertcompress.runtimes.table import int8_runtimes

__all__ = ["Int8Runtime"]


def _known(name: str) -> str:
    names = [each.name for each in int8_runtimes()]
    if name not in names:
        raise ValueError(unknown("runtimes", "int8 runtime", name, names).partition(": ")[2])
    return name


_SCHEMA = {"enum": [each.name for each in int8_runtimes()], "type": "string"}

Int8Runtime = Annotated[str, AfterValidator(_known), WithJsonSchema(_SCHEMA)]
"""A key of `RUNTIMES` whose runtime makes int8 files."""
