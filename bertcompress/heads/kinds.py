"""The one rule for what a label column poses: classes, numbers or lists. Told in `docs/tasks.md`.

It looks at all rows of all splits at once, at the cells as they were written: what one file happens
to hold decides nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from bertcompress.errors import TaskError
from bertcompress.heads.gold_answers import are_answers

__all__ = ["Column", "Written", "cell_kind", "is_list_text", "list_of", "posed_by"]

# What begins with a zero that is not alone is an identifier, and so are more digits than a float
# can hold.
_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9]\d{0,14})(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,2})?", re.ASCII)
_NUMERAL = re.compile(r"[+-]?\d+(?:\.\d+)?", re.ASCII)
_INFINITE = re.compile(r"[+-]?inf(?:inity)?", re.IGNORECASE)
# Whole numbers are classes unless they are many and hardly any of them comes again.
_MANY = 50
_IDENTIFIER = 10**15
_ROWS_EACH = 5


class Written(str):
    """A cell of a file without types: nothing but its text is known."""

    __slots__ = ()


def cell_kind(cell: Any) -> str:
    """Return `missing`, `nan`, `infinite`, `truth`, `whole`, `fraction`, `word`, `list` or a type.

    `nan` is the word, in a file without types; a NaN with a type is `missing`.
    """
    if isinstance(cell, Written):
        return _written_kind(cell.strip())
    if cell is None:
        return "missing"
    if isinstance(cell, bool):
        return "truth"
    if isinstance(cell, str):
        return "word" if cell.strip() else "missing"
    if isinstance(cell, int):
        return "whole" if abs(cell) < _IDENTIFIER else "word"
    if isinstance(cell, float):
        if math.isnan(cell):
            return "missing"
        return "infinite" if math.isinf(cell) else "whole" if cell.is_integer() else "fraction"
    return "list" if isinstance(cell, (list, tuple)) else type(cell).__name__


def _written_kind(text: str) -> str:
    if not text:
        return "missing"
    if _NUMBER.fullmatch(text):
        number = Decimal(text)
        return "whole" if number == number.to_integral_value() else "fraction"
    if text.casefold() in ("true", "false"):
        return "truth"
    if text.casefold() == "nan":
        return "nan"
    if _INFINITE.fullmatch(text):
        return "infinite"
    return "list" if is_list_text(text) else "word"


def is_list_text(text: str) -> bool:
    """Return whether a text is a list as JSON or Python writes it."""
    return list_of(text) is not None


def list_of(text: str) -> list[Any] | None:
    """Return the list that a text writes, `["a", "b"]` or `['a', 'b']`; None where it is none."""
    import ast

    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return found if isinstance(found, list) else None
    return None


@dataclass(frozen=True)
class Column:
    """What the cells of a label column are, taken together."""

    kind: Literal["words", "truth", "numbers", "lists"]
    fractions: bool = False
    """Whether one of the numbers has a part after its point."""
    whole: bool = True
    """Whether the numbers are written so that they may stand for classes: few, or often there."""

    @classmethod
    def of(cls, cells: Iterable[Any]) -> Column:
        """Return what all cells together are. Raises ValueError for cells of no known kind."""
        cells = list(cells)
        kinds = {cell_kind(cell) for cell in cells}
        known = kinds - {"missing", "nan", "infinite"}
        if strange := sorted(known - {"truth", "whole", "fraction", "word", "list"}):
            raise ValueError(
                f"a label column of type {strange[0]} is of no known problem; use numbers, names "
                "or lists"
            )
        typed = any(isinstance(cell, (list, tuple)) for cell in cells)
        if typed or known == {"list"}:
            return cls("lists")
        if known == {"truth"} and "nan" not in kinds:
            return cls("truth")
        if known and known <= {"whole", "fraction"}:
            return cls("numbers", "fraction" in known, _stand_for_classes(cells))
        return cls("words")

    @property
    def problem(self) -> str:
        """The problem that such a column poses where the task names none."""
        if self.kind == "lists":
            return "multi_label"
        numbers = self.kind == "numbers" and (self.fractions or not self.whole)
        return "regression" if numbers else "single_label"

    def is_missing(self, cell: Any) -> bool:
        """Return whether a cell holds no label; `nan` is a class among words, not among numbers."""
        kind = cell_kind(cell)
        return kind == "missing" or (self.kind == "numbers" and kind in ("nan", "infinite"))

    def name(self, cell: Any) -> str:
        """Return the class that a cell names: `1` and `1.0` are one among numbers only."""
        if isinstance(cell, bool) or self.kind == "truth":
            return str(cell).strip().lower()
        if isinstance(cell, Written) and self.kind == "words":
            return str(cell)
        if isinstance(cell, str) and self.kind != "numbers":
            return str(cell)
        if cell_kind(cell) not in ("whole", "fraction"):
            return str(cell)
        number = Decimal(str(cell).strip()) if isinstance(cell, str) else Decimal(repr(cell))
        if number == number.to_integral_value():
            return str(int(number))
        return format(number.normalize(), "f")

    def ordered(self, names: Iterable[str]) -> list[str]:
        """Return class names in the order of their numbers: numbers by size, then words."""
        return sorted(names, key=_place)


def _place(name: str) -> tuple[int, Decimal, str]:
    number = _NUMERAL.fullmatch(name) is not None
    return (0, Decimal(name), name) if number else (1, Decimal(0), name)


def _stand_for_classes(cells: Sequence[Any]) -> bool:
    numbers = [Decimal(str(c).strip()) for c in cells if cell_kind(c) in ("whole", "fraction")]
    distinct = len(set(numbers))
    return distinct <= _MANY or len(numbers) >= _ROWS_EACH * distinct


def posed_by(splits: Mapping[str, Any], label: str, text: str = "") -> str | None:
    """Return the problem that the labels of splits in memory pose; None where none can be read.

    `text`: the column of the texts; lists of words in it pose a problem of tags. Raises TaskError
    for labels of no known kind.
    """
    cells: list[Any] = []
    for part in splits.values():
        features = getattr(part, "features", None) or {}
        feature = features.get(label)
        if are_answers(getattr(feature, "feature", feature)):
            return "spans"
        if getattr(getattr(features.get(text), "feature", None), "dtype", "") == "string":
            return "tokens"
        if hasattr(feature, "names"):
            return "single_label"
        if hasattr(feature, "feature"):
            return "multi_label"
        if feature is None or not hasattr(part, "__len__"):
            return None
        cells += part.with_format(None)[label][:]
    try:
        return Column.of(cells).problem
    except ValueError as error:
        raise TaskError(f"label: '{label}': {error}") from None
