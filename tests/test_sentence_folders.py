"""Folders of sentence-transformers: read and written so that its own package gives our vectors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from embedder_support import sentences, tiny_embedder
from tests_support import FAMILIES, tiny_model, tiny_tokenizer

from bertcompress.errors import ModelError
from bertcompress.heads.pooling import MODES, Pooling, normalised
from bertcompress.models.io import load, save
from bertcompress.models.sentence import read_pooling, settled_pooling
from bertcompress.publish.serving import write_serving
from bertcompress.runtimes import onnxruntime
from bertcompress.shapes import apply_edit
from bertcompress.shapes.cutting import Heads
from bertcompress.shapes.hidden import Hidden
from bertcompress.shapes.stock_albert import to_albert

PROMPTS = {"query": "the cat ", "passage": "a dog ", "other": "good "}


def ours(folder, texts, prompt=""):
    """Vectors by our own pooling, of texts alone and in one padded batch."""
    product = load(folder)
    pooling = Pooling.of(product.model.config)
    texts = [prompt + text for text in texts]
    batch = product.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        states = product.model(**batch).last_hidden_state
    together = pooling.vectors(states, batch["attention_mask"]).numpy()
    alone = [
        pooling.vector(each[mask.bool()].numpy())
        for each, mask in zip(states, batch["attention_mask"], strict=True)
    ]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-6)
    return together


def edit(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_sentence_transformers_gives_the_same_vectors(tmp_path, family, mode):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = tiny_embedder(tmp_path / "m", family, mode=mode, normalize=mode != "max")
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    texts = [*sentences(20), "the " * 60]
    np.testing.assert_allclose(theirs.encode(texts), ours(folder, texts), atol=2e-6)
    assert theirs.max_seq_length == 32
    # What it writes itself is read here as the same.
    theirs.save_pretrained(str(tmp_path / "theirs"))
    written, read = (
        read_pooling(place, "m").model_dump(exclude={"prompts", "max_length"})
        for place in (folder, tmp_path / "theirs")
    )
    assert written == read


def test_prompts_are_put_before_texts_as_sentence_transformers_does(tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = tiny_embedder(tmp_path / "m", prompts=PROMPTS, default_prompt="other")
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    pooling, texts = read_pooling(folder, "m"), sentences(8)
    for name, encode in (("query", theirs.encode_query), (None, theirs.encode)):
        expected = ours(folder, texts, pooling.prompt(name))
        np.testing.assert_allclose(encode(texts), expected, atol=2e-6)
    assert [pooling.prompt(name) for name in ("query", "document", "other", None)] == [
        "the cat ", "a dog ", "good ", "good ",
    ]  # fmt: skip
    assert Pooling().prompt("document") == Pooling().prompt(None) == ""
    with pytest.raises(ModelError, match=r"unknown prompt of the model 'quer'.*query"):
        pooling.prompt("quer")


def test_vectors_of_fewer_dimensions_are_cut_after_normalising(tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = tiny_embedder(tmp_path / "m", dimensions=5)
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    vectors = ours(folder, sentences(6))
    assert vectors.shape == (6, 5)
    np.testing.assert_allclose(theirs.encode(sentences(6)), vectors, atol=2e-6)


def test_an_edited_encoder_is_a_folder_of_sentence_transformers_too(tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    product = load(tiny_embedder(tmp_path / "m", mode="cls"))
    apply_edit(product.model, Heads([[0, 2], [0, 1, 2, 3], [1, 3]]))
    apply_edit(product.model, Hidden(12))
    folder = save(product.model, tmp_path / "cut", product.tokenizer)
    pooled = json.loads((folder / "1_Pooling/config.json").read_text())
    assert (pooled["word_embedding_dimension"], pooled["pooling_mode_cls_token"]) == (12, True)
    theirs = sentence_transformers.SentenceTransformer(
        str(folder), device="cpu", trust_remote_code=True
    )
    np.testing.assert_allclose(theirs.encode(sentences(9)), ours(folder, sentences(9)), atol=2e-6)


def test_pooling_travels_through_saving_and_is_dropped_with_a_head(tmp_path):
    folder = tiny_embedder(tmp_path / "m", mode="cls", prompts=PROMPTS, max_length=16)
    product = load(folder)
    again = load(save(product.model, tmp_path / "again", product.tokenizer, convert=False))
    assert Pooling.of(again.model.config) == Pooling.of(product.model.config)
    assert (again.tokenizer.model_max_length, Pooling.of(again.model.config).max_length) == (16, 16)
    headed = load(folder, head="ForSequenceClassification", fresh_head=True)
    assert Pooling.of(headed.model.config) is None
    save(headed.model, tmp_path / "headed", headed.tokenizer)
    assert not (tmp_path / "headed" / "modules.json").exists()


def test_what_a_folder_states_goes_before_what_the_config_kept(tmp_path):
    folder = tiny_embedder(tmp_path / "m")
    edit(folder / "1_Pooling/config.json", pooling_mode="cls")
    assert Pooling.of(load(folder).model.config).mode == "cls"


@pytest.fixture
def cross_encoder(tmp_path):
    """A folder as sentence-transformers writes it, whose scores are as the model puts them out."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    save(tiny_model(num_labels=1), tmp_path / "plain", tiny_tokenizer())
    given = {"activation_fn": torch.nn.Identity(), "device": "cpu"}
    made = sentence_transformers.CrossEncoder(str(tmp_path / "plain"), **given)
    made.save_pretrained(str(tmp_path / "ce"))
    return tmp_path / "ce", made.predict(RANKED)


RANKED = [("the cat", "a dog sings"), ("old house", "new tree")]


@pytest.mark.parametrize("albert", [False, True])
def test_a_cross_encoder_keeps_what_its_scores_go_through(tmp_path, cross_encoder, albert):
    """Its release 6 writes that beside config.json, and a saved model answered with a sigmoid."""
    from sentence_transformers import CrossEncoder

    folder, scores = cross_encoder
    product = load(folder)
    model = to_albert(product.model) if albert else product.model
    save(model, tmp_path / "out", product.tokenizer)
    again = CrossEncoder(str(tmp_path / "out"), device="cpu").predict(RANKED)
    np.testing.assert_allclose(again, scores, atol=1e-5)
    assert scores.min() < 0  # which no sigmoid gives


def test_a_cross_encoder_is_served_as_its_folder_says(tmp_path, cross_encoder):
    pytest.importorskip("onnxruntime")
    folder, scores = cross_encoder
    product = load(folder)
    texts = [text for pair in RANKED for text in pair]
    for name, expected, words in (
        ("linear.Identity", scores, "the number as it is (no sigmoid)"),
        ("activation.Sigmoid", 1 / (1 + np.exp(-scores)), "the score, 0 to 1 (the sigmoid)"),
    ):
        settings = folder / "config_sentence_transformers.json"
        settings.write_text(
            json.dumps({"model_type": "CrossEncoder", "activation_fn": f"torch.nn.modules.{name}"})
        )
        product = load(folder)
        file = onnxruntime.export(product, tmp_path / "files").path
        config = product.model.config
        made = write_serving(file, "onnxruntime", config, product.tokenizer, 40, texts=2)
        assert words in made.read_text()
        command = [sys.executable, str(made), *texts]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = [json.loads(line)["answer"] for line in out.splitlines()]
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_prompts_of_a_cross_encoder_are_refused(tmp_path, cross_encoder):
    folder, _ = cross_encoder
    settings = folder / "config_sentence_transformers.json"
    written = json.loads(settings.read_text())
    settings.write_text(json.dumps({**written, "prompts": {"query": "find: ", "none": ""}}))
    with pytest.raises(ModelError, match=r"a CrossEncoder with prompts \(query\), which nothing"):
        load(folder)


@pytest.mark.parametrize(
    ("fields", "mode"),
    [
        ({"pooling_mode": "max"}, "max"),
        ({"pooling_mode": ["cls"]}, "cls"),
        ({"pooling_mode": None, "pooling_mode_mean_tokens": False}, "mean"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "cls"),
    ],
    ids=["new", "list", "silent", "old"],
)
def test_old_and_new_keys_of_pooling(tmp_path, fields, mode):
    folder = tiny_embedder(tmp_path / "m")
    edit(folder / "1_Pooling/config.json", **fields)
    assert read_pooling(folder, "m").mode == mode


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: edit(f / "1_Pooling/config.json", pooling_mode="lasttoken"), "by lasttoken"),
        (lambda f: edit(f / "1_Pooling/config.json", pooling_mode=["mean", "max"]), "mean and max"),
        (
            lambda f: (f / "modules.json").write_text(
                json.dumps(
                    [
                        *json.loads((f / "modules.json").read_text()),
                        {"path": "3_Dense", "type": "sentence_transformers.models.Dense"},
                    ]
                )
            ),
            r"Dense \(3_Dense\)",
        ),
        (
            lambda f: (
                edit(f / "1_Pooling/config.json", include_prompt=False),
                edit(f / "config_sentence_transformers.json", prompts=PROMPTS),
            ),
            "include_prompt",
        ),
        (lambda f: edit(f / "config_sentence_transformers.json", prompts={"a": 1}), "prompts.a"),
    ],
    ids=["unknown", "several", "dense", "prompt left out", "damaged"],
)
def test_what_cannot_be_carried_over_is_refused_by_name(tmp_path, change, words):
    folder = tiny_embedder(tmp_path / "m")
    change(folder)
    with pytest.raises(ModelError, match=words):
        read_pooling(folder, "m")
    product = load(folder)  # an encoder for another task all the same
    assert Pooling.of(product.model.config) is None
    with pytest.raises(ModelError, match=words):
        settled_pooling(product.model.config, folder, "m")


def test_a_folder_of_another_kind_is_pooled_by_the_mean_and_says_so(tmp_path):
    folder = save(tiny_model("bert", "Model"), tmp_path / "m", tiny_tokenizer())
    assert read_pooling(folder, "m") is None
    config = load(folder).model.config
    pooling, line = settled_pooling(config, folder, "m")
    assert (pooling, "the mean of the tokens" in line) == (Pooling(), True)
    assert settled_pooling(config, folder, "m", Pooling(mode="cls")) == (Pooling(mode="cls"), None)


def test_an_encoder_a_folder_deeper_finds_its_pooling_above(tmp_path):
    folder = tiny_embedder(tmp_path / "m", mode="cls")
    inner = folder / "0_Transformer"
    inner.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.move(folder / name, inner / name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    assert Pooling.of(load(folder).model.config).mode == "cls"


def test_the_embedded_model_is_an_embedder_as_it_comes(minilm):
    product = load(minilm)
    pooling = Pooling.of(product.model.config)
    assert (pooling.mode, pooling.normalize, product.tokenizer.model_max_length) == (
        "mean", True, 256,
    )  # fmt: skip
    vectors = normalised(np.array([[3.0, 4.0], [0.0, 0.0]]))
    assert vectors.tolist() == [[0.6, 0.8], [0.0, 0.0]]
