"""Texts padded to a few lengths: the same answers, nothing left to compile, and what cannot be."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from runtime_support import batches, pair_tokenizer, wide_product
from tests_support import tiny_model

import bertcompress
from bertcompress.deployment import Product
from bertcompress.errors import ModelError
from bertcompress.models.tokenizers import position_limit
from bertcompress.runtimes import onnxruntime, open_predictor, openvino, serving_modes
from bertcompress.runtimes.buckets import (
    BucketPredictor,
    bucket_lengths,
    pad_to,
    padding_id,
    text_limit,
)
from bertcompress.shapes import FAMILIES

MODES = serving_modes("openvino")[1:]
needs_openvino = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxruntime", "openvino", "nncf")),
    reason="needs the extra 'openvino'",
)


@pytest.mark.parametrize(
    ("longest", "limit", "lengths"),
    [
        (128, 512, (16, 32, 64, 128)),
        (57, 512, (16, 32, 64)),
        (16, 512, (16,)),
        (3, 512, (16,)),
        (512, 512, (16, 32, 64, 128, 256, 512)),
        (600, 500, (16, 32, 64, 128, 256, 500)),
        (512, 12, (12,)),
    ],
)
def test_lengths_double_up_to_the_text_limit(longest, limit, lengths):
    assert bucket_lengths(longest, limit) == lengths


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 3}, (512, 3)),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, (512, 1)),
        ({"model_type": "roberta", "max_position_embeddings": 514}, (512, 0)),
        ({"model_type": "modernbert", "max_position_embeddings": 8192}, (8190, 0)),
        ({"model_type": "t5"}, (512, 0)),
        (None, (512, 0)),
    ],
)
def test_the_longest_text_comes_from_the_config(tmp_path, config, found):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    assert (text_limit(tmp_path), padding_id(tmp_path)) == found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_limit_is_that_of_the_models_own_tokenizer(tmp_path, family):
    model = tiny_model(family, pad_token_id=3)
    model.config.save_pretrained(tmp_path)
    assert text_limit(tmp_path) == position_limit(model.config)


class Plain:
    """Answers with how many tokens it was given and how many of them count; for each token too."""

    runtime, precision = "fake", "fp32"

    def __init__(self, per_token=False):
        self.seen, self._per_token = [], per_token

    def __call__(self, batch):
        ids, mask = batch["input_ids"], batch["attention_mask"]
        self.seen.append(ids.shape)
        if self._per_token:
            return np.repeat(ids[:, :, None], 2, axis=2).astype(np.float32)
        return np.stack([ids.sum(1), mask.sum(1)], axis=1).astype(np.float32)


def text(tokens, rows=1):
    ids = np.full((rows, tokens), 7, np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids * 0}


def test_single_texts_meet_only_the_lengths_that_were_compiled():
    made = {16: Plain(), 32: Plain()}
    rest, opened = Plain(), []
    one = BucketPredictor(
        made, lambda: opened.append(1) or rest, serving="buckets", pad_id=0, per_token=False
    )
    assert [each.seen for each in made.values()] == [[(1, 16)], [(1, 32)]]  # before any text came
    assert (one.runtime, one.precision, one.serving, one.lengths) == (
        "fake", "fp32", "buckets", (16, 32),
    )  # fmt: skip
    for tokens in (5, 16, 17):
        assert one(text(tokens)).tolist() == [[7 * tokens, tokens]]
    assert [each.seen[1:] for each in made.values()] == [[(1, 16)] * 2, [(1, 32)]]
    assert opened == []
    for batch in (text(5, rows=2), text(40), text(40)):
        one(batch)
    assert rest.seen == [(2, 5), (1, 40), (1, 40)]
    assert opened == [1]


def test_padding_is_masked_and_uses_the_models_token():
    padded = pad_to({"input_ids": text(3)["input_ids"]}, 5, pad_id=1)
    assert padded["input_ids"].tolist() == [[7, 7, 7, 1, 1]]
    assert padded["attention_mask"].tolist() == [[1, 1, 1, 0, 0]]


def test_answers_per_token_are_cut_to_the_text():
    one = BucketPredictor({16: Plain(True)}, Plain, serving="warmed", per_token=True)
    assert one(text(5)).shape == (1, 5, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("buckets")
    product = wide_product()
    onnxruntime.export(product, place / "onnx")
    openvino.quantize(place / "onnx", batches())
    return place


def singles():
    """Single texts of 6 to 18 tokens, some of them padded already."""
    return [{k: v[i : i + 1] for k, v in b.items()} for b in batches() for i in (0, 1)]


@needs_openvino
@pytest.mark.parametrize("serving", MODES)
def test_buckets_answer_as_dynamic_shapes_do(folder, serving):
    file = folder / "onnx" / "model.onnx"
    plain = open_predictor(file, "openvino", threads=1)
    ours = open_predictor(file, "openvino", threads=1, serving=serving, max_length=18)
    assert (ours.serving, ours.precision, ours.lengths) == (serving, "fp32", (16, 32))
    for one in (*singles(), *batches(2)):
        np.testing.assert_allclose(ours(one), plain(one), atol=1e-5)


@needs_openvino
@pytest.mark.parametrize("serving", MODES)
def test_static_int8_answers_alike_in_buckets(folder, serving):
    file = folder / "openvino" / "model_int8.onnx"
    plain, ours = (
        open_predictor(file, threads=1, serving=mode, max_length=18) for mode in (None, serving)
    )
    both = [np.concatenate([p(one) for one in singles()]) for p in (plain, ours)]
    # Its ranges are fixed: what is left is an activation rounded the other way now and then.
    assert np.corrcoef(both[0].ravel(), both[1].ravel())[0, 1] > 0.99
    assert (both[0].argmax(1) == both[1].argmax(1)).mean() > 0.9


def test_whatever_opens_openvino_asks_for_f32():
    root = Path(bertcompress.__file__).parent
    files = [*root.rglob("*.py"), *root.rglob("*.j2"), *root.parent.glob("docs/*.md")]
    texts = [file.read_text(encoding="utf-8") for file in files]
    opening = [text for text in texts if "compile_model(" in text]
    assert len(opening) >= 4
    assert all('"INFERENCE_PRECISION_HINT"' in text for text in opening)


@needs_openvino
def test_an_int8_file_answers_texts_as_long_as_a_head_is_wide(folder):
    """Where OpenVINO prefers bf16, that length alone was answered wrongly, or ended the process."""
    file = folder / "openvino" / "model_int8.onnx"
    theirs, ours = (open_predictor(file, name, threads=1) for name in ("onnxruntime", "openvino"))
    for each in (ours, open_predictor(file, "openvino", precision="auto")):
        asked = each._request.get_compiled_model().get_property("INFERENCE_PRECISION_HINT")
        assert (asked.get_type_name(), each.precision) == ("f32", "int8")
    wide = wide_product().model.config
    width = wide.hidden_size // wide.num_attention_heads
    for tokens in (width - 1, width, width + 1):
        one = text(tokens)
        both = [answer(one).ravel() for answer in (theirs, ours)]
        np.testing.assert_allclose(*both, atol=0.05 * np.abs(both[0]).max())


@needs_openvino
@pytest.mark.parametrize("serving", MODES)
def test_tags_of_words_keep_the_texts_length(tmp_path, serving):
    product = Product(tiny_model("bert", "ForTokenClassification"), pair_tokenizer())
    file = onnxruntime.export(product, tmp_path).path
    plain = openvino.predictor(file)
    ours = open_predictor(file, "openvino", serving=serving, max_length=18)
    for one in singles()[:4]:
        np.testing.assert_allclose(ours(one), plain(one), atol=1e-5)


@needs_openvino
def test_texts_that_cannot_be_padded_are_refused(tmp_path, folder):
    product = Product(tiny_model("bert", "ForMultipleChoice"), pair_tokenizer())
    choices = onnxruntime.export(product, tmp_path).path
    with pytest.raises(ModelError, match=r"serving 'buckets' pads texts.*allowed: dynamic"):
        open_predictor(choices, "openvino", serving="buckets")


@needs_openvino
def test_a_mode_that_a_runtime_does_not_have_is_named(folder):
    file = folder / "onnx" / "model.onnx"
    with pytest.raises(ModelError, match="'bucket'; did you mean 'buckets'"):
        open_predictor(file, "openvino", serving="bucket")
    with pytest.raises(ModelError, match=r"onnxruntime.*unknown serving 'buckets'.*dynamic"):
        open_predictor(file, "onnxruntime", serving="buckets")
    assert open_predictor(file, "onnxruntime", serving="dynamic").runtime == "onnxruntime"
    assert serving_modes("torch") == ("dynamic",)


@needs_openvino
@pytest.mark.parametrize("serving", MODES)
def test_whoever_knows_the_limit_says_it(folder, serving, monkeypatch):
    monkeypatch.setattr(openvino, "text_limit", lambda _: pytest.fail("was told"))
    file = folder / "onnx" / "model.onnx"
    ours = open_predictor(file, "openvino", threads=1, serving=serving, limit=20)
    assert ours.lengths == (16, 20)
