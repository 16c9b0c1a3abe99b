"""`factorize_embedding`: frequent tokens are kept best, and ALBERT's form is a fitted start."""

from __future__ import annotations

import copy

import pytest
import torch
from tests_support import VOCABULARY, thin, tiny_model, tiny_tokenizer

import bertcompress as bc
from bertcompress.errors import ModelError
from bertcompress.methods.factorization.factorize_embedding import (
    factorize_embedding,
    token_counts,
)
from bertcompress.models.io import rung
from bertcompress.shapes import Embedding, ShapeError, anatomy


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
    thin(model, Embedding(16))
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
    fitted = factorize_embedding(copy.deepcopy(model), 10, "all")
    plain = thin(copy.deepcopy(model), Embedding(10, "all"))
    errors = [float((embedded(m, ids) - goal).pow(2).mean()) for m in (fitted, plain)]
    assert errors[0] < 0.75 * errors[1]
    assert errors[0] < 0.3 * float(goal.pow(2).mean())
    assert rung(fitted)[0] == 1
    bc.save(fitted, tmp_path / "model", tiny_tokenizer())
    again = bc.load(tmp_path / "model").model
    assert type(again).__name__ == "AlbertForSequenceClassification"
    assert again.config.embedding_size == 10
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
    # Fewer tokens than features are left.
    thin(one, Embedding(one.config.vocab_size))
    thin(two, Embedding(16))
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


@pytest.mark.parametrize(
    ("family", "tables"), [("bert", "word"), ("bert", "all"), ("albert", "word")]
)
def test_a_size_that_saves_nothing_is_refused_and_the_next_saves(family, tables):
    model = tiny_model(family)
    before = sum(p.numel() for p in model.parameters())
    with pytest.raises(ShapeError, match=r"a size up to [0-9]+ saves") as raised:
        factorize_embedding(model, model.get_input_embeddings().embedding_dim, tables)
    most = int(str(raised.value).split(" saves")[0].split()[-1])
    with pytest.raises(ShapeError):
        factorize_embedding(tiny_model(family), most + 1, tables)
    assert sum(p.numel() for p in factorize_embedding(model, most, tables).parameters()) < before


def test_what_cannot_be_leaves_the_model_as_it_was():
    model = tiny_model()
    before = copy.deepcopy(model.state_dict())
    other = {"input_ids": torch.full((2, 5), len(VOCABULARY) + 3)}
    with pytest.raises(ModelError, match="the batches have token"):
        factorize_embedding(model, 8, "all", batches=[other])
    with pytest.raises(ShapeError, match="one feature"):
        factorize_embedding(model, 1, "all")
    assert type(model).__name__ == "BertForSequenceClassification"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_batches_come_as_they_may():
    """Without a mask, or once only, as from a generator."""
    ids = batches_of(1)[0]["input_ids"]
    made = [
        factorize_embedding(tiny_model(), 8, "all", batches=given)
        for given in (
            [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}],
            [{"input_ids": ids}],
            ({"input_ids": each} for each in [ids]),
        )
    ]
    first = embedded(made[0], ids)
    assert first.abs().max() > 0.1
    for other in made[1:]:
        assert torch.equal(embedded(other, ids), first)


@pytest.mark.parametrize("head", ["ForPreTraining", "LMHeadModel", "ForMaskedLM"])
def test_a_table_that_is_a_decoder_too_stays(head):
    with pytest.raises(ShapeError, match="masked-LM head"):
        factorize_embedding(tiny_model("bert", head), 8)


def test_frozen_tables_stay_frozen():
    model = tiny_model()
    anatomy(model).base.get_submodule("embeddings").requires_grad_(False)
    factorize_embedding(model, 8, "all")
    embeddings = anatomy(model).base.get_submodule("embeddings")
    assert not any(p.requires_grad for p in embeddings.parameters())


def test_trimming_below_the_size_loads_again(tmp_path):
    model = thin(tiny_model().eval(), Embedding(16))
    tokenizer = bc.trim_vocabulary(model, tiny_tokenizer(), ["the cat sleeps ."], reserve=0)
    bc.save(model, tmp_path / "model", tokenizer)
    again = bc.load(tmp_path / "model").model.get_input_embeddings()
    assert torch.equal(again.weight, model.get_input_embeddings().weight)


def batches_of(count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        ids = torch.randint(5, 25, (32, 12), generator=generator)
        mask = torch.ones_like(ids)
        mask[::2, 9:] = 0
        types = torch.zeros_like(ids)
        types[:, 6:] = 1
        made.append({"input_ids": ids, "attention_mask": mask, "token_type_ids": types})
    return made


@pytest.mark.parametrize("given", [True, False])
def test_the_fitted_projection_is_no_larger_than_what_it_makes(given):
    """LayerNorm's outputs sum to 0: what acts on their sum is invisible until training moves it."""
    model = tiny_model(hidden_size=32, intermediate_size=64)
    factorize_embedding(model, 12, "all", batches=batches_of() if given else ())
    projection = anatomy(model).base.get_submodule("embeddings").dropout.projection
    assert projection.weight.abs().max() < 10
    assert projection.weight.mean(1).abs().max() < 0.1
    ids = batches_of(1)[0]["input_ids"]
    before = embedded(model, ids)
    norm = anatomy(model).base.get_submodule("embeddings").LayerNorm
    with torch.no_grad():
        norm.bias += 1e-3
    assert (embedded(model, ids) - before).abs().max() < 0.05


def test_real_texts_fit_better_than_drawn_ones():
    """On texts of two segments and their own positions; padding is not fitted."""
    model = tiny_model(hidden_size=32, intermediate_size=64, type_vocab_size=2).eval()
    with torch.no_grad():
        anatomy(model).base.get_submodule("embeddings").token_type_embeddings.weight[1] += 1.0
    held_out = batches_of(2, seed=5)

    def state(which, batch):
        with torch.no_grad():
            inputs = {k: batch[k] for k in ("input_ids", "token_type_ids")}
            embeddings = anatomy(which).base.get_submodule("embeddings").eval()
            return embeddings(**inputs)[batch["attention_mask"].bool()]

    errors = []
    for batches in (batches_of(), ()):
        fitted = factorize_embedding(copy.deepcopy(model), 12, "all", batches=batches)
        errors.append(
            sum(float((state(fitted, b) - state(model, b)).pow(2).mean()) for b in held_out)
        )
    assert errors[0] < errors[1]


def test_tables_that_fit_into_the_thin_ones_keep_their_lengths():
    """LayerNorm divides by the length: a map that stretched it would change every token's scale."""
    model = tiny_model(hidden_size=32, intermediate_size=64, type_vocab_size=2).eval()
    generator = torch.Generator().manual_seed(0)
    embeddings = anatomy(model).base.get_submodule("embeddings")
    few = torch.randn(7, 32, generator=generator) * torch.logspace(-1, 1, 7)[:, None]
    with torch.no_grad():
        for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
            weight = embeddings.get_submodule(name).weight
            # A part that is the same for all features is taken away by the norm, before and after.
            same = torch.randn(len(weight), 1, generator=generator)
            weight.copy_(torch.randn(len(weight), 7, generator=generator) @ few + same)
        embeddings.LayerNorm.weight.uniform_(0.3, 2.0, generator=generator)
        embeddings.LayerNorm.bias.uniform_(-1.0, 1.0, generator=generator)
    thin = factorize_embedding(copy.deepcopy(model), 8, "all", batches=batches_of())
    ids = batches_of(1, seed=5)[0]["input_ids"]
    goal = embedded(model, ids)
    assert (embedded(thin, ids) - goal).abs().max() < 1e-3 * goal.abs().max()


@pytest.mark.parametrize("tables", ["word", "all"])
def test_a_model_in_half_precision_stays_so(tables):
    whole = tiny_model(hidden_size=32, intermediate_size=64)
    ids = batches_of(1)[0]["input_ids"]
    goal = embedded(whole, ids)
    half = copy.deepcopy(whole).to(torch.bfloat16)
    for each in (half, whole):
        factorize_embedding(each, 12, tables, batches=batches_of())
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    errors = [(embedded(each, ids).float() - goal).norm() for each in (half, whole)]
    assert errors[0] < 1.05 * errors[1]
