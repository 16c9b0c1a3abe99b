"""A label column of all splits, read together: which classes there are, and each row's number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from bertcompress.data.class_doubts import doubts_of
from bertcompress.data.matching import match, nameless
from bertcompress.data.tables import Table
from bertcompress.errors import DataError, unknown
from bertcompress.heads import head_named
from bertcompress.heads.gold_answers import are_answers
from bertcompress.heads.kinds import Column, Written, cell_kind, list_of
from bertcompress.metrics.entities import Tags
from bertcompress.task import Task

__all__ = ["LabelReader", "rows_named"]

IGNORED = -100
"""Of a word that has no tag: it enters no loss and no score."""


@dataclass(frozen=True)
class LabelReader:
    """Turns label columns into numbers. `names`: the classes in the order of the numbers."""

    task: Task
    """With its kind of problem."""
    names: tuple[str, ...]
    column: Column
    """What the labels are; of lists, what stands in them."""
    cells: Mapping[str, Sequence[Any]]
    """Labels by split, lists and names as such."""
    numbers: Mapping[str, int] = field(default_factory=dict)
    as_bits: bool = False
    """Multi-label rows hold one 0 or 1 per class, rather than the classes that apply."""
    doubts: tuple[str, ...] = ()
    """Lines to warn of: classes that hardly can be meant, or are of no use."""

    @classmethod
    def of(cls, task: Task, tables: Mapping[str, Table]) -> LabelReader:
        """Return the reader of the label columns of all splits, the training split first.

        Raises DataError.
        """
        if task.label is None:
            return cls(task, task.labels or (), Column("words"), {})
        task = _of_words(task, tables)
        task = _of_answers(task, tables)
        if task.columns.label_form == "own":
            own = {name: table.columns[task.label or ""] for name, table in tables.items()}
            return cls(task, (), Column("words"), own)
        tables = _same_names(task, tables)
        cells = {name: _cells(task, table) for name, table in tables.items()}
        shown = list(chain.from_iterable(c for c in cells.values() if not _are_hidden(c)))
        try:
            column = Column.of(shown)
        except ValueError as error:
            raise DataError(f"{task.name}: column '{task.label}': {error}") from None
        if column.kind == "lists":
            cells = {name: _as_lists(each) for name, each in cells.items()}
        task = _posed(task, column)
        first = next(iter(cells.values()))
        if not task.head.one_value:
            return cls._of_lists(task, tables, cells)
        reader = cls(task, (), column, cells)
        return reader._named(tables, first) if task.head.has_classes else reader

    @classmethod
    def _of_lists(
        cls, task: Task, tables: Mapping[str, Table], cells: Mapping[str, Sequence[Any]]
    ) -> LabelReader:
        first = next(iter(cells.values()))
        if task.columns.label_form == "bits" and _are_bits(first):
            names = task.labels or tuple(map(str, range(len(first[0]))))
            return cls(task, names, Column("numbers"), cells, as_bits=True)
        lists = [row for each in cells.values() for row in each if isinstance(row, list)]
        inner = [v for row in lists for v in row if not _is_ignored(v, task)]
        try:
            column = Column.of(inner)
        except ValueError as error:
            raise DataError(f"{task.name}: column '{task.label}', within lists: {error}") from None
        if column.kind == "lists" or (column.kind == "numbers" and column.fractions):
            where = f"{task.name}: column '{task.label}'"
            raise DataError(
                f"{where} holds lists of {'lists' if column.kind == 'lists' else 'fractions'} "
                f"(such as {_odd(first)}): probabilities, or several targets, neither of which can "
                "be learnt here; give the classes that apply, or one 0 or 1 for each"
            )
        return cls(task, (), column, cells)._named(tables, [v for row in first for v in row or ()])

    def _named(self, tables: Mapping[str, Table], first: Sequence[Any]) -> LabelReader:
        """Return the reader with its classes: the task's, the declared ones, or those found."""
        counts = {name: self._counted(each) for name, each in self.cells.items()}
        hidden = "-1" if -1 not in first and Written("-1") not in first else None
        found = {n for count in counts.values() for n in count if n != hidden}
        # What the training split has alone marks hidden labels there.
        found = found - {"-1"} if found == {"-1"} else found
        declared = _declared(tables)
        if self.task.labels:
            names, numbers = self._of_task(self.task.labels, declared, found)
        elif declared:
            words = {name for name in found - set(declared) if not _is_number(name)}
            names = (*declared, *self.column.ordered(words))
            numbers = _by_number(names)
        else:
            names = tuple(self.column.ordered(found))
            numbers = {name: i for i, name in enumerate(names)}
        doubts = doubts_of(self.task, names, counts, declared is None)
        return replace(self, names=tuple(names), numbers=numbers, doubts=doubts)

    def _of_task(
        self, labels: tuple[str, ...], declared: tuple[str, ...] | None, found: set[str]
    ) -> tuple[tuple[str, ...], dict[str, int]]:
        """Return names and numbers where the task names its classes."""
        if declared is None:
            by_name = any(name in labels for name in found)
            numbers = {name: i for i, name in enumerate(labels)}
            return labels, numbers if by_name else _by_number(labels)
        order = match(declared, labels)
        if order is not None:
            places = {name: order[i] for i, name in enumerate(declared)}
            return labels, {**_by_number(labels), **places}
        theirs, ours = ", ".join(declared), ", ".join(labels)
        if len(declared) != len(labels):
            raise DataError(
                f"{self.task.name}: the task names {len(labels)} classes ({ours}), the data "
                f"{len(declared)} ({theirs})"
            )
        if not nameless(declared) and not nameless(labels):
            raise DataError(
                f"{self.task.name}: the task names its classes {ours}, the data {theirs}; name "
                "them as the data do, or leave `labels` out"
            )
        places = {name: i for i, name in enumerate(declared)}
        return labels, {**_by_number(labels), **places}

    def _counted(self, cells: Sequence[Any]) -> Counter[str]:
        flat = chain.from_iterable(cell if isinstance(cell, list) else [cell] for cell in cells)
        seen = (v for v in flat if not _is_ignored(v, self.task) and not self.column.is_missing(v))
        return Counter(map(self.column.name, seen))

    def with_classes(self, more: Sequence[str]) -> LabelReader:
        """Return a reader that knows further classes, which no row has."""
        return replace(self, names=(*self.names, *more))

    def read(self, split: str) -> list[Any]:
        """Return the labels of a split as numbers, or as bits for multi-label. Raises DataError."""
        where = f"{self.task.name}: {split}: column '{self.task.label}'"
        values = self.cells[split]
        if self.task.columns.label_form == "own":
            return self.task.head.read_labels(where, values)
        lists = not self.task.head.one_value
        missing = [i for i, value in enumerate(values) if self._is_missing(value)]
        if missing:
            raise DataError(f"{where} has a missing or NaN label in {rows_named(missing)}")
        wrong = [i for i, value in enumerate(values) if isinstance(value, list) != lists]
        if wrong:
            kind = type(values[wrong[0]]).__name__
            kind = "text" if kind == "Written" else kind
            problem = self.task.problem
            raise DataError(f"{where} holds {kind} in {rows_named(wrong)}; {problem} does not")
        if not self.task.head.has_classes:
            return _floats(where, values)
        if lists:
            sequences = self.task.columns.label_form == "sequence"
            row_of = self._numbers if sequences else self._bits
            return [row_of(where, i, row) for i, row in enumerate(values)]
        return self._classes(where, values)

    def _is_missing(self, value: Any) -> bool:
        if isinstance(value, list):
            return any(map(self.column.is_missing, value))
        return self.column.is_missing(value)

    def _classes(self, where: str, values: Sequence[Any]) -> list[int]:
        names = [self.column.name(value) for value in values]
        hidden = [i for i, name in enumerate(names) if name == "-1" and name not in self.numbers]
        if hidden:
            raise DataError(
                f"{where}: the labels are hidden (-1) in {rows_named(hidden)}: this is an "
                "unlabelled test split; judge on another split"
            )
        return [self._number(where, i, name) for i, name in enumerate(names)]

    def _number(self, where: str, position: int, name: str) -> int:
        if name in self.numbers:
            return self.numbers[name]
        at = f"{where}: {rows_named([position])}"
        if _is_number(name):
            allowed = sorted(int(k) for k in self.numbers if k.lstrip("-").isdigit())
            names = f"the names {', '.join(self.names)}"
            span = f"{allowed[0]} to {allowed[-1]}" if allowed else names
            raise DataError(f"{at}: label {name} is outside {span}")
        raise DataError(unknown(at, "label", name, self.names))

    def _bits(self, where: str, position: int, row: list[Any]) -> list[float]:
        width = len(self.names)
        if self.as_bits:
            if len(row) != width or any(value not in (0, 1) for value in row):
                raise DataError(
                    f"{where}: {rows_named([position])}: {row} is not one 0 or 1 for each of "
                    f"{width} classes"
                )
            return [float(value) for value in row]
        bits = [0.0] * width
        for value in row:
            bits[self._number(where, position, self.column.name(value))] = 1.0
        return bits

    def _numbers(self, where: str, position: int, row: list[Any]) -> list[int]:
        return [
            IGNORED
            if _is_ignored(value, self.task)
            else self._number(where, position, self.column.name(value))
            for value in row
        ]

    def told(self) -> str:
        """Return what the labels were taken for, in one line."""
        label, head = self.task.label, self.task.head
        if self.task.columns.label_form == "own":
            return f"{label}: {head.key}"
        if not head.has_classes:
            return f"{label}: numbers; 'problem: single_label' makes them classes"
        shown = ", ".join(self.names[:8]) + (", ..." if len(self.names) > 8 else "")
        sequence = self.task.columns.label_form == "sequence"
        words = f", one for each word ({Tags.of(self.names).scheme})"
        several = words if sequence else ", several for a row"
        several = "" if head.one_value else several
        other = "; 'problem: regression' makes them numbers"
        numeric = self.column.kind == "numbers" and head.one_value
        classes = f"{len(self.names)} class{'es' if len(self.names) != 1 else ''}"
        return f"{label}: {classes} ({shown}){several}{other if numeric else ''}"


def _cells(task: Task, table: Table) -> list[Any]:
    """Return the labels of a split; a cell that holds several becomes a list of them."""
    cells = list(table.columns[task.label or ""])
    if not task.label_separator:
        return [list(cell) if isinstance(cell, tuple) else cell for cell in cells]
    return [_parted(cell, task.label_separator) for cell in cells]


def _parted(cell: Any, separator: str) -> Any:
    if not isinstance(cell, str):
        return cell
    found = list_of(cell)
    parts = cell.split(separator) if found is None else map(str, found)
    kind = Written if isinstance(cell, Written) else str
    return [kind(part.strip()) for part in parts if part.strip()]


def _as_lists(cells: Sequence[Any]) -> list[Any]:
    """Return cells with the lists that were written as text as such."""
    return [list_of(cell) or [] if isinstance(cell, Written) and cell.strip() else cell
            for cell in cells]  # fmt: skip


def _posed(task: Task, column: Column) -> Task:
    """Return the task with its kind of problem. Raises DataError where the labels do not fit it."""
    if task.is_open:
        problem = column.problem
        if task.labels and not head_named(problem).has_classes:  # what has names is classes
            problem = "single_label"
        return task.model_copy(update={"problem": problem})
    lists = column.kind == "lists"
    if lists == task.head.one_value:
        kind = "lists" if lists else "one value per row"
        hint = "" if lists else "; `label_separator` says what parts several labels in one cell"
        raise DataError(
            f"{task.name}: column '{task.label}' holds {kind}, which does not fit problem "
            f"{task.problem}{'' if task.head.one_value else hint}"
        )
    return task


def _of_words(task: Task, tables: Mapping[str, Table]) -> Task:
    """Return an open task as one of tags where its text column holds lists of words."""
    if not task.is_open or len(task.text) > 1:
        return task
    cells = chain.from_iterable(table.columns[task.text[0]] for table in tables.values())
    words = next((cell for cell in cells if cell is not None), None)
    lists = isinstance(words, (list, tuple))
    return task.model_copy(update={"problem": "tokens"}) if lists else task


def _of_answers(task: Task, tables: Mapping[str, Table]) -> Task:
    """Return an open task as one of spans where its labels are answers as SQuAD has them."""
    if not task.is_open or len(task.text) != 2:
        return task
    cells = chain.from_iterable(table.columns[task.label or ""] for table in tables.values())
    first = next((cell for cell in cells if cell not in (None, [], "")), None)
    return task.model_copy(update={"problem": "spans"}) if are_answers(first) else task


def _is_ignored(value: Any, task: Task) -> bool:
    """Return whether a word is marked as one that does not count."""
    return isinstance(value, int) and value == IGNORED and task.columns.label_form == "sequence"


def _are_hidden(cells: Sequence[Any]) -> bool:
    return bool(cells) and all(not isinstance(c, list) and str(c) in ("-1", "-1.0") for c in cells)


def _are_bits(values: Sequence[Any]) -> bool:
    """Whether lists are one 0 or 1 per class, rather than the classes that apply."""
    if not values or not all(isinstance(row, list) and row for row in values):
        return False
    same = len({len(row) for row in values}) == 1 and len(values[0]) > 1
    return same and all(not isinstance(v, str) and v in (0, 1) for row in values for v in row)


def _odd(rows: Sequence[Any]) -> Any:
    """Return the first row of lists that holds a fraction, or the first."""
    fractions = (
        row
        for row in rows
        if isinstance(row, list) and any(isinstance(v, float) and not v.is_integer() for v in row)
    )
    return next(fractions, rows[0])


def _declared(tables: Mapping[str, Table]) -> tuple[str, ...] | None:
    """Return the classes that the label columns declare, the training split's order first."""
    first: tuple[str, ...] = ()
    for table in tables.values():
        if table.classes and not first:
            first = table.classes
    return first or None


def _same_names(task: Task, tables: Mapping[str, Table]) -> dict[str, Table]:
    """Return the tables with declared classes named as the first does that declares any."""
    first, label = _declared(tables) or (), task.label or ""
    same = {}
    for split, table in tables.items():
        order = match(table.classes or (), first)
        if order is not None and table.classes != first:
            names = {name: first[order[i]] for i, name in enumerate(table.classes or ())}
            table = table.with_column(label, _renamed(table.columns[label], names))
        same[split] = table
    return same


def _renamed(cells: Sequence[Any], names: Mapping[str, str]) -> list[Any]:
    return [
        _renamed(cell, names) if isinstance(cell, list) else names.get(cell, cell) for cell in cells
    ]


def _is_number(name: str) -> bool:
    return cell_kind(Written(name)) in ("whole", "fraction")


def _by_number(names: Sequence[str]) -> dict[str, int]:
    """Accept a class by its name, or by its number where no name is one."""
    numbers = {name: i for i, name in enumerate(names)}
    if any(map(_is_number, names)):
        return numbers
    return {**{str(i): i for i in range(len(names))}, **numbers}


def _floats(where: str, values: Sequence[Any]) -> list[float]:
    wrong = [i for i, v in enumerate(values) if cell_kind(v) not in ("whole", "fraction")]
    if wrong:
        raise DataError(f"{where}: {str(values[wrong[0]])!r} is no number, in {rows_named(wrong)}")
    numbers = [float(value) for value in values]
    if len(values) > 1 and all(value == -1 for value in numbers):
        raise DataError(f"{where}: the labels are hidden (-1 in all rows); judge on another split")
    return numbers


def rows_named(positions: Sequence[int]) -> str:
    """Return rows by their numbers, counted from 1: `rows 1, 2, 3 and 4 more`."""
    shown = ", ".join(str(i + 1) for i in positions[:3])
    more = f" and {len(positions) - 3} more" if len(positions) > 3 else ""
    return f"row{'s' if len(positions) > 1 else ''} {shown}{more}"
