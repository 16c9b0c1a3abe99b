"""Checkpoints as people write them: harmless differences load, other models are named."""

from __future__ import annotations

import pytest
import torch
from models_support import change_config, change_tensors, saved
from tests_support import FAMILIES, answer, tiny_inputs, tiny_model, tiny_tokenizer

import bertcompress as bc
from bertcompress.errors import CheckpointError, ModelError, UnsupportedFamily
from bertcompress.models.config import class_names
from bertcompress.shapes import anatomy, family_named

NAMES = {0: "no", 1: "maybe", 2: "yes"}


def same(folder, family="bert", head="ForSequenceClassification", **fields):
    """The folder loads to the answers that its model gave."""
    loaded = bc.load(folder).model
    model = tiny_model(family, head, **fields)
    assert type(loaded) is type(model)
    assert torch.equal(answer(loaded, tiny_inputs(head)), answer(model, tiny_inputs(head)))
    return loaded


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_buffers_that_every_transformers_ignores(tmp_path, family):
    folder = saved(tmp_path / "m", family)
    buffers = {
        f"{family_named(family).base_name}.embeddings.{name}": torch.arange(40)[None]
        for name in ("position_ids", "token_type_ids")
    }
    change_tensors(folder, lambda t: t | buffers)
    same(folder, family)
    change_tensors(folder, lambda t: t | {"bert.embeddings.odd_ids": torch.arange(40)})
    with pytest.raises(ModelError, match="odd_ids"):
        bc.load(folder)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers(tmp_path, prefix):
    folder = saved(tmp_path / "m")
    change_tensors(folder, lambda t: {prefix + key: value for key, value in t.items()})
    same(folder)
    change_tensors(folder, lambda t: dict(list(t.items())[1:]))
    with pytest.raises(CheckpointError, match="1 missing tensors"):
        bc.load(folder)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("written", [None, ["{}Model"], ["MyOwnClassifier"], []])
def test_the_tensors_tell_the_head(tmp_path, family, written):
    folder = saved(tmp_path / "m", family)
    prefix = family_named(family).stock_prefix
    if written is None:
        change_config(folder, "architectures")
    else:
        change_config(folder, architectures=[name.format(prefix) for name in written])
    same(folder, family)


@pytest.mark.parametrize(
    "head", ["Model", "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM"]
)
@pytest.mark.parametrize("family", ["bert", "roberta", "albert"])
def test_each_head_is_told(tmp_path, family, head):
    folder = saved(tmp_path / "m", family, head)
    change_config(folder, "architectures")
    same(folder, family, head)


@pytest.mark.parametrize("family", ["bert", "roberta", "albert"])
def test_a_headless_model_without_a_pooler(tmp_path, family):
    folder = saved(tmp_path / "m", family, "Model")
    change_tensors(folder, lambda t: {k: v for k, v in t.items() if "pooler" not in k})
    model = same(folder, family, "Model")
    assert model.pooler is None
    bc.prune_heads(model, [[0], [], []][: len(anatomy(model).layers)])
    bc.save(model, tmp_path / "cut", tiny_tokenizer())
    assert torch.equal(
        answer(bc.load(tmp_path / "cut").model, tiny_inputs()), answer(model, tiny_inputs())
    )


def test_tensors_of_no_known_head_are_refused_by_name(tmp_path):
    folder = saved(tmp_path / "m")
    change_config(folder, "architectures")
    change_tensors(folder, lambda t: t | {"span_head.weight": torch.ones(2, 16)})
    with pytest.raises(CheckpointError, match="unexpected tensors, such as"):
        bc.load(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"id2label": ["no", "maybe", "yes"]},
        {"id2label": {"0": "no", "1": "maybe", "2": "yes"}},
        {"id2label": '{"0": "no", "1": "maybe", "2": "yes"}'},
        {"label2id": {"no": 0, "maybe": 1, "yes": 2}},
        {"label2id": {"no": "0", "maybe": "1", "yes": "2"}},
        {"id2label": {"no": 0, "maybe": 1, "yes": 2}},
        {
            "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"},
            "label2id": {"yes": 2, "maybe": 1, "no": 0},
        },
    ],
)
def test_names_of_classes_however_they_are_written(tmp_path, fields):
    folder = saved(tmp_path / "m")
    change_config(folder, *({"id2label", "label2id"} - set(fields)), **fields)
    assert same(folder).config.id2label == NAMES


@pytest.mark.parametrize("beside", [{}, {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}])
@pytest.mark.parametrize("written", [{"1": 0, "0": 1}, {"1": "0", "0": "1"}])
def test_label2id_of_classes_named_by_numbers(written, beside):
    """Its numbers are its values; a field the other way round is still read."""
    assert class_names({"label2id": written, **beside}, "m") == {0: "1", 1: "0"}
    assert class_names({"label2id": {"0": 2, "1": 0, "2": 1}}, "m") == {0: "1", 1: "2", 2: "0"}
    assert class_names({"id2label": {"0": 2, "1": 0, "2": 1}}, "m") == {0: "2", 1: "0", 2: "1"}
    assert class_names({"label2id": {"0": "no", "1": "yes"}}, "m") == {0: "no", 1: "yes"}


def test_the_number_of_classes_where_no_name_is_written(tmp_path):
    folder = saved(tmp_path / "m", num_labels=5)
    change_config(folder, "id2label", "label2id", "num_labels")
    assert same(folder, num_labels=5).config.num_labels == 5


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("no, yes", "id2label of config.json .* numbers no classes"),
        ({"1": "no", "2": "yes", "3": "maybe"}, "have the numbers 1, 2, 3; they must be 0 to 2"),
    ],
)
def test_names_that_number_nothing(tmp_path, value, says):
    folder = saved(tmp_path / "m")
    change_config(folder, "label2id", id2label=value)
    with pytest.raises(ModelError, match=says):
        bc.load(folder)


def test_relative_positions_are_named(tmp_path):
    folder = saved(tmp_path / "m")
    change_config(folder, position_embedding_type="relative_key_query")
    with pytest.raises(UnsupportedFamily, match=r"relative positions .* absolute positions"):
        bc.load(folder)
    change_config(folder, "position_embedding_type")
    key = "bert.encoder.layer.0.attention.self.distance_embedding.weight"
    change_tensors(folder, lambda t: t | {key: torch.ones(79, 4)})
    with pytest.raises(UnsupportedFamily, match="relative positions"):
        bc.load(folder)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "4 bits by bitsandbytes"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "8 bits by bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "4 bits by gptq"),
    ],
)
def test_weights_of_few_bits_are_named(tmp_path, entry, says):
    folder = saved(tmp_path / "m")
    change_config(folder, quantization_config=entry)
    with pytest.raises(ModelError, match=f"{says}, which nothing here can read; start from"):
        bc.load(folder)


@pytest.mark.parametrize("four", [True, False])
def test_weights_of_few_bits_without_an_entry(tmp_path, four):
    folder, key = saved(tmp_path / "m"), "bert.encoder.layer.0.output.dense.weight"

    def store(tensors):
        weight = tensors[key]
        if four:
            packed = torch.zeros(weight.numel() // 2, 1, dtype=torch.uint8)
            return (
                tensors
                | {key: packed, f"{key}.absmax": torch.ones(6)}
                | {f"{key}.quant_map": torch.ones(16)}
            )
        return tensors | {key: weight.to(torch.int8), key.replace("weight", "SCB"): torch.ones(16)}

    change_tensors(folder, store)
    with pytest.raises(ModelError, match="4 bits by bitsandbytes" if four else "weights of 8 bits"):
        bc.load(folder)


@pytest.mark.parametrize("auto", ["AutoModelForSequenceClassification", "AutoModel", "AutoConfig"])
def test_code_of_its_own_is_another_model(tmp_path, auto):
    folder = saved(tmp_path / "m")
    change_config(folder, auto_map={auto: "modeling_mine.BertForSequenceClassification"})
    with pytest.raises(ModelError, match=r"code of its own \(.*another model.* remove auto_map"):
        bc.load(folder)
    with pytest.raises(ModelError, match="code of its own"):
        bc.load(folder, head="ForSequenceClassification", fresh_head=True)
    change_config(folder, auto_map={"AutoModelForCausalLM": "modeling_mine.Bert"})
    same(folder)


@pytest.mark.parametrize(
    ("kind", "hint"), [("deberta-v2", False), ("bart", False), ("modernbert", False), ("brt", True)]
)
def test_another_family_gets_no_hint_of_a_misspelling(tmp_path, kind, hint):
    folder = saved(tmp_path / "m")
    change_config(folder, model_type=kind)
    with pytest.raises(UnsupportedFamily) as caught:
        bc.load(folder)
    assert ("did you mean" in str(caught.value)) == hint
    assert hint or f"'{kind}' is not supported; supported: bert, " in str(caught.value)


def test_half_precision_checkpoints_load_in_fp32(tmp_path):
    for kind in (torch.float16, torch.bfloat16):
        folder = saved(tmp_path / str(kind))
        change_tensors(folder, lambda t, kind=kind: {k: v.to(kind) for k, v in t.items()})
        assert {p.dtype for p in bc.load(folder).model.parameters()} == {torch.float32}
