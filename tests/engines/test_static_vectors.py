"""Static word vectors: what model2vec does, by hand, and as sentence-transformers opens them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from embedder_support import sentences, tiny_embedder

from bertcompress.engines import static_vectors as engine
from bertcompress.engines.static_vectors import principal, sif_weights, static_vectors
from bertcompress.engines.vocabulary import choose_tokens, trimmed_tokenizer, used_tokens
from bertcompress.heads.pooling import Pooling, cosines
from bertcompress.models.io import load
from bertcompress.models.static import write_static

SIZE = 8


def counted(tokenizer, texts):
    return Counter(i for ids in tokenizer(texts)["input_ids"] for i in ids)


@pytest.fixture
def made(tmp_path):
    product = load(tiny_embedder(tmp_path / "m"))
    counts = counted(product.tokenizer, sentences(40))
    pooling = Pooling.of(product.model.config)
    return product, counts, static_vectors(product, product.tokenizer, counts, pooling, SIZE)


def test_components_are_those_of_scikit_learn():
    decomposition = pytest.importorskip("sklearn.decomposition")
    vectors = np.random.default_rng(0).normal(size=(60, 12)) * np.arange(1, 13)
    theirs = decomposition.PCA(SIZE, svd_solver="full").fit_transform(vectors)
    ours = principal(vectors, SIZE)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-9)


def test_frequent_tokens_count_for_less():
    weights = sif_weights(np.array([0.0, 8.0, 999.0]))
    np.testing.assert_allclose(weights, 1e-4 / (1e-4 + np.array([1, 9, 1000]) / 1010))


def test_each_token_is_a_text_of_its_own(made):
    product, counts, found = made
    tokenizer = product.tokenizer
    special = set(tokenizer.all_special_ids)
    ids = [i for i in range(len(tokenizer)) if i not in special]
    pooling = Pooling.of(product.model.config).model_copy(update={"normalize": False})
    rows = []
    for i in ids:
        text = torch.tensor([[tokenizer.cls_token_id, i, tokenizer.sep_token_id]])
        with torch.no_grad():
            states = product.model(input_ids=text).last_hidden_state
        rows.append(pooling.vectors(states, torch.ones_like(text))[0].numpy())
    weights = sif_weights(np.array([counts[i] for i in ids], float))
    wanted = principal(np.array(rows), SIZE) * weights[:, None]
    wanted /= np.abs(wanted).max()
    np.testing.assert_allclose(np.abs(found.table[ids]), np.abs(wanted), atol=1e-3)
    assert not found.table[sorted(special)].any()


def test_a_text_is_the_mean_of_its_tokens_whatever_is_padded(made):
    product, _, found = made
    texts = ["the cat sleeps", "a dog"]
    batch = dict(product.tokenizer(texts, padding=True, return_tensors="np"))
    vectors = found(batch)
    for text, vector in zip(texts, vectors, strict=True):
        ids = product.tokenizer(text, add_special_tokens=False)["input_ids"]
        mean = found.table[ids].astype(float).mean(axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
    empty = {"input_ids": np.zeros((1, 2), int), "attention_mask": np.zeros((1, 2), int)}
    assert not found(empty).any()


def test_sentence_transformers_opens_the_folder_with_the_same_vectors(made, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    product, _, found = made
    prompts = {"prompts": {"query": "the cat "}, "lowercase": True}
    pooling = Pooling.of(product.model.config).model_copy(update=prompts)
    weights = write_static(tmp_path / "static", found.table, product.tokenizer, pooling)
    assert weights.stat().st_size < found.table.nbytes + 200
    opened = sentence_transformers.SentenceTransformer(str(tmp_path / "static"), device="cpu")
    texts = sentences(20, 3)
    ours = found(dict(product.tokenizer(texts, padding=True, return_tensors="np")))
    theirs = np.asarray(opened.encode(texts), np.float32)
    np.testing.assert_allclose(cosines(ours, theirs), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(theirs, axis=1), 1, atol=1e-2)
    np.testing.assert_allclose(
        opened.encode_query(["A Dog"]), opened.encode(["the cat a dog"]), atol=1e-3
    )


def test_a_trimmed_tokenizer_takes_its_tokens_from_the_model_they_come_from(made, monkeypatch):
    product, _, _ = made
    monkeypatch.setattr(engine, "principal", lambda states, size: states[:, :size])
    monkeypatch.setattr(engine, "sif_weights", lambda counts: np.ones(len(counts)))
    choice = choose_tokens(product.tokenizer, used_tokens(product.tokenizer, ["the dog sleeps"]))
    fewer = trimmed_tokenizer(product.tokenizer, choice.kept)
    pooling = Pooling.of(product.model.config)
    whole, found = (
        static_vectors(product, tokenizer, Counter(), pooling, 100)
        for tokenizer in (product.tokenizer, fewer)
    )
    assert len(found.table) == len(fewer) < len(whole.table)
    ids = [i for i in range(len(fewer)) if i not in fewer.all_special_ids]
    own = product.tokenizer.convert_tokens_to_ids(fewer.convert_ids_to_tokens(ids))
    assert ids != own
    np.testing.assert_allclose(
        cosines(found.table[ids], whole.table[own, : found.table.shape[1]]), 1, atol=1e-4
    )


def test_of_a_large_vocabulary_only_what_the_texts_use_has_a_vector(made, monkeypatch):
    product, _, _ = made
    monkeypatch.setattr(engine, "WHOLE", 10)
    counts = counted(product.tokenizer, ["the cat"])
    found = static_vectors(
        product, product.tokenizer, counts, Pooling.of(product.model.config), SIZE
    )
    known = product.tokenizer("the cat", add_special_tokens=False)["input_ids"]
    assert set(np.flatnonzero(found.table.any(axis=1))) <= set(known)
