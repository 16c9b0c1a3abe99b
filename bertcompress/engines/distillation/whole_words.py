"""Whole words: where they are in a text, and which tokens of a vocabulary are one.

A word is made of letters, with apostrophes and hyphens at most inside; punctuation, numbers and
parts of an abbreviation or an address are none. Tokenizers differ in where they cut: BERT's makes
several words of `co-operate`, those that know a word by the blank before it make one. In scripts
without blanks between words, one token that stands alone is a word, and longer stretches are none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from bertcompress.errors import ModelError

__all__ = ["CutText", "WholeWords", "Word", "check_fast", "cut_texts"]

Ints = NDArray[np.int64]

_APOSTROPHES = "'\u2019"
_INSIDE = f"{_APOSTROPHES}-\u2010"
_JOINTS = f"{_APOSTROPHES}.:/@&+=#_"
"""Where letters or digits stand on both sides, they are no words of their own."""
_ADDRESS = "://"
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
"""Scripts without blanks between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""
_BLANK_MARKS = "\u2581\u0120"
"""What stands for a blank before a word in sentencepiece and in byte-level vocabularies."""
_NO_BLANK = "("
"""What a word can follow without a blank."""


@dataclass(frozen=True)
class Word:
    """A whole word of one of several texts."""

    text: int
    """The number of its text."""
    start: int
    """Its first character."""
    end: int
    """The character behind it."""
    written: str
    token: int | None
    """The place of its one token in the text, special tokens counted; None: it has several."""


@dataclass(frozen=True)
class CutText:
    """A text in tokens, uncut, and its whole words."""

    ids: tuple[int, ...]
    """With special tokens at both ends."""
    before: int
    """Special tokens at the beginning."""
    after: int
    """Special tokens at the end."""
    words: tuple[Word, ...]


def check_fast(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ModelError for a tokenizer that does not tell where in a text its tokens are."""
    if not tokenizer.is_fast:
        raise ModelError(
            f"augment: {type(tokenizer).__name__} is a slow tokenizer, which does not tell where "
            "in a text its tokens are; load the fast one (AutoTokenizer with use_fast=True)"
        )


def cut_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[CutText]:
    """Return texts in tokens of a fast tokenizer, each with its words in order."""
    check_fast(tokenizer)
    if not texts:
        return []
    encoded = tokenizer(
        list(texts),
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        truncation=False,
        padding=False,
        verbose=False,
    )
    marks = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    made = []
    for i, text in enumerate(texts):
        ids = encoded["input_ids"][i]
        pairs = zip(ids, encoded.word_ids(i), strict=True)
        owners = [None if token in marks else owner for token, owner in pairs]
        special = np.array([part is None for part in encoded.sequence_ids(i)], bool)
        inner = np.flatnonzero(~special)
        before = int(inner[0]) if len(inner) else len(special)
        after = len(special) - 1 - int(inner[-1]) if len(inner) else 0
        places = _token_places(text, encoded["offset_mapping"][i], owners)
        words = tuple(_words(i, text, places))
        made.append(CutText(tuple(ids), before, after, words))
    return made


@dataclass(frozen=True)
class _Place:
    """Where a token is in its text, the blanks around it left out."""

    token: int
    owner: int
    """What the tokenizer's own rule cuts a text into before it looks into its vocabulary."""
    start: int
    end: int


def _token_places(
    text: str, offsets: Sequence[tuple[int, int]], owners: Sequence[int | None]
) -> list[_Place]:
    """Return where the tokens of a text are, without special ones and mere blanks."""
    places = []
    for token, ((start, end), owner) in enumerate(zip(offsets, owners, strict=True)):
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        if owner is not None and start < end:
            places.append(_Place(token, owner, start, end))
    return places


def _words(number: int, text: str, places: Sequence[_Place]) -> Iterator[Word]:
    """Yield the words of a text; none of them holds a blank."""
    for _, group in groupby(places, key=lambda place: place.owner):
        tokens = list(group)
        start, end = tokens[0].start, max(place.end for place in tokens)
        for first, written in _between_blanks(text, start, end):
            bounds = _word_in(written)
            if bounds is None:
                continue
            begin, stop = first + bounds[0], first + bounds[1]
            if _is_part(text, begin, stop):
                continue
            own = [place for place in tokens if place.start < stop and place.end > begin]
            exact = len(own) == 1 and (own[0].start, own[0].end) == (begin, stop)
            token = own[0].token if exact else None
            if token is None and _UNSPACED.search(written):
                continue  # a clause, not a word
            yield Word(number, begin, stop, text[begin:stop], token)


def _between_blanks(text: str, start: int, end: int) -> Iterator[tuple[int, str]]:
    """Yield the parts of a stretch of text that blanks divide, each with its first character."""
    at = start
    for blank, group in groupby(text[start:end], key=str.isspace):
        part = "".join(group)
        if not blank:
            yield at, part
        at += len(part)


@lru_cache(maxsize=100_000)
def _word_in(part: str) -> tuple[int, int] | None:
    """Return where the word of a part without blanks is: all but what is no letter at its ends.

    None where the part is no word: a number, an address, an emoji.
    """
    kinds = [unicodedata.category(character)[0] for character in part]
    letters = [i for i, kind in enumerate(kinds) if kind in "LM"]
    if not any(kind == "L" for kind in kinds) or "N" in kinds:
        return None
    start, end = letters[0], letters[-1] + 1
    inside = zip(part[start:end], kinds[start:end], strict=True)
    whole = all(kind in "LM" or character in _INSIDE for character, kind in inside)
    glued = (part[start - 1 : start], part[end : end + 1])
    return (start, end) if whole and "_" not in glued else None


def _is_part(text: str, start: int, end: int) -> bool:
    """Return whether letters are joined to others: in `don't`, `U.S.`, `AT&T` or an address."""
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    if text.startswith(_ADDRESS, end):
        return True
    return (len(before) == 2 and before[1] in _JOINTS and before[0].isalnum()) or (
        len(after) == 2 and after[0] in _JOINTS and after[1].isalnum()
    )


@dataclass(frozen=True)
class WholeWords:
    """The tokens of a vocabulary that are a whole word. Axis: n words."""

    written: tuple[str, ...]
    ids: Ints
    """The token of each word behind a blank. Shape: (n,)."""
    glued: Ints
    """The token of each where no blank is before it; -1: there is none. Shape: (n,)."""
    cased: bool
    """Whether upper and lower case are told apart."""
    places: dict[str, list[int]]
    """Where the words are that differ in case alone."""

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase, among: Collection[str] | None = None
    ) -> WholeWords:
        """Return the whole words of a tokenizer, by their ids rising.

        A token is one where the tokenizer makes it, and it alone, of what it stands for. `among`:
        the tokens that may be one; None: all.
        """
        special = set(tokenizer.all_special_ids)
        known = sorted(
            (i, token)
            for token, i in tokenizer.get_vocab().items()
            if i not in special and (among is None or token in among)
        )
        spelt = [(i, _spelt(tokenizer, token)) for i, token in known]
        spelt = [(i, word) for i, word in spelt if _word_in(word) == (0, len(word))]
        alone = _pieces(tokenizer, [f" {word}" for _, word in spelt])
        kept = [pair for pair, ids in zip(spelt, alone, strict=True) if ids == [pair[0]]]
        written = tuple(word for _, word in kept)
        places: dict[str, list[int]] = {}
        for place, word in enumerate(written):
            places.setdefault(word.casefold(), []).append(place)
        upper, lower = _pieces(tokenizer, [" The", " the"])
        return cls(
            written,
            np.array([i for i, _ in kept], np.int64),
            _glued(tokenizer, written),
            upper != lower,
            places,
        )

    def own(self, word: str) -> list[int]:
        """Return the places of a word, whatever its case."""
        return self.places.get(word.casefold(), [])

    def instead_of(self, word: str, place: int) -> str:
        """Return a word of the vocabulary as it is written in the place of another.

        A vocabulary that tells no cases apart follows the word's own: its first letter, or all.
        """
        found = self.written[place]
        if self.cased or not word[:1].isupper():
            return found
        return found.upper() if len(word) > 1 and word.isupper() else found[:1].upper() + found[1:]


def _spelt(tokenizer: PreTrainedTokenizerBase, token: str) -> str:
    """Return what a token stands for, without blanks and marks of blanks around it."""
    return str(tokenizer.convert_tokens_to_string([token])).strip().lstrip(_BLANK_MARKS)


def _glued(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> Ints:
    """Return the token of each word behind a bracket, -1 where it is not one token there. (n,)."""
    (bracket,) = _pieces(tokenizer, [f" {_NO_BLANK}"])
    rows = _pieces(tokenizer, [f" {_NO_BLANK}{word}" for word in words])
    return np.array(
        [row[-1] if len(row) == len(bracket) + 1 and row[:-1] == bracket else -1 for row in rows],
        np.int64,
    )


def _pieces(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return texts in tokens, without special ones."""
    if not texts:
        return []
    found: Any = tokenizer(
        list(texts), add_special_tokens=False, truncation=False, padding=False, verbose=False
    )
    return list(found["input_ids"])
