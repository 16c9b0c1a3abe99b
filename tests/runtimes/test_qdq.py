"""Integer ONNX files: what is in them, and that runtimes answer as the stored model does."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tests_support import FAMILIES, thin, tiny_inputs, tiny_model, tiny_tokenizer
from torch import nn

from bertcompress.deployment import Product
from bertcompress.engines.quantization.fake_quantize import quantizable, store, with_rounding
from bertcompress.engines.quantization.input_range import InputRange
from bertcompress.errors import ModelError
from bertcompress.measure.footprint import _sizes
from bertcompress.runtimes import open_predictor
from bertcompress.runtimes.onnx import integers
from bertcompress.runtimes.onnx.integers import export_qdq
from bertcompress.shapes import (
    Heads,
    LowRanks,
    QuantizedLinear,
    ShapeError,
    Sharing,
    anatomy,
    apply_edit,
)

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def stored(model, group=0, activations=True, bits=8):
    trained = with_rounding(
        copy.deepcopy(model),
        {n: bits if isinstance(m, nn.Linear) else 8 for n, m in quantizable(model).items()},
        group=group,
        inputs=InputRange() if activations else None,
    )
    with torch.no_grad():
        trained.train()(**tiny_inputs(rows=8))
    return store(model, trained).eval()


def compared(model, folder, runtime):
    file = export_qdq(Product(model, tiny_tokenizer()), folder)
    batch = tiny_inputs(rows=12)
    with torch.no_grad():
        wanted = model(**batch).logits.numpy()
    got = open_predictor(file, runtime)({k: v.numpy() for k, v in batch.items()})
    return float(np.corrcoef(got.ravel(), wanted.ravel())[0, 1]), file


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("group", [0, -1])
def test_onnx_runtime_answers_as_the_model(family, group, tmp_path):
    alike, file = compared(stored(tiny_model(family), group), tmp_path, "onnxruntime")
    assert alike > 0.99
    assert [p.name for p in tmp_path.glob("*.onnx")] == [file.name]


def test_openvino_answers_as_the_model(tmp_path):
    pytest.importorskip("openvino")
    assert compared(stored(tiny_model(), -1), tmp_path, "openvino")[0] > 0.98


def test_weights_without_rounded_inputs_are_exact(tmp_path):
    model = stored(tiny_model(), -1, activations=False)
    file = export_qdq(Product(model, tiny_tokenizer()), tmp_path)
    batch = tiny_inputs()
    with torch.no_grad():
        wanted = model(**batch).logits.numpy()
    options = onnxruntime.SessionOptions()
    # Optimised, it may round inputs on the fly where nothing else does.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(file), options)
    (got,) = session.run(None, {k: v.numpy() for k, v in batch.items()})
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_every_weight_is_an_integer_and_each_input_is_rounded_once(tmp_path):
    model = stored(tiny_model(vocab_size=500))
    file = export_qdq(Product(model, tiny_tokenizer()), tmp_path)
    graph = onnx.load(file).graph
    floats = sum(int(np.prod(t.dims)) for t in graph.initializer if t.data_type == 1)
    size = _sizes(model)
    kept = sum(size(p) for n, p in model.named_parameters() if "qweight" not in n)
    assert floats < 1.5 * kept + 500  # biases, norms, scales: no matrix
    # Query, key and value have one input: four roundings in each layer, pooler and classifier.
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) == 4 * 3 + 2
    assert file.stat().st_size < 0.6 * sum(p.numel() * 4 for p in tiny_model().parameters()) + 2e5


def test_cut_thin_and_shared_models_hold_each_weight_once(tmp_path):
    model = tiny_model(hidden_size=64, intermediate_size=128)
    apply_edit(model, Heads([[0], [0], [0]]))
    thin(model, LowRanks({"ffn_in": [8, 8, 8]}))
    apply_edit(model, Sharing([0, 0, 0], [0, 0, 0]))
    alike, file = compared(stored(model), tmp_path, "onnxruntime")
    assert alike > 0.99
    graph = onnx.load(file).graph
    integers = [tuple(t.dims) for t in graph.initializer if t.data_type == 3 and len(t.dims) == 2]
    assert integers.count((64, 8)) + integers.count((8, 64)) == 1


@pytest.mark.parametrize("group", [-1, 32])
def test_modules_with_the_same_weights_keep_their_own_ranges(group, tmp_path):
    """Each rounds its input by a scale of its own."""
    model = tiny_model()
    first, second = (layer.linears["ffn_in"].module for layer in anatomy(model).layers[:2])
    second.weight.data.copy_(first.weight.data)
    anatomy(model).layers[1].linears["query"].weight.data.zero_()
    anatomy(model).layers[2].linears["query"].weight.data.zero_()
    model = stored(model, group, activations=group < 0)
    alike, file = compared(model, tmp_path, "onnxruntime")
    assert alike > 0.99
    operator = "MatMulNBits" if group > 0 else "QuantizeLinear"
    count = sum(node.op_type == operator for node in onnx.load(file).graph.node)
    assert count == (6 * 3 + 2 if group > 0 else 4 * 3 + 2)


def test_a_pooler_that_no_output_depends_on_is_left_out(tmp_path):
    model = stored(tiny_model(head="Model"), -1)
    file = export_qdq(Product(model, tiny_tokenizer()), tmp_path)
    graph = onnx.load(file).graph
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) == 4 * 3


def test_groups_that_the_operator_lacks_are_refused(tmp_path):
    model = stored(tiny_model(), 4, activations=False)
    with pytest.raises(ModelError, match="groups of 4; ONNX Runtime has powers of two"):
        export_qdq(Product(model, tiny_tokenizer()), tmp_path)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_grouped_weights_are_packed_and_answer_alike(bits, runtime, tmp_path):
    pytest.importorskip(runtime)
    model = tiny_model(hidden_size=48, intermediate_size=80)
    model = stored(model, 32, activations=False, bits=bits)  # 48 and 80: the last block is not full
    alike, file = compared(model, tmp_path, runtime)
    assert alike > 0.995
    assert file.name == ("model_q4.onnx" if bits == 4 else "model_quantized.onnx")
    graph = onnx.load(file).graph
    packed = [t for t in graph.initializer if t.name.endswith(".blocks")]
    assert len(packed) == 6 * 3 + 2
    held = sum(int(np.prod(t.dims)) for t in packed)
    full = sum(m.out_features * -(-m.in_features // 32) * 32 for m in linears(model))
    assert held == full * bits // 8


def linears(model):
    return [m for m in model.modules() if isinstance(m, QuantizedLinear)]


def test_only_what_is_looked_up_is_scaled(tmp_path):
    """Nothing turns a whole table into floats: its readers are lookups alone."""
    model = stored(tiny_model(vocab_size=500), -1)
    graph = onnx.load(export_qdq(Product(model, tiny_tokenizer()), tmp_path)).graph
    tables = {t.name for t in graph.initializer if 500 in t.dims}
    assert len(tables) == 2  # integers and scales
    readers = [node.op_type for node in graph.node for name in node.input if name in tables]
    assert set(readers) == {"Gather"}


@pytest.mark.parametrize(("bits", "group"), [(4, 0), (3, -1)])
def test_a_file_is_called_what_it_holds(bits, group, tmp_path):
    """Without blocks there is no operator for fewer than 8 bits: the file holds bytes."""
    model = stored(tiny_model(), group, activations=False, bits=bits)
    file = export_qdq(Product(model, tiny_tokenizer()), tmp_path)
    assert file.name == "model_quantized.onnx"
    assert open_predictor(file).precision == "int8"


def test_an_input_that_is_rounded_by_two_scales_is_rounded_twice(tmp_path):
    model = stored(tiny_model())
    with torch.no_grad():
        anatomy(model).layers[1].linears["key"].module.input_scale.mul_(1.5)
    alike, file = compared(model, tmp_path, "onnxruntime")
    assert alike > 0.99
    graph = onnx.load(file).graph
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) == 4 * 3 + 2 + 1


def test_a_file_that_answers_otherwise_is_refused(tmp_path, monkeypatch):
    model = stored(tiny_model(), -1)
    whole = integers.unpack
    monkeypatch.setattr(integers, "unpack", lambda *args: whole(*args).flip(0))
    wrong = integers._in_integers(model)
    monkeypatch.undo()
    # What is written is what is checked: against the model, not against its own integers.
    monkeypatch.setattr(integers, "_in_integers", lambda _: wrong)
    with pytest.raises(ModelError, match="differs from torch"):
        export_qdq(Product(model, tiny_tokenizer()), tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stored_models_compute_in_the_precision_that_they_are_given(dtype, tmp_path):
    model = stored(tiny_model().to(torch.bfloat16), -1)
    batch = tiny_inputs()
    with torch.no_grad():
        wanted = model(**batch).logits
        assert (
            wanted.dtype == torch.float32
        )  # what is stored computes in fp32 unless told otherwise
        model.save_pretrained(tmp_path)
        half = type(model).from_pretrained(tmp_path, dtype=dtype).eval()
        got = half(**batch).logits
    assert got.dtype == dtype
    assert np.corrcoef(got.float().numpy().ravel(), wanted.numpy().ravel())[0, 1] > 0.95


def test_what_is_stored_is_not_stored_again():
    model = stored(tiny_model())
    with pytest.raises(ShapeError, match="stored in 8 bits already"):
        quantizable(model)


def test_inputs_are_of_the_sort_that_integer_products_take(tmp_path):
    """Unsigned, with 128 for 0; optimised, ONNX Runtime has no product in floats left."""
    model = stored(tiny_model(), -1)
    file = export_qdq(Product(model, tiny_tokenizer()), tmp_path)
    graph = onnx.load(file).graph
    zeros = {n.input[2] for n in graph.node if n.op_type == "QuantizeLinear"}
    held = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name in zeros]
    assert {(str(z.dtype), int(z)) for z in held} == {("uint8", 128)}
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    ops = [n.op_type for n in onnx.load(tmp_path / "optimised.onnx").graph.node]
    whole = sum(op in ("MatMulIntegerToFloat", "QLinearMatMul", "QGemm") for op in ops)
    assert whole >= 6 * 3  # each linear of the layers
