"""Entity scores are seqeval's, for every scheme, and sums over rows give those of any resample."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from bertcompress.metrics.entities import (
    ABSENT,
    Tags,
    entity_counts,
    entity_f1,
    entity_f1_of_types,
    entity_precision,
    entity_recall,
    right_words,
)

SCHEMES = {
    "BIO": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"],
    "IO": ["O", "I-PER", "I-LOC", "I-MISC"],
    "IOE": ["O", "I-PER", "E-PER", "I-LOC", "E-LOC"],
    "BIOES": [f"{mark}-{kind}" for mark in "BIES" for kind in ("PER", "LOC-x", "A_b")] + ["O"],
    "bare": ["O", "B", "I", "E", "S"],
}


def sentences(names, seed, rows=120, longest=12):
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, longest, rows)
    tags = np.full((rows, longest), ABSENT)
    for row, length in zip(tags, lengths, strict=True):
        row[:length] = draw.integers(0, len(names), length)
    return tags


def as_names(numbers, names):
    return [[names[i] for i in row if i >= 0] for row in numbers]


def scored(names, answers, truth):
    tags = Tags.of(names)
    return entity_counts(tags.coded(answers), tags.coded(truth), len(tags.types)), tags


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scheme", SCHEMES)
def test_scores_are_those_of_seqeval(scheme: str, seed: int):
    seqeval = pytest.importorskip("seqeval.metrics")
    names = SCHEMES[scheme]
    truth = sentences(names, seed)
    noise = np.random.default_rng(seed + 50)
    wrong = noise.integers(0, len(names), truth.shape)
    answers = np.where((noise.random(truth.shape) < 0.3) & (truth >= 0), wrong, truth)
    counts, tags = scored(names, answers, truth)
    sums = counts.sum(axis=0)
    sides = as_names(truth, names), as_names(answers, names)
    assert entity_f1(sums) == pytest.approx(seqeval.f1_score(*sides), abs=1e-12)
    assert entity_precision(sums) == pytest.approx(seqeval.precision_score(*sides), abs=1e-12)
    assert entity_recall(sums) == pytest.approx(seqeval.recall_score(*sides), abs=1e-12)
    macro = seqeval.f1_score(*sides, average="macro")
    assert entity_f1_of_types(sums) == pytest.approx(macro, abs=1e-12)
    words = right_words(answers, truth).sum(axis=0)
    assert words[0] / words[1] == pytest.approx(seqeval.accuracy_score(*sides), abs=1e-12)
    report = seqeval.classification_report(*sides, output_dict=True)
    _, _, given = np.split(sums, 3)
    for kind, support in zip(tags.types, given, strict=True):
        if kind in report:
            assert support == report[kind]["support"]


def test_each_row_has_the_entities_that_seqeval_finds_in_it():
    """Also the odd ones: I after O, E after E, a type that changes without a B."""
    seqeval = pytest.importorskip("seqeval.metrics.sequence_labeling")
    names = SCHEMES["BIOES"]
    truth = sentences(names, 9, rows=400)
    counts, tags = scored(names, truth, truth)
    for row, words in zip(counts, as_names(truth, names), strict=True):
        theirs = seqeval.get_entities(words)
        of_type = [sum(kind == name for name, _, _ in theirs) for kind in tags.types]
        assert row.tolist() == of_type * 3


def test_types_without_prefixes_are_one_entity_for_equal_neighbours():
    """As seqeval reads them with an I before each; by itself it reads `ORG` as `O`."""
    seqeval = pytest.importorskip("seqeval.metrics")
    names = ["O", "PER", "ORG", "BAR", "person-actor"]
    truth, answers = sentences(names, 1), sentences(names, 2)
    answers = np.where(truth >= 0, np.where(answers >= 0, answers, 0), ABSENT)
    counts, tags = scored(names, answers, truth)
    marked = ["O", *(f"I-{name}" for name in names[1:])]
    sides = as_names(truth, marked), as_names(answers, marked)
    assert tags.scheme == "types without prefixes"
    assert entity_f1(counts.sum(axis=0)) == pytest.approx(seqeval.f1_score(*sides), abs=1e-12)


def test_prefixes_may_stand_last():
    seqeval = pytest.importorskip("seqeval.metrics")
    names = ["O", "PER-B", "PER-I", "LOC-B", "LOC-I"]
    truth, answers = sentences(names, 1), sentences(names, 2)
    answers = np.where(truth >= 0, np.where(answers >= 0, answers, 0), ABSENT)
    counts, _ = scored(names, answers, truth)
    sides = as_names(truth, names), as_names(answers, names)
    theirs = seqeval.f1_score(*sides, suffix=True)
    assert entity_f1(counts.sum(axis=0)) == pytest.approx(theirs, abs=1e-12)


def test_bilou_is_read_as_bioes():
    bilou = Tags.of(["O", "B-X", "I-X", "L-X", "U-X"])
    assert bilou.codes == Tags.of(["O", "B-X", "I-X", "E-X", "S-X"]).codes
    row = bilou.coded(np.array([[4, 4, 0, 1, 3]]))
    counts = entity_counts(row, row)
    assert counts.sum() == 3 * 3


@pytest.mark.parametrize(
    ("names", "scheme"),
    [
        (["O", "B-X", "I-X"], "BIO"),
        (["O", "I-X"], "IO"),
        (["O", "B-X", "I-X", "E-X", "S-X"], "BIOES"),
        (["O", "B-X", "I-X", "L-X", "U-X"], "BILOU"),
        (["NOUN", "VERB", "X"], "types without prefixes"),
        (["O", "X-B", "X-I"], "BIO"),
    ],
)
def test_the_scheme_is_told_by_the_names(names, scheme):
    assert Tags.of(names).scheme == scheme


def test_words_that_do_not_count_are_as_if_they_were_not_there():
    names = SCHEMES["BIO"]
    tags = Tags.of(names)
    truth = np.array([[1, ABSENT, 2, 0, 3, ABSENT]])
    short = np.array([[1, 2, 0, 3]])
    answers = np.array([[1, 4, 2, 0, 3, 4]])
    whole = entity_counts(tags.coded(answers), tags.coded(truth), 3)
    assert whole.tolist() == entity_counts(tags.coded(short), tags.coded(short), 3).tolist()
    assert whole.sum() == 6
    assert right_words(answers, truth).tolist() == [[4, 4]]


def test_a_resample_is_scored_by_weights():
    names = SCHEMES["BIO"]
    truth, answers = sentences(names, 1, rows=40), sentences(names, 2, rows=40)
    counts, _ = scored(names, answers, truth)
    drawn = np.random.default_rng(0).integers(0, 40, 40)
    weights = np.bincount(drawn, minlength=40)
    again, _ = scored(names, answers[drawn], truth[drawn])
    assert entity_f1(weights @ counts) == entity_f1(again.sum(axis=0))
    assert entity_f1_of_types(weights @ counts) == entity_f1_of_types(again.sum(axis=0))


def test_no_entity_anywhere_scores_nothing():
    """Warnings of a division by zero would be errors here."""
    tags = Tags.of(SCHEMES["BIO"])
    none = tags.coded(np.zeros((3, 4), int))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sums = entity_counts(none, none, 3).sum(axis=0)
        assert [float(f(sums)) for f in (entity_f1, entity_precision, entity_recall)] == [0, 0, 0]
        assert entity_f1_of_types(sums) == 0
