"""Smoothing of shared weights: the formula, the same answer, one copy, a smaller int8 error."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from runtime_support import batches, pair_tokenizer, wide_product
from tests_support import VOCABULARY, tiny_model

from bertcompress.deployment import Product
from bertcompress.errors import DataError
from bertcompress.runtimes import onnxruntime, openvino
from bertcompress.runtimes.onnx import smoothquant as smoothing
from bertcompress.runtimes.onnx.smoothquant import smooth_shared, smoothing_factors

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxruntime", "openvino", "nncf")),
    reason="needs the extra 'openvino'",
)
DEPTH = 4


def albert(**sizes):
    shape = {"hidden_size": 64, "intermediate_size": 128, "embedding_size": 16}
    model = tiny_model("albert", num_hidden_layers=DEPTH, initializer_range=0.1, **shape | sizes)
    return Product(model, pair_tokenizer())


def uneven_file(folder):
    """Words looked up and put twice through one matrix, some channels 50 times the others.

    The matrix is small there, as after training: one scale for all channels leaves the ordinary
    ones a few steps of 255.
    """
    random = np.random.default_rng(0)
    size = np.where(np.isin(np.arange(64), [3, 17, 40]), 50.0, 1.0)
    arrays = {
        "table": random.normal(size=(len(VOCABULARY), 64)) * size,
        "weight": random.normal(size=(64, 64)) / size[:, None] / 8,
        "size": size,
    }
    nodes = [
        onnx.helper.make_node("Gather", ["table", "input_ids"], ["words"], name="words"),
        onnx.helper.make_node("MatMul", ["words", "weight"], ["once"], name="once"),
        onnx.helper.make_node("Tanh", ["once"], ["bent"], name="bent"),
        onnx.helper.make_node("Mul", ["bent", "size"], ["uneven"], name="uneven"),
        onnx.helper.make_node("MatMul", ["uneven", "weight"], ["logits"], name="twice"),
    ]
    shape, kinds = ["batch", "sequence"], onnx.TensorProto
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("input_ids", kinds.INT64, shape)],
        [onnx.helper.make_tensor_value_info("logits", kinds.FLOAT, [*shape, 64])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    folder.mkdir()
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), folder / "model.onnx"
    )
    return folder / "model.onnx"


def rows(count=3):
    return list(openvino._rows(batches(count), ["input_ids", "attention_mask", "token_type_ids"]))


def answers(file):
    runtime = openvino if "int8" in file.name else onnxruntime
    predictor = runtime.predictor(file)
    return np.concatenate([predictor(batch) for batch in batches(5)])


def test_formula_and_its_bounds():
    activation, weight = np.float32([1, 4, 100, 0.5, 2, 8]), np.float32([1, 2, 0.5, 1, 4, 0.1])
    for alpha in (0.5, 0.7):
        plain = activation**alpha / weight ** (1 - alpha)
        expected = np.clip(plain, np.quantile(plain, 0.1), 100.0)
        np.testing.assert_allclose(
            smoothing_factors(activation, weight, alpha), expected, rtol=1e-6
        )
    nothing = smoothing_factors(np.zeros(4, np.float32), np.zeros(4, np.float32))
    assert np.isfinite(nothing).all()
    assert (nothing > 0).all()


def test_the_fp32_answer_stays_and_each_weight_is_still_one(tmp_path):
    file = onnxruntime.export(albert(), tmp_path).path
    wanted, model = answers(file), onnx.load(file)
    before = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    made = smooth_shared(model, rows())
    onnx.checker.check_model(model, full_check=True)
    # Q, K and V share an input: four products per application, and their factors are one.
    assert len(made) == len(set(made)) == 4 * DEPTH
    after = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert len(after) == len(before) + 4
    changed = [name for name in before if not np.array_equal(before[name], after[name])]
    assert sorted(before[name].shape for name in changed) == [(64, 64)] * 4 + [(64, 128), (128, 64)]
    onnx.save(model, file)
    np.testing.assert_allclose(answers(file), wanted, atol=1e-4 * max(1, np.abs(wanted).max()))


def test_a_model_without_shared_weights_is_left_alone(tmp_path):
    model = onnx.load(onnxruntime.export(wide_product(), tmp_path).path)
    before = model.SerializeToString(deterministic=True)
    assert smooth_shared(model, rows()) == []
    assert model.SerializeToString(deterministic=True) == before


def quantized(folder, monkeypatch):
    """The int8 file, and the one that NNCF alone would make."""
    smooth = openvino.quantize(folder, batches(3), out=folder.parent / "smooth").path
    with monkeypatch.context() as patch:
        patch.setattr(smoothing, "smooth_shared", lambda model, rows, alpha: [])
        rough = openvino.quantize(folder, batches(3), out=folder.parent / "rough").path
    return smooth, rough


def test_int8_errs_less_where_channels_are_uneven(tmp_path, monkeypatch):
    plain = uneven_file(tmp_path / "onnx")
    runs = [openvino.predictor(f) for f in (plain, *quantized(tmp_path / "onnx", monkeypatch))]
    wanted, smooth, rough = (np.concatenate([r(b).ravel() for b in batches(5)]) for r in runs)
    errors = [np.square(got - wanted).mean() ** 0.5 / wanted.std() for got in (smooth, rough)]
    assert errors[0] < 0.7 * errors[1]


@pytest.mark.parametrize("groups", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_int8_file_holds_one_copy(groups, tmp_path, monkeypatch):
    product = albert(num_hidden_groups=groups)
    onnxruntime.export(product, tmp_path / "onnx")
    for file in quantized(tmp_path / "onnx", monkeypatch):
        ints = [
            t for t in onnx.load(file).graph.initializer if t.data_type == onnx.TensorProto.INT8
        ]
        numbers = sum(int(np.prod(t.dims)) for t in ints if len(t.dims) == 2)
        assert numbers == sum(p.numel() for p in product.model.parameters() if p.ndim == 2)


@pytest.mark.slow
def test_a_real_model_with_pairs_of_shared_layers_errs_less(minilm, tmp_path, monkeypatch):
    from bertcompress.models.io import load

    product = load(minilm)
    layers = product.model.encoder.layer
    for i in range(1, 6, 2):
        layers[i] = layers[i - 1]
    texts = [f"{a} {b} {c}" for a in ("The dog", "Her new plan", "An old house in the city")
             for b in ("was seen", "surprised everybody", "costs more than we had expected")
             for c in ("yesterday.", "in the end, although it rained", "?")]  # fmt: skip
    tokens = [dict(product.tokenizer(text, return_tensors="np")) for text in texts]
    plain = onnxruntime.export(product, tmp_path / "onnx").path
    wanted = [onnxruntime.predictor(plain)(batch) for batch in tokens]
    errors = []
    for smooth in (smooth_shared, lambda model, rows, alpha: []):
        monkeypatch.setattr(smoothing, "smooth_shared", smooth)
        predictor = openvino.predictor(openvino.quantize(tmp_path / "onnx", tokens).path)
        off = [predictor(batch) - want for batch, want in zip(tokens, wanted, strict=True)]
        errors.append(sum(float(np.square(o).sum()) for o in off) ** 0.5)
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.5])
def test_the_setting_reaches_shared_weights(alpha, tmp_path):
    """What the gate tries are different files: off, all in the activation, half."""
    made = []
    for each in (alpha, smoothing.ALPHA):
        folder = tmp_path / f"alpha{each}"
        folder.mkdir()
        model = onnx.load(uneven_file(folder / "onnx"))
        ids = [{"input_ids": row["input_ids"]} for row in rows()]
        names = smooth_shared(model, ids, each)
        made.append((names, model.SerializeToString(deterministic=True)))
    (names, changed), (others, default) = made
    assert others
    assert bool(names) == (alpha >= 0)
    assert changed != default


def test_dynamic_int8_is_smoothed_on_rows_and_refuses_without(tmp_path):
    onnxruntime.export(wide_product(), tmp_path)
    with pytest.raises(DataError, match="smoothing needs rows"):
        onnxruntime.quantize(tmp_path, smoothing=0.5)
    plain = onnxruntime.quantize(tmp_path, out=tmp_path / "plain").path
    smoothed = onnxruntime.quantize(tmp_path, rows(), smoothing=0.5, out=tmp_path / "smooth").path
    wanted = answers(tmp_path / "model.onnx")
    for file in (plain, smoothed):
        assert np.corrcoef(answers(file).ravel(), wanted.ravel())[0, 1] > 0.97
    kinds = [sum("/smooth" in n.name for n in onnx.load(f).graph.node) for f in (plain, smoothed)]
    assert kinds[0] == 0 < kinds[1]
