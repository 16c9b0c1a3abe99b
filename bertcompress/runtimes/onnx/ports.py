"""Whether a graph from outside can answer texts at all: its inputs, its outputs, a row for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bertcompress.errors import ModelError
from bertcompress.runtimes import INPUTS
from bertcompress.wording import NAME, plain

__all__ = ["check_answers", "check_ports", "one_line"]

Shape = Sequence[int | None]
"""Sizes of a tensor; None for one that is free."""


def check_ports(file: Path, inputs: Mapping[str, Shape], outputs: Sequence[Shape]) -> None:
    """Raise ModelError for a graph that takes no texts, or answers none, or always one."""
    if not outputs:
        raise ModelError(f"{file}: has no outputs, so it answers nothing")
    if "input_ids" not in inputs:
        names = ", ".join(plain(name, NAME) for name in [*inputs][:10]) or "nothing"
        raise ModelError(f"{file}: takes {names}; a model of texts takes {', '.join(INPUTS)}")
    if unknown := [name for name in inputs if name not in INPUTS]:
        raise ModelError(
            f"{file}: needs the input '{plain(unknown[0], NAME)}'; known: {', '.join(INPUTS)}"
        )
    if any(not 2 <= len(shape) <= 3 for shape in inputs.values()):
        raise ModelError(f"{file}: takes no (texts, tokens)")
    given = inputs["input_ids"][0]
    if any(not shape or (given is None and shape[0] is not None) for shape in outputs):
        raise ModelError(f"{file}: gives a fixed number of answers, whatever the number of texts")


def check_answers(file: Path, outputs: Sequence[Any], rows: int) -> None:
    """Raise ModelError where there is not an answer for each text."""
    shapes = [tuple(each.shape) for each in outputs]
    if len(set(shapes)) != 1:
        raise ModelError(f"{file}: its outputs are of different shapes: {shapes}")
    if not shapes[0] or shapes[0][0] != rows:
        raise ModelError(f"{file}: answers {shapes[0]} to {rows} texts; one row each is needed")
    if outputs[0].dtype.kind not in "fiu":
        raise ModelError(f"{file}: answers with {outputs[0].dtype}, which are no numbers")


def one_line(error: BaseException) -> str:
    """Return what a runtime says, in one line of bearable length."""
    return plain(" ".join(str(error).split()), 400)
