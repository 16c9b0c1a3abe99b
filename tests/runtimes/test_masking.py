"""Dynamic int8 and padding: one text padded to 128 is answered as alone, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from runtime_support import cut, pair_tokenizer
from tests_support import FAMILIES, HEADS, VOCABULARY, tiny_model, tiny_tokenizer

import bertcompress as bc
from bertcompress.deployment import Product
from bertcompress.models.io import save
from bertcompress.runtimes import onnxruntime
from bertcompress.runtimes.onnx.masking import mask_ranges

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TEXTS, PADDED = 12, 128


def quantized(model, folder, exporter="torchscript", tokenizer=None):
    """The int8 file of a model, as every door writes it."""
    onnxruntime.export(Product(model, tokenizer or tiny_tokenizer()), folder, exporter)
    return onnxruntime.quantize(folder).path


def long_model(family, **fields):
    return tiny_model(family, max_position_embeddings=PADDED + 4, **fields)


def texts(pad, names=("input_ids", "attention_mask")):
    """Pairs of inputs: one text by itself, and the same text padded."""
    random = np.random.default_rng(0)
    for _ in range(TEXTS):
        length = int(random.integers(3, 60))
        ids = random.integers(5, len(VOCABULARY), (1, length))
        alone = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        alone["token_type_ids"] = (np.arange(length)[None] > length // 2).astype(np.int64)
        fill = {"input_ids": pad}
        room = [(0, 0), (0, PADDED - length)]
        padded = {n: np.pad(v, room, constant_values=fill.get(n, 0)) for n, v in alone.items()}
        yield tuple({name: each[name] for name in names} for each in (alone, padded))


def masked(file):
    """Inputs of all ranges, and those that are multiplied by the mask first."""
    graph = onnx.load(file).graph
    inputs = {node.input[0] for node in graph.node if node.op_type == "DynamicQuantizeLinear"}
    products = {
        node.output[0] for node in graph.node
        if node.op_type == "Mul" and "attention_mask/column" in node.input
    }  # fmt: skip
    assert products <= inputs
    return inputs, products


@pytest.mark.parametrize("family", FAMILIES)
def test_one_text_padded_is_the_text_alone(family, tmp_path):
    model = long_model(family)
    predictor = onnxruntime.predictor(quantized(model, tmp_path / "onnx"))
    for alone, padded in texts(model.config.pad_token_id):
        assert np.array_equal(predictor(alone), predictor(padded))


def test_without_the_mask_it_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr("bertcompress.runtimes.onnx.masking.mask_ranges", lambda proto: 0)
    model = long_model("bert")
    predictor = onnxruntime.predictor(quantized(model, tmp_path / "onnx"))
    assert not all(np.array_equal(predictor(a), predictor(p)) for a, p in texts(0))


def test_an_uneven_model_with_token_types_too(tmp_path):
    model = cut(long_model("bert"))
    file = quantized(model, tmp_path / "onnx", tokenizer=pair_tokenizer())
    predictor = onnxruntime.predictor(file)
    names = ("input_ids", "attention_mask", "token_type_ids")
    for alone, padded in texts(0, names):
        assert np.array_equal(predictor(alone), predictor(padded))


@pytest.mark.parametrize(
    ("family", "exporter"),
    [
        *((each, "torchscript") for each in FAMILIES),
        pytest.param("albert", "dynamo", marks=pytest.mark.slow),
    ],
)
def test_every_range_over_tokens_is_masked(family, exporter, tmp_path):
    """Three layers of four, and what lies before them; the pooled ones of the head stay."""
    if exporter == "dynamo":
        pytest.importorskip("onnxscript")
    inputs, products = masked(quantized(tiny_model(family), tmp_path / "onnx", exporter))
    assert len(inputs) - len(products) == 2
    before = family in ("albert", "electra")  # narrow embeddings are widened by a product
    assert len(products) == 3 * 4 + before


@pytest.mark.parametrize("head", [h for h in HEADS if h != "ForSequenceClassification"])
def test_heads_answer_for_real_tokens_as_alone(head, tmp_path):
    model = long_model("bert", head=head)
    predictor = onnxruntime.predictor(quantized(model, tmp_path / "onnx"))
    for alone, padded in texts(0):
        if head == "ForMultipleChoice":
            alone, padded = ({n: v[:, None] for n, v in each.items()} for each in (alone, padded))
        ours, wanted = predictor(padded), predictor(alone)
        if head != "ForMultipleChoice":
            ours = ours[:, : wanted.shape[1]]
        assert np.array_equal(ours, wanted)


def test_every_door_to_dynamic_int8_masks(tmp_path):
    save(tiny_model(), tmp_path / "model", tiny_tokenizer())
    made = bc.export(tmp_path / "model", tmp_path / "out")
    inputs, products = masked(made[-1].path)
    assert len(products) == len(inputs) - 2


def test_a_graph_without_mask_or_ranges_stays_as_it_is(tmp_path):
    file = quantized(tiny_model(), tmp_path / "onnx")
    plain, whole = onnx.load(tmp_path / "onnx" / "model.onnx"), onnx.load(file)
    assert mask_ranges(plain) == 0
    (port,) = [port for port in whole.graph.input if port.name == "attention_mask"]
    whole.graph.input.remove(port)
    assert mask_ranges(whole) == 0
