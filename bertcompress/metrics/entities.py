"""Entities in the tags of words, found as `seqeval` finds them by default, and their scores.

A tag is one number, its *code*: 8 times its type plus its prefix. What a row adds to a score is how
many entities of each type both sides have, the answers have, and the references have: sums of any
resample of the rows give the score. Shape, everywhere: codes (N, W), W words of the longest row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ABSENT",
    "OUTSIDE",
    "Tags",
    "entity_counts",
    "entity_f1",
    "entity_f1_of_types",
    "entity_precision",
    "entity_recall",
    "right_words",
]

Array = NDArray[Any]

ABSENT = -1
"""The code where a row has no word, or none that counts."""
OUTSIDE = "O"
"""The tag of a word in no entity. Its code is 0."""

_PREFIXES = {OUTSIDE: 0, "B": 1, "I": 2, "E": 3, "S": 4}
_O, _B, _I, _E, _S = range(5)
_EACH = 8
_BARE = "_"
"""seqeval's name for the type of a prefix alone."""
_BILOU = {"L": "E", "U": "S"}
_MARKS = (*_PREFIXES, *_BILOU)


@dataclass(frozen=True)
class Tags:
    """The tags of a task as prefixes and types of entities, by their number."""

    codes: tuple[int, ...]
    types: tuple[str, ...]
    """Types of entities, in the order of their number in the codes; the first is that of `O`."""
    scheme: str
    """In words: what the prefixes are."""

    @classmethod
    def of(cls, names: Sequence[str]) -> Tags:
        """Return how tags of these names are read.

        A prefix is before or after a dash: IOB1, IOB2, IOE and BIOES as in seqeval; L and U of
        BILOU are E and S. Names without any prefix are types, and equal neighbours one entity.
        """
        last = _are_suffixed(names)
        split = [_split(name, last) for name in names]
        types = [_BARE, *sorted({kind for _, kind in split} - {_BARE})]
        place = {kind: i for i, kind in enumerate(types)}
        codes = tuple(_EACH * place[kind] + _PREFIXES[mark] for mark, kind in split)
        return cls(codes, tuple(types), _scheme(names, last))

    @property
    def outside(self) -> int:
        """Number of the tag for no entity; 0 where there is no such tag, as of parts of speech."""
        return self.codes.index(0) if 0 in self.codes else 0

    @property
    def has_outside(self) -> bool:
        """Whether a word may be in no entity."""
        return 0 in self.codes

    def coded(self, numbers: Array) -> Array:
        """Return the codes of tags. Shape: (N, W), both; a negative number is `ABSENT`."""
        codes = np.asarray((*self.codes, ABSENT), np.int64)
        return codes[np.where(numbers < 0, len(self.codes), numbers)]


def _are_suffixed(names: Sequence[str]) -> bool:
    """Return whether prefixes stand last, as in `PER-B`."""
    marked = [name for name in names if name not in _MARKS]
    first = any(name[:2] in (f"{mark}-" for mark in _MARKS) for name in marked)
    return (
        bool(marked)
        and not first
        and all(name[-2:] in (f"-{mark}" for mark in _MARKS) for name in marked)
    )


def _split(name: str, last: bool) -> tuple[str, str]:
    """Return the prefix and the type of a tag."""
    if name in _MARKS:
        mark, kind = name, _BARE
    elif last:
        mark, kind = name[-1], name[:-2] or _BARE
    elif name[:1] in _MARKS and name[1:2] in ("-", "_"):
        mark, kind = name[0], name[2:] or _BARE
    else:
        mark, kind = "I", name
    return _BILOU.get(mark, mark), kind


def _scheme(names: Sequence[str], last: bool) -> str:
    marks = {name[-1] if last else name[0] for name in names if name not in _MARKS}
    plain = not any(len(name) > 1 and name[1] in "-_" and name[0] in _MARKS for name in names)
    if plain and not last:
        return "types without prefixes"
    if marks & set(_BILOU):
        return "BILOU"
    if marks & {"E", "S"}:
        return "BIOES" if "S" in marks else "IOE"
    return "BIO" if "B" in marks else "IO"


def entity_counts(decided: Array, references: Array, types: int = 0) -> Array:
    """Return of each type the entities on both sides, decided and given. Shape: -> (N, 3 types).

    An entity is right where type, first and last word are. Words that the references leave out
    (`ABSENT`) are as if they were not there. `types`: how many there are; 0: as many as are seen.
    """
    decided, references = _without_absent(decided, references)
    types = types or 1 + max(int(side.max(initial=0)) for side in (decided, references)) // _EACH
    ours, theirs = _ends(decided), _ends(references)
    both = (ours >= 0) & (ours == theirs)
    kinds = [_last_types(side) for side in (decided, references)]
    columns = [
        _counted(both, kinds[1], types),
        _counted(ours >= 0, kinds[0], types),
        _counted(theirs >= 0, kinds[1], types),
    ]
    return np.concatenate(columns, axis=1)


def _without_absent(decided: Array, references: Array) -> tuple[Array, Array]:
    """Return both sides with the words that count first, and `O` behind them."""
    counts = references != ABSENT
    sides = [np.where(counts & (side != ABSENT), side, 0) for side in (decided, references)]
    if (counts[:, 1:] > counts[:, :-1]).any():
        order = np.argsort(~counts, axis=1, kind="stable")
        sides = [np.take_along_axis(side, order, axis=1) for side in sides]
    return sides[0], sides[1]


def _ends(codes: Array) -> Array:
    """Return where an entity ends before a word its first word and type as one number, else -1.

    The rules are those of `start_of_chunk` and `end_of_chunk` in seqeval 1.2.2, by which an `I`
    after `O` begins an entity. Shape: (N, W) -> (N, W + 1).
    """
    before = np.pad(codes, ((0, 0), (1, 0)))
    after = np.pad(codes, ((0, 0), (0, 1)))
    old, new = before % _EACH, after % _EACH
    other = before // _EACH != after // _EACH
    closed = (old == _E) | (old == _S)
    opens = (new == _B) | (new == _S)
    ends = closed | (((old == _B) | (old == _I)) & (opens | (new == _O))) | ((old != _O) & other)
    inside = (new == _I) | (new == _E)
    starts = opens | (inside & (closed | (old == _O))) | ((new != _O) & other)
    places = np.arange(codes.shape[1] + 1)
    first = np.maximum.accumulate(np.where(starts, places, 0), axis=1)
    first = np.pad(first, ((0, 0), (1, 0)))[:, :-1]
    return np.where(ends, first * 2**32 + before // _EACH, -1)


def _last_types(codes: Array) -> Array:
    """Return the type of the word before. Shape: (N, W) -> (N, W + 1)."""
    return np.pad(codes, ((0, 0), (1, 0))) // _EACH


def _counted(where: Array, kinds: Array, types: int) -> Array:
    """Return how many of each type there are in each row. Shape: (N, W + 1) twice -> (N, types)."""
    rows, _ = np.nonzero(where)
    flat = rows * types + kinds[where]
    counts = np.bincount(flat, minlength=len(where) * types)
    return counts.reshape(len(where), types).astype(float)


def entity_f1(sums: Array) -> Array:
    """Return F1 over the entities of all types. Shape: (..., 3 types) -> (...)."""
    both, made, given = _totals(sums)
    return _share(2 * both, made + given)


def entity_precision(sums: Array) -> Array:
    """Return the share of the answered entities that is right. Shape: (..., 3 types) -> (...)."""
    both, made, _ = _totals(sums)
    return _share(both, made)


def entity_recall(sums: Array) -> Array:
    """Return the share of the given entities that is found. Shape: (..., 3 types) -> (...)."""
    both, _, given = _totals(sums)
    return _share(both, given)


def entity_f1_of_types(sums: Array) -> Array:
    """Return the mean of F1 over the types that either side has. Shape: (..., 3 types) -> (...)."""
    both, made, given = np.split(sums, 3, axis=-1)
    seen = (made + given > 0).sum(axis=-1)
    return _share(_share(2 * both, made + given).sum(axis=-1), seen)


def _totals(sums: Array) -> tuple[Array, Array, Array]:
    both, made, given = (part.sum(axis=-1) for part in np.split(sums, 3, axis=-1))
    return both, made, given


def _share(part: Array, whole: Array) -> Array:
    whole = np.asarray(whole, float)
    return np.asarray(np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0))


def right_words(decided: Array, references: Array) -> Array:
    """Return how many words are tagged right, and how many count. Shape: -> (N, 2)."""
    counts = references != ABSENT
    right = counts & (decided == references)
    return np.stack([right.sum(axis=1), counts.sum(axis=1)], axis=1).astype(float)
