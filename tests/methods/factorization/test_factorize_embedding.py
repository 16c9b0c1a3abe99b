"""`factorize_embedding`: frequent tokens are kept best, and ALBERT's form is a fitted start."""

from __future__ import annotations

import copy

import pytest
import torch
from tests_support import VOCABULARY, tiny_model, tiny_tokenizer

import bertcompress as bc
from bertcompress.artefact import rung
from bertcompress.methods.factorization.factorize_embedding import (
    factorize_embedding,
    token_counts,
)
from bertcompress.shapes import Embedding, ShapeError, anatomy, apply_edit


def embedded(model, ids):
    with torch.no_grad():
        return anatomy(model).base.get_submodule("embeddings").eval()(input_ids=ids)


def test_counts_leave_padding_out():
    batch = {
        "input_ids": torch.tensor([[5, 6, 6], [7, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]]),
    }
    counts = token_counts(len(VOCABULARY), [batch, batch])
    assert counts[[5, 6, 7, 0]].tolist() == [2, 4, 2, 0]


def test_full_size_is_the_same_model():
    model = tiny_model().eval()
    ids = torch.randint(5, 25, (2, 7))
    before = embedded(model, ids)
    factorize_embedding(model, 16)
    torch.testing.assert_close(embedded(model, ids), before, atol=1e-5, rtol=1e-5)


def test_the_error_is_the_tail_of_the_weighted_spectrum():
    table = tiny_model().get_input_embeddings().weight.detach()
    counts = torch.arange(len(VOCABULARY)).float() * 10
    for given in (None, counts):
        model = factorize_embedding(tiny_model(), 5, counts=given)
        scale = (torch.ones(len(table)) if given is None else given + 1).sqrt()[:, None]
        left = (scale * (model.get_input_embeddings().weight.detach() - table)).pow(2).sum()
        tail = torch.linalg.svdvals(scale * table)[5:].pow(2).sum()
        torch.testing.assert_close(left, tail, rtol=1e-3, atol=1e-4)


def test_the_albert_form_is_fitted_and_loads_as_albert(tmp_path):
    model = tiny_model().eval()
    ids = torch.randint(5, 25, (8, 7), generator=torch.Generator().manual_seed(0))
    goal = embedded(model, ids)
    fitted = factorize_embedding(copy.deepcopy(model), 12, "all")
    plain = apply_edit(copy.deepcopy(model), Embedding(12, "all", "svd"))
    errors = [float((embedded(m, ids) - goal).pow(2).mean()) for m in (fitted, plain)]
    assert errors[0] < 0.75 * errors[1]
    assert errors[0] < 0.3 * float(goal.pow(2).mean())
    assert rung(fitted)[0] == 1
    bc.save(fitted, tmp_path / "model", tiny_tokenizer())
    again = bc.load(tmp_path / "model").model
    assert type(again).__name__ == "AlbertForSequenceClassification"
    assert again.config.embedding_size == 12
    assert again.config.num_hidden_groups == again.config.num_hidden_layers == 3
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, fitted.eval()(input_ids=ids).logits)


@pytest.mark.parametrize("family", ["electra", "albert"])
def test_a_narrower_table_where_there_is_one_already(family):
    model = tiny_model(family)
    before = sum(p.numel() for p in model.parameters())
    factorize_embedding(model, 4)
    assert sum(p.numel() for p in model.parameters()) < before


def test_after_trimming_and_before():
    tokenizer, texts = tiny_tokenizer(), ["the cat sleeps .", "a dog sings"]
    one, two = tiny_model().eval(), tiny_model().eval()
    bc.trim_vocabulary(one, tokenizer, texts, reserve=0)
    factorize_embedding(one, one.config.vocab_size)  # fewer tokens than features are left
    factorize_embedding(two, 16)
    smaller = bc.trim_vocabulary(two, tokenizer, texts, reserve=0)
    batch = smaller(texts, padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    with torch.no_grad():
        torch.testing.assert_close(one(**batch).logits, two(**batch).logits, atol=1e-5, rtol=1e-4)


def test_more_features_than_tokens_are_refused():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    bc.trim_vocabulary(model, tokenizer, ["the cat sleeps ."], reserve=0)
    assert model.config.vocab_size < 16
    with pytest.raises(ShapeError, match=f"{model.config.vocab_size} tokens only"):
        factorize_embedding(model, 16)


def test_trimming_below_the_size_loads_again(tmp_path):
    model = factorize_embedding(tiny_model().eval(), 16)
    tokenizer = bc.trim_vocabulary(model, tiny_tokenizer(), ["the cat sleeps ."], reserve=0)
    bc.save(model, tmp_path / "model", tokenizer)
    again = bc.load(tmp_path / "model").model.get_input_embeddings()
    assert torch.equal(again.weight, model.get_input_embeddings().weight)
