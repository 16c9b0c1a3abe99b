"""Words to pieces and back: which piece answers for a word, and which window where a row has more.

A row is the text of its words with a blank between them, as a server meets it: byte-level and
Unigram vocabularies know a word by the blank before it. The first piece of a word answers for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bertcompress.errors import ModelError
from bertcompress.heads.features import TOKENS, UNBOUNDED, USUAL, limit_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Piece", "Window", "aligned", "piece_limit", "windows"]

Ints = NDArray[np.int64]

NO_WORD = -1
_CHUNK = 2_000


@dataclass(frozen=True)
class Piece:
    """A row in pieces: the tokens, special ones at both ends, and what each piece belongs to."""

    tokens: dict[str, Ints]
    """`input_ids`, `attention_mask` and, where the tokenizer makes them, `token_type_ids`."""
    words: Ints
    """Position of the word whose first piece this is; -1: another piece, or a special token."""
    before: int
    """Special tokens at the beginning."""
    after: int
    """Special tokens at the end."""

    def __len__(self) -> int:
        return len(self.words)


@dataclass(frozen=True)
class Window:
    """A part of a row that a model reads at once. Each word of a row answers in one window."""

    tokens: dict[str, Ints]
    words: Ints
    """As of `Piece`, -1 also for words that another window answers."""


def piece_limit(tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> int:
    """Return how many tokens a window has at most, special ones counted."""
    limit = limit_of(tokenizer)
    return min(limit, max_length or (USUAL if limit == UNBOUNDED else limit))


def aligned(rows: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase) -> Iterator[Piece]:
    """Yield each row of words in pieces, uncut.

    A word that the tokenizer leaves nothing of (a control character) has no piece.
    """
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        if tokenizer.is_fast:
            yield from _by_characters(chunk, tokenizer)
        else:
            yield from (_word_by_word(words, tokenizer) for words in chunk)


def _by_characters(
    rows: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase
) -> Iterator[Piece]:
    """Yield rows by the characters that each piece stands for."""
    encoded = tokenizer(
        [" ".join(words) for words in rows],
        return_offsets_mapping=True,
        return_attention_mask=True,
        truncation=False,
        verbose=False,
    )
    for i, words in enumerate(rows):
        tokens = {
            name: np.asarray(encoded[name][i], np.int64) for name in TOKENS if name in encoded
        }
        special = np.array([part is None for part in encoded.sequence_ids(i)], bool)
        inner = np.flatnonzero(~special)
        before = int(inner[0]) if len(inner) else int(special.sum() + 1) // 2
        after = len(special) - 1 - int(inner[-1]) if len(inner) else len(special) - before
        starts = np.asarray(encoded["offset_mapping"][i], np.int64).reshape(-1, 2)[:, 0]
        owners = np.where(special, len(words), _owners(words, starts))
        yield Piece(tokens, _firsts(owners, len(words)), before, after)


def _owners(words: Sequence[str], starts: Ints) -> Ints:
    """Return the word of each piece, a blank being of the word after it; behind all: their count.

    Shape: first characters (T,) -> (T,).
    """
    ends = np.cumsum([len(word) for word in words]) + np.arange(len(words))
    return np.searchsorted(ends, starts, side="right").astype(np.int64)


def _firsts(owners: Ints, count: int) -> Ints:
    """Return owners where a word's first piece is, else -1. Shape: (T,), both."""
    found, first = np.unique(owners, return_index=True)
    words = np.full(len(owners), NO_WORD, np.int64)
    words[first[found < count]] = found[found < count]
    return words


def _word_by_word(words: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Piece:
    """Return a row whose tokenizer does not tell characters, each word by itself."""
    pieces = [tokenizer.tokenize(word, is_split_into_words=True) for word in words]
    inner = [token for each in pieces for token in each]
    ids: Any = tokenizer.convert_tokens_to_ids(inner)
    encoded = tokenizer.prepare_for_model(ids, return_attention_mask=True, verbose=False)
    whole = list(encoded["input_ids"])
    extra = len(whole) - len(ids)
    before = next((k for k in range(extra + 1) if whole[k : k + len(ids)] == ids), None)
    if before is None:
        raise ModelError(
            f"{type(tokenizer).__name__} changes the tokens of words when it puts special tokens "
            "around them: which piece is of which word cannot be told"
        )
    owners = np.full(len(whole), len(words), np.int64)
    counts = [len(each) for each in pieces]
    owners[before : before + len(ids)] = np.repeat(np.arange(len(words)), counts)
    tokens = {name: np.asarray(encoded[name], np.int64) for name in TOKENS if name in encoded}
    return Piece(tokens, _firsts(owners, len(words)), before, extra - before)


def windows(piece: Piece, limit: int) -> list[Window]:
    """Return a row as windows of at most `limit` tokens, a quarter of each in the next one too.

    A word answers in the window with the most tokens on its shorter side; an end of the row lacks
    nothing. No piece is lost. Raises ModelError for a limit that special tokens fill.
    """
    if len(piece) <= limit:
        return [Window(piece.tokens, piece.words)]
    room = limit - piece.before - piece.after
    if room < 1:
        raise ModelError(f"max_length {limit}: special tokens alone fill it")
    count = len(piece) - piece.before - piece.after
    starts = _starts(count, room)
    chosen = _chosen(count, room, starts)
    made = []
    for number, start in enumerate(starts):
        inner = np.arange(start, min(start + room, count))
        at = np.concatenate(
            [
                np.arange(piece.before),
                inner + piece.before,
                np.arange(len(piece) - piece.after, len(piece)),
            ]
        )
        words = np.full(len(at), NO_WORD, np.int64)
        mine = chosen[inner] == number
        words[piece.before : piece.before + len(inner)] = np.where(
            mine, piece.words[inner + piece.before], NO_WORD
        )
        made.append(Window({name: values[at] for name, values in piece.tokens.items()}, words))
    return made


def _starts(count: int, room: int) -> list[int]:
    """Return where windows begin, the last one as full as the others."""
    step = max(1, room - room // 4)
    return [*range(0, count - room, step), count - room]


def _chosen(count: int, room: int, starts: Sequence[int]) -> Ints:
    """Return for each piece the window that answers for it. Shape: (count,)."""
    at = np.arange(count)
    context: Any = np.full((len(starts), count), -1)
    for number, start in enumerate(starts):
        left = at - start if start else np.full(count, count)
        right = start + room - 1 - at if start + room < count else np.full(count, count)
        inside = (at >= start) & (at < start + room)
        context[number] = np.where(inside, np.minimum(left, right), -1)
    return np.asarray(context.argmax(axis=0), np.int64)
