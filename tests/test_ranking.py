"""Metrics of vectors and rankings: against sentence-transformers, pytrec_eval and plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from bertcompress.heads import HEADS
from bertcompress.heads.scoring import compute, interval, resampled
from bertcompress.metrics.ranking import (
    cosine_rows,
    group_discounted_gains,
    group_reciprocal_ranks,
    nearest,
    neighbour_rows,
    ranked,
    search_discounted_gains,
    search_reciprocal_ranks,
)

EXACT = 1e-9


def mean(rows):
    return float(rows[:, 0].sum() / rows[:, 1].sum())


def search(seed, queries=25, documents=80, graded=False):
    """Vectors of documents, then of queries, and what is relevant for each row."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(documents + queries, 12))
    relevant = np.full(documents + queries, None, dtype=object)
    for query in range(documents, documents + queries):
        chosen = rng.choice(documents, rng.integers(1, 5), replace=False)
        vectors[query] = vectors[chosen[0]] + rng.normal(size=12)
        gains = rng.integers(1, 4, len(chosen)) if graded else np.ones(len(chosen), int)
        relevant[query] = {int(d): int(gain) for d, gain in zip(chosen, gains, strict=True)}
    return vectors, relevant, documents


@pytest.mark.parametrize("seed", range(3))
def test_search_is_scored_as_sentence_transformers_does(seed):
    pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    vectors, relevant, documents = search(seed)
    queries = range(documents, len(vectors))
    judge = InformationRetrievalEvaluator(
        {f"q{i}": str(i) for i in queries},
        {f"d{i:04d}": str(i) for i in range(documents)},
        {f"q{i}": {f"d{d:04d}" for d in relevant[i]} for i in queries},
        main_score_function="cosine",
    )
    scores = judge(_model(vectors))
    ours = mean(search_discounted_gains(vectors, relevant))
    assert ours == pytest.approx(scores["cosine_ndcg@10"], abs=EXACT)
    ours = mean(search_reciprocal_ranks(vectors, relevant))
    assert ours == pytest.approx(scores["cosine_mrr@10"], abs=EXACT)


def _model(vectors):
    """A SentenceTransformer that answers from a table."""
    import sentence_transformers
    import torch
    from torch import nn

    class Table(nn.Module):
        def preprocess(self, inputs, *_, **__):
            return {"row": torch.tensor([int(text) for text in inputs])}

        tokenize = preprocess

        def forward(self, features, **_):
            features["sentence_embedding"] = torch.from_numpy(vectors)[features["row"]]
            return features

    return sentence_transformers.SentenceTransformer(modules=[Table()], device="cpu")


@pytest.mark.parametrize("graded", [False, True], ids=["binary", "graded"])
def test_search_is_scored_as_trec_eval_does(graded):
    pytrec_eval = pytest.importorskip("pytrec_eval")
    vectors, relevant, documents = search(7, graded=graded)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = range(documents, len(vectors))
    judged = {str(i): {str(d): gain for d, gain in relevant[i].items()} for i in queries}
    found = {
        str(i): {str(d): float(units[i] @ units[d]) for d in range(documents)} for i in queries
    }
    theirs = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut.10"}).evaluate(found)
    ours = search_discounted_gains(vectors, relevant)
    for i in queries:
        assert ours[i, 0] == pytest.approx(theirs[str(i)]["ndcg_cut_10"], abs=EXACT)
    assert (ours[:documents] == 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_scored_as_sentence_transformers_reranks(seed):
    pytest.importorskip("sentence_transformers")
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 12, 150)
    gains, scores = (rng.random(150) < 0.3) * 1.0, rng.normal(size=150)
    table, samples = {}, []
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        positive = [str(i) for i in members if gains[i]]
        negative = [str(i) for i in members if not gains[i]]
        samples.append({"query": str(group), "positive": positive, "negative": negative})
        table |= {str(i): scores[i] for i in members}

    class Scorer:
        model_card_data = None

        def predict(self, pairs, **_):
            return np.array([table[document] for _, document in pairs])

    judge = CrossEncoderRerankingEvaluator(samples, write_csv=False)
    judge.store_metrics_in_model_card_data = lambda *_, **__: None
    theirs = judge(Scorer())
    references = np.stack([gains, groups], axis=1)
    for name, ours in (("ndcg", group_discounted_gains), ("mrr", group_reciprocal_ranks)):
        assert mean(ours(scores, references)) == pytest.approx(theirs[f"{name}@10"], abs=EXACT)


def test_order_of_rows_and_of_groups_does_not_matter():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=60)
    references = np.stack([rng.random(60), rng.integers(0, 7, 60)], axis=1)
    order = rng.permutation(60)
    for judge in (group_discounted_gains, group_reciprocal_ranks):
        one, other = judge(scores, references), judge(scores[order], references[order])
        np.testing.assert_allclose(one.sum(axis=0), other.sum(axis=0), atol=EXACT)


@pytest.mark.parametrize("width", [3, 40])
def test_neighbours_are_those_of_a_plain_loop(width):
    rng = np.random.default_rng(width)
    vectors = rng.normal(size=(40, 6))
    vectors[7] = vectors[3]  # a text that is there twice
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for row in range(40):
        near = sorted((-round(float(units[row] @ units[i]), 12), i) for i in range(40) if i != row)
        assert nearest(vectors)[row].tolist() == [i for _, i in near[:10]]
    other = rng.normal(size=(40, width))
    shares = [len({*a} & {*b}) / 10 for a, b in zip(nearest(vectors), nearest(other), strict=True)]
    np.testing.assert_allclose(neighbour_rows(vectors, other)[:, 0], shares)
    assert neighbour_rows(vectors, vectors)[:, 0].min() == 1


def test_blocks_of_a_large_set_give_the_same(monkeypatch):
    vectors, relevant, _ = search(3)
    whole = [neighbour_rows(vectors, vectors**3), search_discounted_gains(vectors, relevant)]
    monkeypatch.setattr("bertcompress.metrics.ranking._BLOCK", 300)
    parts = [neighbour_rows(vectors, vectors**3), search_discounted_gains(vectors, relevant)]
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)


def test_ties_go_to_the_first():
    assert ranked(np.array([[1.0, 2.0, 2.0, 2.0, 0.0]]), 2).tolist() == [[1, 2]]
    assert ranked(np.zeros((2, 3)), 9).tolist() == [[0, 1, 2]] * 2


def test_cosine_of_vectors_of_another_width_compares_how_texts_stand_to_each_other():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(30, 8))
    turned = vectors @ np.linalg.qr(rng.normal(size=(12, 12)))[0][:8]
    assert cosine_rows(vectors, turned)[:, 0].min() == pytest.approx(1)
    assert mean(cosine_rows(vectors, rng.normal(size=(30, 12)))) < 0.5
    assert mean(cosine_rows(vectors, vectors)) == pytest.approx(1)


def test_the_head_resamples_what_all_rows_add():
    head, rng = HEADS["vectors"], np.random.default_rng(0)
    original = rng.normal(size=(60, 8))
    vectors = original + 0.3 * rng.normal(size=(60, 8))
    for name in ("cosine", "neighbours"):
        value, low, high = interval(head, name, vectors, original)
        assert low < value < high
        assert value == pytest.approx(compute(head, [name], vectors, original)[name])
        draws = resampled(head, name, [vectors, original], original)
        # Of rows that count twice the neighbours are those of the whole set.
        assert draws[1] == pytest.approx(1)
        assert draws[0].std() > 0
