"""Thin products: exact at full rank, one record, and they reload."""

from __future__ import annotations

import pytest
import torch
import transformers
from tests_support import FAMILIES, LAYERS, thin, tiny_inputs, tiny_model, tiny_tokenizer

import bertcompress as bc
from bertcompress.shapes import (
    Embedding,
    FactorizedEmbedding,
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
    thin(model, LowRanks({part: [16] * depth for part in anatomy(model).linear_names}))
    torch.testing.assert_close(answer(model), before, atol=1e-5, rtol=1e-5)
    assert torch.equal(answer(reloaded(model, tmp_path / "m")), answer(model))


def test_a_lower_rank_later_leaves_one_record(tmp_path):
    model = tiny_model()
    thin(model, LowRanks({"query": [6] * LAYERS}))
    thin(model, LowRanks({"query": [0, 3, 0], "value": [2, 0, 0]}))
    record = read_record(model.config)["lowrank"]
    assert record.ranks == {"query": [6, 3, 6], "value": [2, 0, 0]}
    assert torch.equal(answer(reloaded(model, tmp_path / "m")), answer(model))


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (LowRanks({"quarry": [1, 1, 1]}), "no linear 'quarry'"),
        (LowRanks({"query": [1, 1]}), "2 ranks of query"),
        (LowRanks({"query": [-1, 0, 0]}), "1 is the least"),
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
        thin(model, LowRanks({"query": [3, 4, 3]}))
    thin(model, LowRanks({"query": [3, 3, 3]}))
    assert len({layer.linears["query"].key for layer in anatomy(model).layers}) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_word_table_at_full_size_changes_nothing(family, tmp_path):
    model = tiny_model(family)
    width = model.get_input_embeddings().weight.shape[1]
    before = answer(model)
    thin(model, Embedding(width, "word"))
    torch.testing.assert_close(answer(model), before, atol=1e-5, rtol=1e-5)
    thin(model, Embedding(4, "word"))
    assert isinstance(model.get_input_embeddings(), FactorizedEmbedding)
    again = reloaded(model, tmp_path / "m")
    assert torch.equal(answer(again), answer(model))
    assert read_record(again.config)["embedding"] == Embedding(4)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_all_tables_reload(family, tmp_path):
    model = tiny_model(family)
    thin(model, Embedding(4, "all"))
    assert torch.equal(answer(reloaded(model, tmp_path / "m")), answer(model))
    with pytest.raises(ShapeError, match="factorised already"):
        thin(model, Embedding(2, "word"))


@pytest.mark.parametrize("family", ["electra", "albert"])
def test_tables_that_have_their_projection(family):
    with pytest.raises(ShapeError, match="use tables='word'"):
        thin(tiny_model(family), Embedding(4, "all"))


def test_the_masked_lm_head_keeps_its_table():
    with pytest.raises(ShapeError, match="masked-LM"):
        thin(tiny_model("bert", "ForMaskedLM"), Embedding(4, "word"))


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
