"""The embedded task: deterministic, balanced, not to be solved by looking at words."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from bertcompress.data.demo.acceptability import PHENOMENA, acceptability, make_pairs
from bertcompress.data.demo.lexicon import LEXICON, Verb, plural

TEACHER_WEIGHTS, PAIRS = 2_000, 2_500


@pytest.fixture(scope="module")
def data():
    return acceptability()


@pytest.fixture(scope="module")
def pairs():
    return make_pairs(PAIRS, 2026, taught=TEACHER_WEIGHTS)


def test_schema_is_that_of_cola(data):
    assert list(data) == ["train", "validation"]
    assert (len(data["train"]), len(data["validation"])) == (4_000, 1_000)
    for split in data.values():
        assert split.column_names == ["sentence", "label", "idx"]
        assert split.features["label"].names == ["unacceptable", "acceptable"]
        assert Counter(split["label"]) == {0: len(split) // 2, 1: len(split) // 2}
        assert split["idx"][:] == list(range(len(split)))


def test_it_is_the_same_everywhere(data):
    """Scores are compared between machines and releases: a change of the rows has to be meant."""
    text = "\n".join(f"{r['label']} {r['sentence']}" for s in data.values() for r in s)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "dfa04f5b9e3e257a"


def test_another_seed_is_another_corpus(pairs):
    other = {pair.good for pair in make_pairs(PAIRS, 1)}
    assert len(other & {pair.good for pair in pairs}) < PAIRS / 10


def test_no_sentence_twice_and_no_pair_in_two_splits(data, pairs):
    train, validation = set(data["train"]["sentence"]), set(data["validation"]["sentence"])
    assert len(train) == 4_000 and len(validation) == 1_000
    assert not train & validation
    for pair in pairs:
        assert ({pair.good, pair.bad} <= train) != ({pair.good, pair.bad} <= validation)


def test_half_of_the_words_are_held_back(pairs):
    """What a model was not taught about a word it has to know from its pretraining."""
    verbs = [verb.past for verb, _ in LEXICON.prepositions]

    def used(some):
        return {
            v for v in verbs for p in some if p.phenomenon == "preposition" and v in p.good.split()
        }

    assert used(pairs[:TEACHER_WEIGHTS]) == set(verbs[::2])
    assert used(pairs[TEACHER_WEIGHTS:]) & set(verbs[1::2])


def test_every_phenomenon_in_both_splits(data, pairs):
    validation = set(data["validation"]["sentence"])
    whole = Counter(pair.phenomenon for pair in pairs)
    held = Counter(pair.phenomenon for pair in pairs if pair.good in validation)
    for counts in (whole, held):
        assert set(counts) == set(PHENOMENA)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_sentences_are_short_and_look_like_sentences(pairs):
    for pair in pairs:
        for text in (pair.good, pair.bad):
            assert text[0].isupper() and text[-1] in ".?" and "  " not in text
            assert 3 <= len(text.split()) <= 20


def test_pairs_are_minimal(pairs):
    """The halves of a pair have nearly all words in common."""
    for pair in pairs:
        good, bad = (Counter(t.lower().strip(".?").split()) for t in (pair.good, pair.bad))
        assert sum((good - bad).values()) <= 3 and sum((bad - good).values()) <= 3


@pytest.mark.parametrize("words", [1, 2])
def test_a_bag_of_words_learns_little(data, words):
    vectors = TfidfVectorizer(ngram_range=(1, words))
    seen = vectors.fit_transform(data["train"]["sentence"])
    model = LogisticRegression(max_iter=1_000).fit(seen, data["train"]["label"][:])
    score = model.score(
        vectors.transform(data["validation"]["sentence"]), data["validation"]["label"]
    )
    assert score < (0.62 if words == 1 else 0.70)


def test_the_lexicon_is_of_some_size():
    words = {w for kind in LEXICON.words.values() for w in kind}
    verbs = {v.base for kind in LEXICON.verbs.values() for v in kind} | {
        verb.base for verb, _ in LEXICON.doings
    }
    things = {thing for _, members in LEXICON.doings for thing in members}
    assert len(words) > 300 and len(verbs) > 150 and len(things) > 80


@pytest.mark.parametrize(
    ("base", "third", "past", "participle", "ing"),
    [
        ("eat", "eats", "ate", "eaten", "eating"),
        ("carry", "carries", "carried", "carried", "carrying"),
        ("enjoy", "enjoys", "enjoyed", "enjoyed", "enjoying"),
        ("fix", "fixes", "fixed", "fixed", "fixing"),
        ("lie", "lies", "lay", "lain", "lying"),
        ("nap", "naps", "napped", "napped", "napping"),
        ("begin", "begins", "began", "begun", "beginning"),
        ("agree", "agrees", "agreed", "agreed", "agreeing"),
        ("hide", "hides", "hid", "hidden", "hiding"),
        ("visit", "visits", "visited", "visited", "visiting"),
    ],
)
def test_verb_forms(base, third, past, participle, ing):
    verb = Verb(base)
    assert (verb.third, verb.past, verb.participle, verb.ing) == (third, past, participle, ing)


def test_plurals():
    one = ["cat", "box", "lady", "boy", "child", "wife", "cup of tea", "bus", "watch"]
    many = [
        "cats",
        "boxes",
        "ladies",
        "boys",
        "children",
        "wives",
        "cups of tea",
        "buses",
        "watches",
    ]
    assert list(map(plural, one)) == many
