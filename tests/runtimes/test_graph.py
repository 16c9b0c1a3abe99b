"""Constants once: which are merged, which must not be, and that no answer changes by a bit."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from runtime_support import batches, pair_tokenizer, wide_product
from tests_support import tiny_model

from bertcompress.deployment import Deployment, Product
from bertcompress.measure.footprint import encoder_bytes, size_of
from bertcompress.runtimes import onnxruntime, openvino
from bertcompress.runtimes.onnx import graph
from bertcompress.runtimes.onnx.graph import share

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxruntime", "openvino", "nncf")),
    reason="needs the extra 'openvino'",
)

RUNTIMES = (onnxruntime, openvino)


def floats(values, name):
    return numpy_helper.from_array(np.asarray(values, np.float32), name)


def model_of(nodes, initializers, outputs, inputs=("x",)):
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names]
        for names, shape in ((inputs, [2]), (outputs, ["n"]))
    ]
    made = helper.make_model(
        helper.make_graph(nodes, "g", *ends, initializers),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    onnx.checker.check_model(made, full_check=True)
    return made


def run(model, **inputs):
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {n: np.asarray(v, np.float32) for n, v in inputs.items()})


def names_of(model):
    return [tensor.name for tensor in model.graph.initializer]


def merged(model, **inputs):
    """Merge, and see that it is valid, answers the same, and has nothing more to merge."""
    before, size = run(model, **inputs), model.graph.ByteSize()
    assert share(model) == size - model.graph.ByteSize()
    onnx.checker.check_model(model, full_check=True)
    for ours, theirs in zip(run(model, **inputs), before, strict=True):
        assert np.array_equal(ours, theirs)
    assert share(model) == 0
    return model


def test_initialisers_constants_and_identities_become_one():
    nodes = [
        helper.make_node("Constant", [], ["c"], value=floats([1, 2], "inside")),
        helper.make_node("Identity", ["b"], ["same"]),
        helper.make_node("Add", ["x", "a"], ["1"]),
        helper.make_node("Add", ["1", "b"], ["2"]),
        helper.make_node("Mul", ["2", "c"], ["3"]),
        helper.make_node("Add", ["3", "same"], ["y"]),
    ]
    initializers = [floats([1, 2], "a"), floats([1, 2], "b"), floats([2, 1], "other")]
    model = merged(model_of(nodes, initializers, ["y"]), x=[3, 4])
    assert names_of(model) == ["a", "other"]
    assert [node.op_type for node in model.graph.node] == ["Add", "Add", "Mul", "Add"]


def test_equal_forms_of_a_constant_become_one_chain():
    def chain(i, zero="zero"):
        return [
            helper.make_node("DequantizeLinear", [f"q{i}", "scale", zero], [f"d{i}"], axis=0),
            helper.make_node("Unsqueeze", [f"d{i}", "axis"], [f"u{i}"]),
            helper.make_node("Transpose", [f"u{i}"], [f"t{i}"], perm=[1, 0]),
        ]

    ints = {"q0": [1, 2], "q1": [1, 2], "q2": [1, 3], "zero": [0, 0]}
    initializers = [numpy_helper.from_array(np.asarray(v, np.int8), n) for n, v in ints.items()]
    initializers += [floats([0.5, 0.25], "scale"), numpy_helper.from_array(np.array([0]), "axis")]
    sums = [
        helper.make_node("Add", ["t0", "t1"], ["s"]),
        helper.make_node("Add", ["s", "t2"], ["w"]),
    ]
    end = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    nodes = [*chain(0), *chain(1), *chain(2), *sums, *end]
    model = model_of(nodes, initializers, ["y"])
    model = merged(model, x=[3, 4])
    assert names_of(model) == ["q0", "q2", "zero", "scale", "axis"]
    kinds = [node.op_type for node in model.graph.node]
    assert [kinds.count(k) for k in ("DequantizeLinear", "Unsqueeze", "Transpose")] == [2, 2, 2]


def test_what_differs_in_type_shape_or_bytes_stays():
    nodes = [
        helper.make_node("Add", ["x", "plus"], ["1"]),
        helper.make_node("Div", ["1", "minus"], ["2"]),
        helper.make_node("Add", ["2", "row"], ["3"]),
        helper.make_node("Cast", ["ints"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["3", "pair"], ["4"]),
        helper.make_node("Add", ["4", "cast"], ["y"]),
    ]
    initializers = [
        floats([0.0, 0.0], "plus"),
        floats([-0.0, -0.0], "minus"),
        floats([[0.0, 0.0]], "row"),
        numpy_helper.from_array(np.zeros(2, np.int32), "ints"),
        numpy_helper.from_array(np.array([2]), "pair"),
    ]
    model = merged(model_of(nodes, initializers, ["y"]), x=[3, 4])
    assert len(model.graph.initializer) == 5


def test_inputs_outputs_and_random_numbers_are_left_alone():
    """A default can be replaced by a caller; two draws are two."""
    nodes = [
        helper.make_node("Add", ["x", "default"], ["1"]),
        helper.make_node("Add", ["1", "a"], ["2"]),
        helper.make_node("RandomNormal", [], ["r1"], shape=[2], seed=1.0),
        helper.make_node("RandomNormal", [], ["r2"], shape=[2], seed=1.0),
        helper.make_node("Sub", ["r1", "r2"], ["r"]),
        helper.make_node("Identity", ["a"], ["out2"]),
        helper.make_node("Identity", ["2"], ["y"]),
    ]
    initializers = [floats([1, 2], n) for n in ("default", "a", "out1", "b")]
    model = model_of(nodes, initializers, ["y", "out1", "out2", "r"], inputs=("x", "default"))
    share(model)
    onnx.checker.check_model(model, full_check=True)
    assert names_of(model) == ["default", "a", "out1"]
    assert [o.name for o in model.graph.output] == ["y", "out1", "out2", "r"]
    assert [node.op_type for node in model.graph.node].count("RandomNormal") == 2
    answer = run(model, x=[3, 4], default=[10, 10])
    assert [a.tolist() for a in answer[:3]] == [[14, 16], [1, 2], [1, 2]]


def test_branches_follow_a_merged_name():
    branches = {
        f"{word}_branch": helper.make_graph(
            [helper.make_node(op, ["x", name], [f"{word}_y"])],
            word,
            [],
            [helper.make_tensor_value_info(f"{word}_y", TensorProto.FLOAT, [2])],
        )
        for word, op, name in (("then", "Add", "a"), ("else", "Mul", "b"))
    }
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], **branches),
    ]
    initializers = [floats([1, 2], "a"), floats([1, 2], "b"), floats(0, "zero")]
    model = model_of(nodes, initializers, ["y"])
    assert merged(model, x=[3, 4]) is merged(model, x=[-3, -4])
    assert names_of(model) == ["a", "zero"]


# Files -------------------------------------------------------------------------------------------

DEPTH = 6


def albert(depth=DEPTH):
    sizes = {"hidden_size": 128, "intermediate_size": 512, "embedding_size": 32}
    model = tiny_model("albert", num_hidden_layers=depth, initializer_range=0.1, **sizes)
    for parameter in model.parameters():
        if parameter.ndim == 1:  # freshly made they are all alike
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return Product(model, pair_tokenizer())


def files_of(product, folder):
    plain = onnxruntime.export(product, folder / "onnx")
    return [
        plain,
        onnxruntime.quantize(folder / "onnx"),
        openvino.quantize(folder / "onnx", batches(2)),
    ]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return files_of(albert(), tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="module")
def expanded(tmp_path_factory):
    """The same quantised files as the quantisers leave them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "share", lambda model: 0)
        return files_of(albert(), tmp_path_factory.mktemp("expanded"))


def answers(runtime, file):
    predictor = runtime.predictor(file)
    return np.concatenate([predictor(batch) for batch in batches(5)])


def test_three_files_hold_one_copy_of_a_shared_layer(shared):
    numbers = sum(p.numel() for p in albert().model.parameters())
    for made, width in zip(shared, (4, 1, 1), strict=True):
        model = onnx.load(made.path)
        onnx.checker.check_model(made.path)
        sizes = [len(graph._content(t)) for t in model.graph.initializer]
        # Vectors stay fp32 and scales come with each channel; a second copy would be +80 %.
        assert (
            numbers * width * 0.97 < sum(sizes) < numbers * width * (1.01 if width == 4 else 1.12)
        )
        # Besides the weights there are only nodes and shapes, with the long names of modules.
        nodes = sum(n.ByteSize() + 8 for n in (*model.graph.node, *model.graph.value_info))
        assert size_of(made).size_mb < (1.01 * nodes + sum(sizes) + 15_000) / 1e6
        tables = [t for t in model.graph.initializer if "embeddings" in t.name and len(t.dims) == 2]
        outside = sum(sizes) - sum(len(graph._content(t)) for t in tables)
        assert outside * 0.98 <= encoder_bytes(made) <= outside


def test_depth_costs_nodes_but_no_weights(shared, tmp_path):
    for few, many in zip(files_of(albert(2), tmp_path), shared, strict=True):
        few, many = (graph.initializer_bytes(onnx.load(made.path))[0] for made in (few, many))
        # Scales of activations, one per place.
        assert few <= many < 1.01 * few


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("which", [1, 2], ids=["model_quantized", "model_int8"])
def test_merging_what_a_quantiser_copied_changes_no_bit(shared, expanded, runtime, which):
    ours, theirs = shared[which].path, expanded[which].path
    assert ours.name == theirs.name
    assert len(onnx.load(ours).graph.initializer) < len(onnx.load(theirs).graph.initializer)
    assert ours.stat().st_size < theirs.stat().st_size
    assert np.array_equal(answers(runtime, ours), answers(runtime, theirs))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_merging_what_the_exporter_copied_changes_no_bit(shared, runtime, tmp_path):
    model = onnx.load(shared[0].path)
    matrices = {t.name: t for t in model.graph.initializer if len(t.dims) == 2}
    copies = 0
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if node.op_type == "MatMul" and name in matrices:
                copies += 1
                model.graph.initializer.append(numpy_helper.from_array(
                    numpy_helper.to_array(matrices[name]), f"copy{copies}"))  # fmt: skip
                node.input[i] = f"copy{copies}"
    assert copies == 6 * DEPTH + 1
    onnx.save(model, tmp_path / "copies.onnx")
    weights = sum(4 * int(np.prod(t.dims)) for t in matrices.values() if t.dims[0] >= 128)
    assert share(model) > 4 * weights
    onnx.save(model, tmp_path / "shared.onnx")
    both = [answers(runtime, tmp_path / f"{name}.onnx") for name in ("copies", "shared")]
    assert np.array_equal(*both)


@pytest.mark.slow
def test_a_model_without_shared_layers_keeps_all_its_weights(tmp_path):
    made = files_of(wide_product(), tmp_path / "ours")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "share", lambda model: 0)
        plain = files_of(wide_product(), tmp_path / "plain")
    for ours, theirs in zip(made, plain, strict=True):
        kept, every = (
            {
                t.name: graph._content(t)
                for t in onnx.load(m.path).graph.initializer
                if len(t.dims) > 1
            }
            for m in (ours, theirs)
        )
        assert kept == every
        for runtime in RUNTIMES:
            assert np.array_equal(answers(runtime, ours.path), answers(runtime, theirs.path))


def test_bytes_of_a_table_include_its_scales(shared):
    model = onnx.load(shared[2].path)
    tables = [t for t in model.graph.initializer if "embeddings" in t.name and len(t.dims) == 2]
    rows = sum(t.dims[0] for t in tables)
    assert len(tables) == 3
    numbers = sum(int(np.prod(t.dims)) for t in tables)
    _, counted = graph.initializer_bytes(model)
    # One fp32 scale and one int8 zero point per row; equal ones are held once.
    assert numbers + 4 * rows <= counted <= numbers + 5 * rows
    assert encoder_bytes(Deployment("openvino", "int8", shared[2].path)) > 0
