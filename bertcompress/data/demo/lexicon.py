"""The words of the embedded task, by what they may be used for; they are in `lexicon.yaml`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["LEXICON", "Lexicon", "Verb", "plural"]

# What is read is this package's own file, whose tables are lists of words.
_TABLES: Mapping[str, Any] = yaml.safe_load(
    Path(__file__).with_name("lexicon.yaml").read_text(encoding="utf-8")
)
_PLURALS: Mapping[str, str] = _TABLES["plurals"]
_FORMS: Mapping[str, tuple[str, str]] = _TABLES["forms"]
"""Past and participle of irregular verbs."""
_DOUBLING = frozenset(_TABLES["doubling"])


def plural(noun: str) -> str:
    """Return the plural of a noun; only the head of `cup of tea` changes."""
    head, space, rest = noun.partition(" of ")
    if head in _PLURALS:
        head = _PLURALS[head]
    elif head.endswith(("s", "x", "ch", "sh")):
        head += "es"
    elif head.endswith("y") and head[-2] not in "aeiou":
        head = head[:-1] + "ies"
    else:
        head += "s"
    return f"{head}{space}{rest}"


@dataclass(frozen=True)
class Verb:
    """The forms of a verb."""

    base: str

    @property
    def third(self) -> str:
        """`eats`."""
        if self.base.endswith("y") and self.base[-2] not in "aeiou":
            return self.base[:-1] + "ies"
        return self.base + ("es" if self.base.endswith(("s", "sh", "ch", "x", "z", "o")) else "s")

    @property
    def past(self) -> str:
        """`ate`."""
        return _FORMS[self.base][0] if self.base in _FORMS else self._regular

    @property
    def participle(self) -> str:
        """`eaten`."""
        return _FORMS[self.base][1] if self.base in _FORMS else self._regular

    @property
    def ing(self) -> str:
        """`eating`."""
        if self.base.endswith("ie"):
            return self.base[:-2] + "ying"
        if self.base.endswith("e") and not self.base.endswith(("ee", "oe")):
            return self.base[:-1] + "ing"
        return self._stem + "ing"

    @property
    def _regular(self) -> str:
        if self.base.endswith("e"):
            return self.base + "d"
        if self.base.endswith("y") and self.base[-2] not in "aeiou":
            return self.base[:-1] + "ied"
        return self._stem + "ed"

    @property
    def _stem(self) -> str:
        return self.base + self.base[-1] * (self.base in _DOUBLING)


Objects = tuple[tuple[Verb, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Lexicon:
    """Words by use, as the tables of the file say."""

    words: dict[str, tuple[str, ...]]
    verbs: dict[str, tuple[Verb, ...]]
    doings: Objects
    irregular: Objects
    strict: Objects
    stuff: Objects
    relations: tuple[tuple[str, tuple[str, ...]], ...]
    """A head with its preposition, `owner of`, and what may follow."""
    habits: tuple[tuple[Verb, str], ...]
    comparatives: tuple[tuple[str, ...], ...]
    """`tall`, `taller`."""
    prepositions: tuple[tuple[Verb, tuple[str, ...]], ...]
    """A verb, its preposition, and two that it does not take."""


def _rows(name: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the rows of a table: a head, and the words beside it."""
    return ((head, tuple(words)) for head, words in _TABLES[name].items())


def _objects(name: str) -> Objects:
    return tuple((Verb(head), words) for head, words in _rows(name))


def _lexicon() -> Lexicon:
    doings = _objects("doings")
    return Lexicon(
        words=dict(_rows("words")),
        verbs={use: tuple(map(Verb, verbs)) for use, verbs in _rows("verbs")},
        doings=doings,
        irregular=tuple(row for row in doings if row[0].base in _TABLES["irregular"]),
        strict=tuple(row for row in doings if row[0].base in _TABLES["strict"]),
        stuff=_objects("stuff"),
        relations=tuple(_rows("relations")),
        habits=tuple((Verb(head), rest) for head, rests in _rows("habits") for rest in rests),
        comparatives=tuple(_TABLES["comparatives"].items()),
        prepositions=_objects("prepositions"),
    )


LEXICON = _lexicon()
