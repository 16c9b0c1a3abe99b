"""Raw rows, checked and brought into one form: `row_id`, `text`, `text_pair`, `label`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bertcompress.errors import DataError, unknown
from bertcompress.task import Task

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["LabelReader", "align_labels", "check_columns", "normalise", "permuted"]


def normalise(task: Task, split: str, raw: Dataset, reader: LabelReader, first_id: int) -> Dataset:
    """Return the split as `row_id`, `text`, `text_pair` (pairs) and `label` (unless unlabelled).

    Raises DataError naming split, column and rows (counted from 1).
    """
    from datasets import Dataset, Features, List, Value

    check_columns(task, split, raw)
    columns: dict[str, Any] = {"row_id": list(range(first_id, first_id + len(raw)))}
    features: dict[str, Any] = {"row_id": Value("int64")}
    for name, column in zip(("text", "text_pair"), task.text, strict=False):
        columns[name] = _texts(f"{task.name}: {split}", column, raw[column][:])
        features[name] = Value("string")
    if task.problem != "unlabelled":
        columns["label"] = reader.read(split, raw)
        kind = {"single_label": Value("int64"), "multi_label": List(Value("float32"))}
        features["label"] = kind.get(task.problem, Value("float32"))
    return Dataset.from_dict(columns, features=Features(features))


def check_columns(task: Task, split: str, raw: Dataset) -> None:
    """Raise DataError where the split is empty or lacks a column of the task."""
    if len(raw) == 0:
        raise DataError(f"{task.name}: the split '{split}' is empty")
    for column in (*task.text, *([task.label] if task.label else [])):
        if column not in raw.column_names:
            raise DataError(unknown(f"{task.name}: {split}", "column", column, raw.column_names))


def _texts(where: str, column: str, values: Sequence[Any]) -> list[str]:
    missing = [i for i, value in enumerate(values) if value is None]
    if missing:
        raise DataError(f"{where}: column '{column}' has no text in {_rows(missing)}")
    wrong = [i for i, value in enumerate(values) if not isinstance(value, str)]
    if wrong:
        kind = type(values[wrong[0]]).__name__
        raise DataError(f"{where}: column '{column}' holds {kind}, not text, in {_rows(wrong)}")
    return list(values)


def _rows(positions: Sequence[int]) -> str:
    shown = ", ".join(str(i + 1) for i in positions[:3])
    more = f" and {len(positions) - 3} more" if len(positions) > 3 else ""
    return f"row{'s' if len(positions) > 1 else ''} {shown}{more}"


@dataclass(frozen=True)
class LabelReader:
    """Turns a label column into numbers. `names`: the classes in the order of the numbers."""

    task: Task
    names: tuple[str, ...]
    numbers: Mapping[Any, int]
    """What stands in the column (an int or a name) to its class."""
    as_bits: bool = False
    """Multi-label rows hold one 0 or 1 per class, rather than the classes that apply."""

    @classmethod
    def of(cls, task: Task, train: Dataset) -> LabelReader:
        """Return the reader that the training split (and the task's own names) ask for."""
        if task.problem in ("regression", "unlabelled") or task.label is None:
            return cls(task, task.labels or (), {})
        feature = train.features[task.label]
        lists = hasattr(feature, "feature")
        if lists != (task.problem == "multi_label"):
            kind = "lists" if lists else "one value per row"
            raise DataError(
                f"{task.name}: column '{task.label}' holds {kind}, which does not fit problem "
                f"{task.problem}"
            )
        declared = getattr(getattr(feature, "feature", feature), "names", None)
        if declared is not None:
            return cls(task, *_declared(task, list(declared)))
        values = train[task.label][:]
        if task.problem == "multi_label" and _are_bits(values):
            names = task.labels or tuple(map(str, range(len(values[0]))))
            return cls(task, names, {}, as_bits=True)
        if task.labels:
            return cls(task, task.labels, _either(task.labels))
        ordered = sorted(_distinct(task, values), key=lambda v: (isinstance(v, str), v))
        return cls(task, tuple(map(_name, ordered)), {value: i for i, value in enumerate(ordered)})

    def read(self, split: str, raw: Dataset) -> list[Any]:
        """Return the labels of a split as numbers, or as bits for multi-label. Raises DataError."""
        where = f"{self.task.name}: {split}: column '{self.task.label}'"
        values = raw[self.task.label][:]
        missing = [i for i, value in enumerate(values) if _is_missing(value)]
        if missing:
            raise DataError(f"{where} has a missing or NaN label in {_rows(missing)}")
        lists = self.task.problem == "multi_label"
        wrong = [i for i, value in enumerate(values) if isinstance(value, list) != lists]
        if wrong:
            kind = type(values[wrong[0]]).__name__
            raise DataError(f"{where} holds {kind} in {_rows(wrong)}; {self.task.problem} does not")
        if self.task.problem == "regression":
            return _floats(where, values)
        if self.task.problem == "multi_label":
            return self._bits(where, values)
        hidden = [i for i, value in enumerate(values) if value == -1 and -1 not in self.numbers]
        if hidden:
            raise DataError(
                f"{where}: the labels are hidden (-1) in {_rows(hidden)}: this is an unlabelled "
                "test split; judge on another split"
            )
        return [self._number(where, i, value) for i, value in enumerate(values)]

    def _number(self, where: str, position: int, value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value in self.numbers:
            return self.numbers[value]
        at = f"{where}: {_rows([position])}"
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            allowed = sorted(k for k in self.numbers if isinstance(k, int))
            span = (
                f"{allowed[0]} to {allowed[-1]}"
                if allowed
                else f"the names {', '.join(self.names)}"
            )
            raise DataError(f"{at}: label {value} is outside {span}")
        raise DataError(unknown(at, "label", str(value), self.names))

    def _bits(self, where: str, values: Sequence[list[Any]]) -> list[list[float]]:
        width = len(self.names)
        out = []
        for position, row in enumerate(values):
            if self.as_bits:
                if len(row) != width or any(value not in (0, 1) for value in row):
                    raise DataError(
                        f"{where}: {_rows([position])}: {row} is not one 0 or 1 for each of "
                        f"{width} classes"
                    )
                bits = [float(value) for value in row]
            else:
                bits = [0.0] * width
                for value in row:
                    bits[self._number(where, position, value)] = 1.0
            out.append(bits)
        return out


def _declared(task: Task, names: list[str]) -> tuple[tuple[str, ...], dict[Any, int]]:
    """Return names and numbers of a column that declares its classes, in the task's order."""
    if not task.labels:
        return tuple(names), {i: i for i in range(len(names))}
    order = _match(names, task.labels)
    if order is None and len(names) != len(task.labels):
        raise DataError(
            f"{task.name}: the task names {len(task.labels)} classes ({', '.join(task.labels)}), "
            f"the data {len(names)} ({', '.join(names)})"
        )
    return task.labels, {i: i if order is None else order[i] for i in range(len(names))}


def _either(names: Sequence[str]) -> dict[Any, int]:
    """Accept a class by its name or by its number."""
    return {**{name: i for i, name in enumerate(names)}, **{i: i for i in range(len(names))}}


def _distinct(task: Task, values: Sequence[Any]) -> set[Any]:
    flat = [v for row in values for v in row] if task.problem == "multi_label" else list(values)
    found = set()
    for value in flat:
        if _is_missing(value) or isinstance(value, list):
            continue  # reported with its row by `read`
        whole = isinstance(value, float) and value.is_integer()
        found.add(int(value) if whole else value)
    # -1 may be a class beside others; alone it marks hidden labels, reported by `read`.
    return found - {-1} if found == {-1} else found


def _is_missing(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_is_missing, value))
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _are_bits(values: Sequence[Any]) -> bool:
    """Whether lists are one 0 or 1 per class, rather than the classes that apply."""
    if not values or not all(isinstance(row, list) and row for row in values):
        return False
    same = len({len(row) for row in values}) == 1 and len(values[0]) > 1
    return same and all(not isinstance(v, str) and v in (0, 1) for row in values for v in row)


def _name(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _floats(where: str, values: Sequence[Any]) -> list[float]:
    wrong = [i for i, v in enumerate(values) if isinstance(v, (bool, str, list))]
    if wrong:
        raise DataError(f"{where}: {values[wrong[0]]!r} is no number, in {_rows(wrong)}")
    if len(values) > 1 and all(value == -1 for value in values):
        raise DataError(f"{where}: the labels are hidden (-1 in all rows); judge on another split")
    return [float(value) for value in values]


def _plain(name: object) -> str:
    return re.sub(r"[\W_]+", "", str(name).casefold())


def _match(names: Sequence[str], others: Sequence[str]) -> tuple[int, ...] | None:
    """Return for each name its position among `others`, or None where the two sets differ."""
    positions = {_plain(name): i for i, name in enumerate(others)}
    wanted = [_plain(name) for name in names]
    if (
        not names
        or len(positions) != len(others)
        or set(wanted) != set(positions)
        or len(wanted) != len(positions)
    ):
        return None
    return tuple(positions[name] for name in wanted)


def align_labels(task_labels: Sequence[str], id2label: Mapping[int, str]) -> tuple[int, ...] | None:
    """Return for each class of the task its output in the model, or None where names do not tell.

    Case and punctuation do not count.

    >>> align_labels(["entailment", "neutral"], {0: "NEUTRAL", 1: "Entailment"})
    (1, 0)
    """
    return _match(task_labels, [str(id2label[key]) for key in sorted(id2label)])


def permuted(labels: NDArray[Any], order: Sequence[int]) -> NDArray[Any]:
    """Return labels as the model numbers them. Shape: (N,) classes or (N, K) bits, unchanged."""
    index = np.asarray(order)
    if labels.ndim == 1:
        return np.asarray(index[labels])
    out = np.empty_like(labels)
    out[:, index] = labels
    return out
