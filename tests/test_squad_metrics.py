"""Exact match and F1 of answers: the official formulas of SQuAD, written out once more here."""

from __future__ import annotations

import collections
import random
import re
import string

import numpy as np
import pytest

from bertcompress.metrics.squad import exact_match, f1_of_tokens, normalised, scores
from bertcompress.metrics.thresholds import best_threshold


def official_normal(text):
    """`normalize_answer` of evaluate-v1.1.py and evaluate-v2.0.py."""
    text = "".join(ch for ch in text.lower() if ch not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def official_v1(answer, golds):
    """`exact_match_score` and `f1_score` of version 1.1, the best of the golds."""

    def f1(prediction, gold):
        ours, theirs = official_normal(prediction).split(), official_normal(gold).split()
        same = sum((collections.Counter(ours) & collections.Counter(theirs)).values())
        if same == 0:
            return 0
        precision, recall = 1.0 * same / len(ours), 1.0 * same / len(theirs)
        return (2 * precision * recall) / (precision + recall)

    exact = max(official_normal(answer) == official_normal(gold) for gold in golds)
    return float(exact), max(f1(answer, gold) for gold in golds)


def official_v2(answer, golds):
    """`get_raw_scores` of version 2.0."""

    def tokens(text):
        return official_normal(text).split() if text else []

    def f1(gold, prediction):
        theirs, ours = tokens(gold), tokens(prediction)
        same = sum((collections.Counter(theirs) & collections.Counter(ours)).values())
        if len(theirs) == 0 or len(ours) == 0:
            return int(theirs == ours)
        if same == 0:
            return 0
        precision, recall = 1.0 * same / len(ours), 1.0 * same / len(theirs)
        return (2 * precision * recall) / (precision + recall)

    kept = [gold for gold in golds if official_normal(gold)] or [""]
    exact = max(int(official_normal(gold) == official_normal(answer)) for gold in kept)
    return float(exact), max(f1(gold, answer) for gold in kept)


PIECES = [
    "the", "The", "a", "an", "theatre", "cat", "Cat", "cats", "dog's", "U.S.A.", "$5", "5", "--",
    "naïve", "NAÏVE", "\u00a0", "\t", "\n", " ", "北京", "“quoted”", "half-life", "e\u0301", "an.",
    "(a)", "'", "😀", "İ", "ß", "1,000", "\u2028", "",
]  # fmt: skip


def drawn(seed, count=400):
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(PIECES, k=draw.randint(0, 5))) for _ in range(count)]
    golds = [draw.choices(texts, k=draw.randint(0, 4)) for _ in range(count)]
    return [draw.choice([*gold, text]) for gold, text in zip(golds, texts, strict=True)], golds


@pytest.mark.parametrize("seed", range(3))
def test_version_1_is_the_official_formula(seed):
    answers, golds = drawn(seed)
    rows = [(a, g) for a, g in zip(answers, golds, strict=True) if g]
    found = scores(*zip(*rows, strict=True))
    assert len({*map(tuple, found)}) > 5  # no row of odd texts alone
    np.testing.assert_allclose(found[:, :2], [official_v1(*row) for row in rows], atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_version_2_is_the_official_formula(seed):
    answers, golds = drawn(seed)
    found = scores(answers, golds, unanswerable=True)
    expected = [official_v2(*row) for row in zip(answers, golds, strict=True)]
    np.testing.assert_allclose(found[:, :2], expected, atol=1e-9)
    assert found[:, 2].tolist() == [float(bool(each)) for each in golds]


def test_transformers_gives_the_same():
    theirs = pytest.importorskip("transformers.data.metrics.squad_metrics")
    answers, golds = drawn(7)
    for answer, each in zip(answers, golds, strict=True):
        for gold in each:
            assert theirs.compute_f1(gold, answer) == pytest.approx(
                f1_of_tokens(answer, gold, unanswerable=True), abs=1e-9
            )
            assert theirs.compute_exact(gold, answer) == exact_match(answer, gold)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The  Cat.", "cat"),
        ("an apple a day", "apple day"),
        ("U.S.A.", "usa"),
        ("theatre", "theatre"),
        ("the", ""),
        ("half-life", "halflife"),
    ],
)
def test_what_counts_of_a_text(text, plain):
    assert normalised(text) == plain == official_normal(text)


def test_versions_differ_where_nothing_is_left():
    assert scores(["the"], [["the"]]).tolist() == [[1, 0, 1]]
    assert scores(["the"], [["the"]], unanswerable=True).tolist() == [[1, 1, 1]]
    assert scores([""], [[]], unanswerable=True).tolist() == [[1, 1, 0]]


def brute_force(differences, answered, unanswered):
    """The best sum over all thresholds between two rows and beyond them."""
    edges = np.unique(differences)
    tried = [edges[0] - 1, *((edges[:-1] + edges[1:]) / 2), edges[-1] + 1]
    return max(np.where(differences > t, unanswered, answered).sum() for t in tried)


@pytest.mark.parametrize("seed", range(20))
def test_no_threshold_is_better(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 30))
    differences = np.round(rng.normal(size=count), int(rng.integers(0, 3)))
    answered, has_answer = rng.random(count), rng.random(count) < 0.6
    answered, unanswered = answered * has_answer, 1.0 - has_answer
    threshold = best_threshold(differences, answered, unanswered)
    score = np.where(differences > threshold, unanswered, answered).sum()
    assert score == pytest.approx(brute_force(differences, answered, unanswered))


def test_a_threshold_that_does_not_matter_is_none():
    assert best_threshold(np.array([-2.0, 3.0]), np.ones(2), np.ones(2)) == 0.0
    assert best_threshold(np.array([-2.0, 3.0]), np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 0.0
    assert best_threshold(np.array([1.0, 3.0]), np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 2.0
