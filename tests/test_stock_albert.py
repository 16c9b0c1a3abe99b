"""Shared and factorised models as stock ALBERT: equal to the bit, in a process without us."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
import transformers
from tests_support import thin, tiny_inputs, tiny_model, tiny_tokenizer

import bertcompress as bc
from bertcompress.models.io import rung
from bertcompress.shapes import (
    FAMILIES,
    Embedding,
    Heads,
    LowRanks,
    Sharing,
    apply_edit,
    family_named,
)
from bertcompress.shapes.stock_albert import albert_obstacle, to_albert

HEADS = [(name, head) for name in FAMILIES for head in family_named(name).albert_heads]

PADDED = {
    "input_ids": torch.tensor([[2, 7, 8, 9, 3], [2, 11, 3, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
}
PAIRS = {**PADDED, "token_type_ids": torch.tensor([[0, 0, 0, 1, 1], [0, 1, 1, 0, 0]])}


def answers(model, head, batch=PADDED):
    if head == "ForMultipleChoice":
        batch = {name: values[None] for name, values in batch.items()}
    with torch.no_grad():
        return model.eval()(**batch).to_tuple()


def same(ours, theirs):
    """Equal to the bit, what stands at padding left out."""
    mask = PADDED["attention_mask"].bool()
    for a, b in zip(ours, theirs, strict=True):
        if a.ndim > 1 and a.shape[:2] == mask.shape:
            a, b = a[mask], b[mask]
        assert torch.equal(a, b), (a - b).abs().max()


@pytest.mark.parametrize(("family", "head"), HEADS, ids="-".join)
def test_as_many_groups_as_layers_is_the_same_model(family, head):
    model = tiny_model(family, head, pad_token_id=0)
    stock = to_albert(model)
    assert type(stock) is getattr(transformers, f"Albert{head}")
    if family == "electra" and not transformers.__version__.startswith("5"):
        for a, b in zip(answers(model, head), answers(stock, head), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)  # another attention kernel there
    else:
        same(answers(model, head), answers(stock, head))


@pytest.mark.parametrize(
    ("family", "head"), [pair for pair in HEADS if pair[0] in ("bert", "electra")]
)
def test_the_second_text_of_a_pair_is_told_from_the_first(family, head):
    model = tiny_model(family, head, pad_token_id=0)
    ours, theirs = answers(model, head, PAIRS), answers(to_albert(model), head, PAIRS)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert not torch.equal(ours[0], answers(model, head)[0])


@pytest.mark.parametrize("groups", [[0, 0, 0], [0, 1, 2]])
@pytest.mark.parametrize("head", [h for family, h in HEADS if family == "bert"])
def test_groups_are_shared_layers(head, groups):
    model = tiny_model("bert", head)
    apply_edit(model, Sharing(groups, groups))
    stock = to_albert(model)
    assert stock.config.num_hidden_groups == len(set(groups))
    same(answers(model, head), answers(stock, head))


def test_two_groups_of_four_layers():
    model = tiny_model("bert", num_hidden_layers=4)
    apply_edit(model, Sharing([0, 0, 2, 2], [0, 0, 2, 2]))
    same(answers(model, ""), answers(to_albert(model), ""))


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_factorised_tables_are_its_embedding_size(family):
    head = "ForTokenClassification"
    model = tiny_model(family, head, pad_token_id=0)
    thin(model, Embedding(4, "all"))
    stock = to_albert(model)
    assert stock.config.embedding_size == 4
    same(answers(model, head), answers(stock, head))


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (Sharing([0, 1, 1], [0, 1, 1]), "contiguous groups of one size"),
        (Sharing([0, 1, 0], [0, 1, 0]), "contiguous groups of one size"),
        (Sharing([0, 0, 0], [0, 1, 2]), "not shared by the same layers"),
        (Embedding(4, "word"), "the word table alone"),
    ],
)
def test_what_albert_cannot_hold(edit, says, tmp_path):
    model = tiny_model()
    thin(model, edit)
    assert says in albert_obstacle(model)
    number, why = rung(model)
    assert number == 2
    assert says in why
    with pytest.raises(ValueError, match=says):
        to_albert(model)
    bc.save(model, tmp_path / "model", tiny_tokenizer())
    with torch.no_grad():
        again = bc.load(tmp_path / "model").model(**tiny_inputs()).logits
        assert torch.equal(again, model(**tiny_inputs()).logits)


@pytest.mark.parametrize("other", [Heads([[0, 1]] * 3), LowRanks({"query": [2, 2, 2]})])
def test_other_edits_keep_a_class_of_ours(other):
    model = tiny_model()
    apply_edit(model, Sharing([0, 0, 0], [0, 0, 0]))
    assert rung(model)[0] == 1
    apply_edit(model, other)
    assert rung(model)[0] == 2
    with pytest.raises(ValueError, match="no ALBERT computes"):
        to_albert(model)


def test_a_decoder_of_its_own_and_a_pooler_that_is_not_there():
    untied = tiny_model(head="ForMaskedLM", tie_word_embeddings=False)
    assert "decoder has weights of its own" in albert_obstacle(untied)
    assert albert_obstacle(tiny_model(head="ForMaskedLM")) is None
    without = transformers.BertModel(tiny_model().config, add_pooling_layer=False)
    assert albert_obstacle(without) == "it has no pooler.dense"


def test_a_part_that_albert_has_not_stands_in_the_way():
    """As relative positions, which 4.57 still has, or whatever a later class may bring."""
    model = tiny_model()
    apply_edit(model, Sharing([0, 0, 0], [0, 0, 0]))
    model.bert.encoder.layer[0].attention.self.distances = torch.nn.Embedding(3, 4)
    assert "ALBERT has no place for bert.encoder.layer.0" in albert_obstacle(model)
    assert rung(model)[0] == 2


@pytest.mark.skipif(
    not hasattr(transformers.BertConfig(), "position_embedding_type"), reason="gone in 5"
)
@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
def test_relative_positions_are_no_albert(kind):
    model = tiny_model(position_embedding_type=kind)
    apply_edit(model, Sharing([0, 0, 0], [0, 0, 0]))
    assert "distance_embedding" in albert_obstacle(model)


def test_an_albert_of_fewer_groups_is_an_albert():
    head = "ForSequenceClassification"
    model = tiny_model("albert", head, num_hidden_layers=6, num_hidden_groups=3)
    bc.share_layers(model, groups=1)
    stock = to_albert(model)
    assert stock.config.num_hidden_groups == 1
    assert stock.config.embedding_size == 8
    same(answers(model, head), answers(stock, head))
    two = tiny_model("albert", head, num_hidden_layers=3, num_hidden_groups=3)
    apply_edit(two, Sharing([0, 1, 1], [0, 1, 1]))
    assert "contiguous groups of one size" in albert_obstacle(two)


def test_the_tokenizer_beside_it_pads_on_the_right(tmp_path):
    """RoBERTa numbers positions over the text, ALBERT from the left, whatever stands there."""
    model = tiny_model("roberta", "ForSequenceClassification", pad_token_id=0)
    bc.share_layers(model)
    tokenizer = tiny_tokenizer()
    texts = ["the cat sleeps", "a red bird sings ."]
    with torch.no_grad():
        before = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    tokenizer.padding_side = "left"
    tokenizer(texts, padding=True)  # the library keeps the side that was last used
    bc.save(model, tmp_path / "model", tokenizer)
    assert tokenizer.padding_side == "left"  # the user's own stays
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert again.padding_side == "right"
    batch = again(texts, padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    stock = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert type(stock) is transformers.AlbertForSequenceClassification
    with torch.no_grad():
        torch.testing.assert_close(stock.eval()(**batch).logits, before, atol=1e-5, rtol=1e-5)


def test_the_head_drops_what_it_dropped():
    for own, expected in ((None, 0.3), (0.0, 0.0), (0.2, 0.2)):
        model = tiny_model(hidden_dropout_prob=0.3, classifier_dropout=own)
        assert to_albert(model).config.classifier_dropout_prob == expected


def test_heads_that_albert_has_not():
    for family in ("electra", "distilbert"):
        model = tiny_model(family, "ForSequenceClassification")
        assert "no head that computes" in albert_obstacle(model)
    assert "activation" in albert_obstacle(tiny_model(hidden_act="relu"))


PLAIN = """
import json, sys
import torch, transformers
transformers.utils.logging.set_verbosity_error()
folder = sys.argv[1]
assert not any(name.startswith("bertcompress") for name in sys.modules)
model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
batch = tokenizer(["the cat sleeps", "a red bird sings ."], padding=True, return_tensors="pt")
batch.pop("token_type_ids", None)
pipe = transformers.pipeline("text-classification", model=folder, tokenizer=folder)
print(json.dumps({
    "class": type(model).__name__,
    "logits": model.eval()(**batch).logits.tolist(),
    "pipeline": pipe(["the cat sleeps", "a red bird sings ."]),
}))
"""


def test_plain_transformers_loads_it_and_a_pipeline_answers_the_same(tmp_path):
    names = {0: "no", 1: "perhaps", 2: "yes"}
    model = tiny_model(id2label=names, label2id={n: i for i, n in names.items()})
    apply_edit(model, Sharing([0, 0, 0], [0, 0, 0]))
    tokenizer = tiny_tokenizer()
    bc.save(model, tmp_path / "model", tokenizer)
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(tmp_path / "model")],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    batch = tokenizer(["the cat sleeps", "a red bird sings ."], padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    with torch.no_grad():
        logits = model.eval()(**batch).logits
    assert told["class"] == "AlbertForSequenceClassification"
    assert told["logits"] == logits.tolist()
    assert [row["label"] for row in told["pipeline"]] == [
        names[i] for i in logits.argmax(-1).tolist()
    ]
    assert not list((tmp_path / "model").glob("*.py"))


def test_what_others_keep_in_a_config_travels():
    """How an embedder pools, and when a question answerer keeps silent, was lost."""
    fields = {"sentence_embedding": {"mode": "cls"}, "null_score_diff_threshold": 0.5}
    config = to_albert(tiny_model(**fields)).config.to_dict()
    assert {name: config[name] for name in fields} == fields
