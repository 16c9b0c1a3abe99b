"""Thin products: exact at full rank, the tail of the spectrum below it, and they reload."""

from __future__ import annotations

import pytest
import torch
import transformers
from tests_support import FAMILIES, LAYERS, tiny_inputs, tiny_model, tiny_tokenizer

import bertcompress as bc
from bertcompress.shapes import (
    LINEARS,
    Embedding,
    FactorizedEmbedding,
    LowRank,
    LowRanks,
    ShapeError,
    Sharing,
    anatomy,
    apply_edit,
    read_record,
)


def answer(model):
    with torch.no_grad():
        return model.eval()(**tiny_inputs())[0]


def reloaded(model, folder):
    bc.save(model, folder, tiny_tokenizer(), convert=False)
    return bc.load(folder).model


@pytest.mark.parametrize("family", FAMILIES)
def test_full_rank_changes_nothing(family, tmp_path):
    model = tiny_model(family)
    before = answer(model)
    depth = len(anatomy(model).layers)
    apply_edit(model, LowRanks({part: [16] * depth for part in LINEARS}, "svd"))
    torch.testing.assert_close(answer(model), before, atol=1e-5, rtol=1e-5)
    assert torch.equal(answer(reloaded(model, tmp_path / "m")), answer(model))


@pytest.mark.parametrize("rank", [1, 5, 15])
def test_the_error_is_the_tail_of_the_spectrum(rank):
    model = tiny_model()
    weight = anatomy(model).layers[1].get("ffn_in").weight.detach().clone()
    apply_edit(model, LowRanks({"ffn_in": [0, rank, 0]}, "svd"))
    thin = anatomy(model).layers[1].get("ffn_in")
    assert isinstance(thin, LowRank)
    tail = torch.linalg.svdvals(weight)[rank:]
    error = (thin.weight - weight).pow(2).sum()
    torch.testing.assert_close(error, tail.pow(2).sum(), atol=1e-5, rtol=1e-4)
    # Equal scale on both sides.
    norms = thin.first.weight.norm(dim=1), thin.second.weight.norm(dim=0)
    torch.testing.assert_close(*norms, atol=1e-5, rtol=1e-4)


def test_a_lower_rank_later_leaves_one_record(tmp_path):
    model = tiny_model()
    apply_edit(model, LowRanks({"query": [6] * LAYERS}, "svd"))
    apply_edit(model, LowRanks({"query": [0, 3, 0], "value": [2, 0, 0]}, "svd"))
    record = read_record(model.config)["lowrank"]
    assert record.ranks == {"query": [6, 3, 6], "value": [2, 0, 0]}
    assert torch.equal(answer(reloaded(model, tmp_path / "m")), answer(model))


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (LowRanks({"quarry": [1, 1, 1]}), "no linear 'quarry'"),
        (LowRanks({"query": [1, 1]}), "2 ranks of query"),
        (LowRanks({"query": [17, 0, 0]}, "svd"), "1 to 16"),
        (Embedding(17), "the table has 16 features"),
        (Embedding(0), "size 0"),
        (Embedding(4, "some"), "there are word and all"),
    ],
)
def test_ranks_that_cannot_be(edit, says):
    model = tiny_model()
    with pytest.raises(ShapeError, match=says):
        apply_edit(model, edit)
    assert not read_record(model.config)


def test_what_is_shared_gets_one_rank():
    model = tiny_model()
    apply_edit(model, Sharing([0, 0, 0], [0, 1, 2]))
    with pytest.raises(ShapeError, match="layers 0 and 1 share query"):
        apply_edit(model, LowRanks({"query": [3, 4, 3]}, "svd"))
    apply_edit(model, LowRanks({"query": [3, 3, 3]}, "svd"))
    assert len({id(layer.get("query")) for layer in anatomy(model).layers}) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_word_table_at_full_size_changes_nothing(family, tmp_path):
    model = tiny_model(family)
    width = model.get_input_embeddings().weight.shape[1]
    before = answer(model)
    apply_edit(model, Embedding(width, "word", "svd"))
    torch.testing.assert_close(answer(model), before, atol=1e-5, rtol=1e-5)
    apply_edit(model, Embedding(4, "word", "svd"))
    assert isinstance(model.get_input_embeddings(), FactorizedEmbedding)
    again = reloaded(model, tmp_path / "m")
    assert torch.equal(answer(again), answer(model))
    assert read_record(again.config)["embedding"] == Embedding(4)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_all_tables_reload(family, tmp_path):
    model = tiny_model(family)
    apply_edit(model, Embedding(4, "all", "svd"))
    assert torch.equal(answer(reloaded(model, tmp_path / "m")), answer(model))
    with pytest.raises(ShapeError, match="factorised already"):
        apply_edit(model, Embedding(2, "word", "svd"))


@pytest.mark.parametrize("family", ["electra", "albert"])
def test_tables_that_have_their_projection(family):
    with pytest.raises(ShapeError, match="use tables='word'"):
        apply_edit(tiny_model(family), Embedding(4, "all", "svd"))


def test_the_masked_lm_head_keeps_its_table():
    with pytest.raises(ShapeError, match="masked-LM"):
        apply_edit(tiny_model("bert", "ForMaskedLM"), Embedding(4, "word", "svd"))


@pytest.mark.parametrize(
    ("tables", "shared", "expected"),
    [
        ("word", False, 90_046_464),
        ("word", True, 12_079_872),
        ("all", False, 89_716_992),
        ("all", True, 11_750_400),
    ],
)
def test_counts_of_the_albert_paper(tables, shared, expected):
    """E = 128 with BERT's vocabulary: the word table alone, and ALBERT's form (its table 4)."""
    with torch.device("meta"):
        model = transformers.BertModel(transformers.BertConfig())
    apply_edit(model, Embedding(128, tables))
    if shared:
        apply_edit(model, Sharing([0] * 12, [0] * 12))
    assert sum(p.numel() for p in model.parameters()) == expected
