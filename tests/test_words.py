"""Words and their pieces: a hundred odd words, every kind of tokenizer; no word is lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from words_support import ODD, TOKENIZERS, unigram, wordpiece

from bertcompress.errors import ModelError
from bertcompress.heads.words import aligned, piece_limit, windows

SENTENCES = [
    ODD,
    ODD[::-1],
    ["the", "cat", "sleeps"],
    ["cat"],
    ["\u200b"],
    [""],
    ["New York", "is", "", "old", "."],
    [word for word in ODD if word.strip()][:40],
]


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def test_there_are_a_hundred_odd_words():
    assert len(ODD) > 100


def test_each_word_has_one_first_piece_in_order(tokenizer):
    for words, piece in zip(SENTENCES, aligned(SENTENCES, tokenizer), strict=True):
        mine = piece.words[piece.words >= 0]
        assert (np.diff(mine) > 0).all()
        assert len(piece) == len(piece.tokens["input_ids"])
        inner = piece.words[piece.before : len(piece) - piece.after]
        assert len(mine) == (inner >= 0).sum()  # special tokens answer for nothing
        # Letters and digits have a piece in every tokenizer.
        plain = {i for i, word in enumerate(words) if word.isascii() and word.isalnum()}
        assert plain <= set(mine.tolist())


def test_the_pieces_are_those_of_the_text(tokenizer):
    """What a server makes of the text is what was trained on."""
    for words, piece in zip(SENTENCES[2:4], aligned(SENTENCES[2:4], tokenizer), strict=True):
        assert piece.tokens["input_ids"].tolist() == tokenizer(" ".join(words))["input_ids"]


@pytest.mark.parametrize("make", [wordpiece, unigram], ids=["wordpiece", "unigram"])
def test_first_pieces_are_those_that_word_ids_tell(make):
    """The way of the scripts of transformers, where words are given as a list."""
    tokenizer = make()
    # U+FFFD is a blank to the normalizer of Unigram: a word of nothing else is invisible.
    special = ("[SEP]", "[CLS]", "</s>", "<s>", "<mask>", "\ufffd")
    plain = [word for word in ODD if word.isprintable() and word.split() == [word]]
    plain = [word for word in plain if word not in special and "▁" not in word]
    encoded = tokenizer([plain], is_split_into_words=True)
    ids = encoded.word_ids(0)
    first = [word if word is not None and word != before else -1
             for before, word in zip([None, *ids], ids, strict=False)]  # fmt: skip
    (piece,) = aligned([plain], tokenizer)
    assert piece.tokens["input_ids"].tolist() == encoded["input_ids"][0]
    assert piece.words.tolist() == first


def test_a_blank_before_a_word_is_no_word(tokenizer):
    """Byte-level vocabularies count it in the offsets: entities would be glued to the left."""
    (piece,) = aligned([["the", "cat", ",", "dog"]], tokenizer)
    at = [int(np.flatnonzero(piece.words == word)[0]) for word in range(4)]
    pieces = tokenizer.convert_ids_to_tokens(piece.tokens["input_ids"][at].tolist())
    shown = [each.strip("▁Ġ") for each in pieces]
    assert [a[:1] or b[:1] for a, b in zip(shown, "tc,d", strict=True)] == [
        "t", "c", shown[2][:1] or ",", "d",
    ]  # fmt: skip


def test_nothing_is_left_of_an_invisible_word():
    (piece,) = aligned([["cat", "\u200b", "dog"]], wordpiece())
    assert piece.words.tolist() == [-1, 0, 2, -1]


@pytest.mark.parametrize("limit", [4, 9, 33])
def test_windows_lose_no_piece_and_no_word(tokenizer, limit):
    for piece in aligned(SENTENCES, tokenizer):
        parts = windows(piece, limit)
        mine = np.concatenate([part.words[part.words >= 0] for part in parts])
        assert sorted(mine.tolist()) == piece.words[piece.words >= 0].tolist()
        ids = piece.tokens["input_ids"]
        for part in parts:
            inside = part.tokens["input_ids"]
            assert len(inside) == len(part.words) <= limit
            assert inside[: piece.before].tolist() == ids[: piece.before].tolist()
            assert (
                inside[len(inside) - piece.after :].tolist()
                == ids[len(ids) - piece.after :].tolist()
            )
        numbered = replace(piece, tokens={"input_ids": np.arange(len(piece))})
        seen = [part.tokens["input_ids"] for part in windows(numbered, limit)]
        assert np.unique(np.concatenate(seen)).tolist() == list(range(len(piece)))


def test_a_word_answers_where_it_has_most_around_it():
    (piece,) = aligned([["cat", "dog"] * 10], wordpiece())
    parts = windows(piece, 10)  # eight words each, two of them in the next one too
    assert [part.words[part.words >= 0].tolist() for part in parts] == [
        [0, 1, 2, 3, 4, 5, 6],
        [7, 8, 9, 10, 11, 12],
        [13, 14, 15, 16, 17, 18, 19],
    ]
    assert len(windows(piece, 22)) == 1


def test_a_limit_of_special_tokens_alone_is_refused():
    (piece,) = aligned([["cat", "dog"]], wordpiece())
    with pytest.raises(ModelError, match="max_length 2: special tokens alone fill it"):
        windows(piece, 2)


def test_the_limit_is_the_tasks_or_the_tokenizers():
    tokenizer = wordpiece()
    assert piece_limit(tokenizer, None) == 512
    tokenizer.model_max_length = 40
    assert [piece_limit(tokenizer, length) for length in (None, 64, 16)] == [40, 40, 16]
