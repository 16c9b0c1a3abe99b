"""Classes of a model and of a task, matched by their names; by order never where names differ."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["align_labels", "differ", "match", "nameless", "permuted", "same_numbers"]

_PLACEHOLDER = re.compile(r"(?:(?:label|class)[ _-]?)?([+-]?\d+)", re.IGNORECASE)


def match(names: Sequence[str], others: Sequence[str]) -> tuple[int, ...] | None:
    """Return for each name its position among `others`, or None where the two sets differ.

    Equal names go together first. What is left over is compared without case, spaces and
    punctuation, and only where that is one to one.
    """
    if not names or len(set(names)) != len(names) or len(names) != len(others):
        return None
    return _places(names, others)


def _places(names: Sequence[str], others: Sequence[str]) -> tuple[int, ...] | None:
    """Return for each name its position among `others`, which may be more; None if one lacks."""
    positions = {name: i for i, name in enumerate(others)}
    if len(positions) != len(others):
        return None
    found = {name: positions[name] for name in names if name in positions}
    left = [name for name in names if name not in found]
    rest = [name for name in others if positions[name] not in found.values()]
    plain = {_plain(name): positions[name] for name in rest}
    if left and (len(plain) != len(rest) or len(set(map(_plain, left))) != len(left)):
        return None
    for name in left:
        if _plain(name) not in plain:
            return None
        found[name] = plain[_plain(name)]
    return tuple(found[name] for name in names)


def _plain(name: str) -> str:
    """Return a name without case, spaces and punctuation; as it is where nothing else is in it."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    kept = "".join(c for c in folded if unicodedata.category(c)[0] not in "PZC")
    return kept or folded


def align_labels(task_labels: Sequence[str], id2label: Mapping[int, str]) -> tuple[int, ...] | None:
    """Return for each class of the task its output in the model, or None where names do not tell.

    Exact names go first; case, spaces and punctuation do not count where that is one to one.

    >>> align_labels(["entailment", "neutral"], {0: "NEUTRAL", 1: "Entailment"})
    (1, 0)
    """
    return match(task_labels, _listed(id2label))


def spread(task_labels: Sequence[str], id2label: Mapping[int, str]) -> tuple[str, ...]:
    """Return the classes that a model has beside those of the task; none where they do not fit."""
    names = _listed(id2label)
    if nameless(names) or nameless(task_labels) or len(names) <= len(task_labels):
        return ()
    places = _places(task_labels, names)
    return () if places is None else tuple(n for i, n in enumerate(names) if i not in places)


def nameless(names: Sequence[str]) -> bool:
    """Return whether names are numbers only: `LABEL_0`, `1`."""
    return all(_PLACEHOLDER.fullmatch(name.strip()) for name in names)


def same_numbers(task_labels: Sequence[str], id2label: Mapping[int, str]) -> bool:
    """Return whether both sides have the same numbers for names, in the same order.

    `0` is `LABEL_0`; the first of five stars, `1`, is not.
    """
    sides = [
        [found and int(found[1]) for found in (_PLACEHOLDER.fullmatch(n.strip()) for n in names)]
        for names in (task_labels, _listed(id2label))
    ]
    return None not in sides[0] and sides[0] == sides[1]


def differ(task_labels: Sequence[str], id2label: Mapping[int, str]) -> bool:
    """Return whether task and model both name their classes, and not the same ones."""
    names = _listed(id2label)
    if not task_labels or nameless(task_labels) or nameless(names):
        return False
    return align_labels(task_labels, id2label) is None


def permuted(labels: NDArray[Any], order: Sequence[int]) -> NDArray[Any]:
    """Return labels as the model numbers them. Shape: (N,) classes or (N, K) bits, unchanged."""
    index = np.asarray(order)
    if labels.ndim == 1:
        return np.asarray(index[labels])
    out = np.empty_like(labels)
    out[:, index] = labels
    return out


def _listed(id2label: Mapping[int, str]) -> list[str]:
    return [str(id2label[key]) for key in sorted(id2label)]
