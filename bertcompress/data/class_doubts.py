"""Classes that are hardly meant: by their names, by the splits that have them, by combinations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from bertcompress.task import Task

__all__ = ["doubts_of"]

_SEPARATORS = ("|", ";", ",", "/")
_SHOWN = 5


def doubts_of(
    task: Task, names: Sequence[str], counts: Mapping[str, Counter[str]], found: bool
) -> tuple[str, ...]:
    """Return a line on classes that are hardly meant, by their names, and one on combinations."""
    labelled = {split: count for split, count in counts.items() if set(count) - {"-1"}}
    said = [*_alike(names)]
    for split, count in labelled.items():
        others = {name for other, c in labelled.items() if other != split for name in c}
        alone = [name for name in names if name in count and name not in others]
        if alone and len(labelled) > 1:
            said.append(f"only '{split}' has {_listed(alone)}")
    first = next(iter(labelled), "")
    single = [name for name in names if labelled and labelled[first][name] == 1]
    if single:
        what = "word" if task.columns.label_form == "sequence" else "row"
        said.append(f"a single {what} of '{first}' has {_listed(single)}")
    line = f"{task.name}: classes of '{task.label}': " + "; ".join(said)
    hints = (_combined(task, names), _no_entity(task, names)) if found else ()
    return tuple(filter(None, (line if said else "", *hints)))


def _no_entity(task: Task, names: Sequence[str]) -> str:
    """Return a line where tags of words name no entities, though they may be meant to."""
    if task.columns.label_form != "sequence":
        return ""
    if names and all(name.isdigit() for name in names):
        return (
            f"{task.name}: the tags of '{task.label}' are numbers without names, so that no entity "
            "is known and single words are scored; name them in a task file, in the order of the "
            "numbers: `labels: [O, B-PER, ...]`"
        )
    if "o" in names and "O" not in names:
        return (
            f"{task.name}: the tags of '{task.label}' have an 'o' and no 'O', so that no word is "
            "outside of all entities and single words are scored; write it as 'O'"
        )
    return ""


def _alike(names: Iterable[str]) -> Iterable[str]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault("".join(name.casefold().split()), []).append(name)
    for group in groups.values():
        if len(group) > 1:
            yield f"{_listed(group)} differ by case or blanks only"


def _combined(task: Task, names: Sequence[str]) -> str:
    """Return a hint where classes look like several labels in one cell."""
    if not task.head.has_order:
        return ""
    for separator in _SEPARATORS:
        parts = {name: [part.strip() for part in name.split(separator)] for name in names}
        several = [name for name in names if len(parts[name]) > 1 and all(parts[name])]
        uses = Counter(part for each in parts.values() for part in each)
        if len(several) > 1 and all(uses[part] > 1 for name in several for part in parts[name]):
            return (
                f"{task.name}: {len(several)} of {len(names)} classes of '{task.label}' are "
                f"combinations, such as '{several[0]}'; label_separator: '{separator}' reads them "
                "as several labels"
            )
    return ""


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
