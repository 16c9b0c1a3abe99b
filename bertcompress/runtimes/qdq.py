"""Writes a model that is stored in few bits as one ONNX file of integers.

Weights are int8 initialisers behind DequantizeLinear, tables are looked up as integers, and inputs
pass QuantizeLinear and DequantizeLinear with the scale that training found. Runtimes fuse these
into integer products: ONNX Runtime and OpenVINO both. Measured at 128 tokens on an AMD EPYC with
VNNI (MiniLM-L6, batch 1 / 8): with inputs in uint8 ONNX Runtime takes 14 / 79 ms, in int8 28 / 109
(fp32: 24 / 148); OpenVINO takes 7 / 46 ms with either.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from bertcompress.artefact import Product
from bertcompress.errors import ModelError
from bertcompress.runtimes import Q4_FILE, QUANTIZED_FILE, require
from bertcompress.runtimes.graph import share, uses
from bertcompress.runtimes.nbits import in_blocks
from bertcompress.runtimes.onnx import export_onnx
from bertcompress.shapes import QuantizedEmbedding, QuantizedLinear
from bertcompress.shapes.lowbit import stored_modules, unpack
from bertcompress.shapes.parts import replace_modules

__all__ = ["export_qdq"]


def export_qdq(product: Product, folder: Path) -> Path:
    """Write a file of integers with tokenizer and plain config, and return it.

    `model_quantized.onnx`, or `model_q4.onnx` where it holds weights in 4 bits. The graph without
    rounding is written first and checked against torch; then its weights become integers. Where the
    weights of a row are grouped, products are MatMulNBits: 4 bits for 2 to 4, 8 for more. Raises
    ModelError for groups that this does not take, for linears that round one input differently, and
    where a weight is not found in a graph that uses it.
    """
    onnx = require("onnx", "onnx")
    model, weights = _in_floats(product.model)
    plain = export_onnx(replace(product, model=model), folder)
    proto = onnx.load(plain)
    plain.unlink()
    missing = []
    for name, module in stored_modules(product.model):
        if isinstance(module, QuantizedEmbedding):
            done = _table(proto, module, weights[name])
        elif module.group > 0:
            done = in_blocks(proto, module, weights[name], name)
        else:
            done = _product(proto, module, weights[name])
        if not done:
            missing.append(name)
    _drop_unused(proto.graph)
    # A module that no output depends on, as the pooler of a bare model, is not in the graph.
    left = _float_shapes(proto.graph)
    for name in missing:
        if tuple(sorted(weights[name].shape)) in left:
            raise ModelError(f"{name}: its weight is not in the exported graph")
    share(proto)
    onnx.checker.check_model(proto)
    halves = any(
        isinstance(module, QuantizedLinear) and module.group > 0 and module.bits <= 4
        for _, module in stored_modules(product.model)
    )
    file = folder / (Q4_FILE if halves else QUANTIZED_FILE)
    onnx.save(proto, file)
    return file


def _in_floats(model: Any) -> tuple[Any, dict[str, NDArray[np.float32]]]:
    """Return a copy with plain linears and tables, that rounds no input, and their weights by name.

    Weights are found in the graph by their values, so that two modules with the same ones get
    different ones here: they only mark the place where the integers go.
    """
    ours = copy.deepcopy(model).float().cpu()
    new: dict[int, nn.Module] = {}
    weights: dict[str, NDArray[np.float32]] = {}
    seen: Counter[bytes] = Counter()
    for name, module in stored_modules(ours):
        values = module.weight.detach()
        content = values.numpy().tobytes()
        weight = nn.Parameter(values + seen[content] / 1024)
        seen[content] += 1
        weights[name] = weight.detach().numpy()
        if isinstance(module, QuantizedLinear):
            linear = nn.Linear(module.in_features, module.out_features, device="meta")
            linear.weight, linear.bias = weight, module.bias
            new[id(module)] = linear
        else:
            table = nn.Embedding(module.num_embeddings, module.embedding_dim, device="meta")
            table.weight, table.padding_idx = weight, module.padding_idx
            new[id(module)] = table
    replace_modules(ours, new)
    return ours, weights


def _float_shapes(graph: Any) -> set[tuple[int, ...]]:
    """Return the sorted shapes of the float matrices that products and lookups still read."""
    onnx = require("onnx", "onnx")
    read = {
        name for node in graph.node if node.op_type in ("MatMul", "Gemm", "Gather")
        for name in node.input
    }  # fmt: skip
    floats = onnx.TensorProto.FLOAT
    return {
        tuple(sorted(tensor.dims))
        for tensor in graph.initializer
        if tensor.name in read and tensor.data_type == floats and len(tensor.dims) == 2
    }


def _product(proto: Any, module: QuantizedLinear, weight: NDArray[np.float32]) -> bool:
    """Make every product with this weight one of the module's integers, in place."""
    graph = proto.graph
    found = list(uses(graph, weight, ("MatMul", "Gemm")))
    whole = unpack(module.qweight, module.bits, module.in_features).cpu().numpy()
    scale = module.weight_scale.detach().cpu().numpy()
    for node, name, turned in found:
        axis = 1 if turned else 0
        node.input[1] = _dequantized(graph, name, whole.T if turned else whole, scale, axis)
        if module.input_scale is not None:
            node.input[0] = _rounded(graph, node.input[0], float(module.input_scale.detach()))
    return bool(found)


def _table(proto: Any, module: QuantizedEmbedding, weight: NDArray[np.float32]) -> bool:
    """Look the rows of this weight up as the module's integers, scaled after it, in place."""
    graph = proto.graph
    onnx = require("onnx", "onnx")
    found = list(uses(graph, weight, ("Gather",)))
    whole = unpack(module.qweight, module.bits, module.embedding_dim).cpu().numpy()
    scale = module.weight_scale.detach().cpu().numpy()
    for node, name, _ in found:
        node.input[0] = _constant(graph, f"{name}/int8", whole)
        result = node.output[0]
        node.output[0] = looked_up = f"{result}/int8"
        if scale.size > 1:
            # Only what is looked up: DequantizeLinear would scale the whole table for each text.
            rows = _constant(graph, f"{name}/scale", scale.reshape(-1, 1).astype(np.float32))
            steps = [
                ("Gather", [rows, node.input[1]], f"{result}/scale", {"axis": 0}),
                ("Cast", [looked_up], f"{result}/float", {"to": onnx.TensorProto.FLOAT}),
                ("Mul", [f"{result}/float", f"{result}/scale"], result, {}),
            ]
        else:
            scales = _constant(graph, f"{name}/scale", scale.reshape(()))
            zero = _constant(graph, f"{name}/zero", np.int8(0))
            steps = [("DequantizeLinear", [looked_up, scales, zero], result, {})]
        for op, inputs, output, options in reversed(steps):
            made = onnx.helper.make_node(op, inputs, [output], name=f"{output}/{op}", **options)
            _after(graph, node, made)
    return bool(found)


def _dequantized(
    graph: Any, name: str, whole: NDArray[np.int8], scale: NDArray[np.float32], axis: int
) -> str:
    """Return the name of a matrix that is scaled from integers; `axis` has one scale each."""
    result = f"{name}/dequantized"
    if any(result in node.output for node in graph.node):
        return result
    onnx = require("onnx", "onnx")
    each = scale.size > 1
    inputs = [
        _constant(graph, f"{name}/int8", np.ascontiguousarray(whole)),
        _constant(graph, f"{name}/scale", scale.reshape(-1) if each else scale.reshape(())),
        _constant(graph, f"{name}/zero", np.zeros(scale.size if each else (), np.int8)),
    ]
    options = {"axis": axis} if each else {}
    node = onnx.helper.make_node("DequantizeLinear", inputs, [result], name=result, **options)
    graph.node.insert(0, node)
    return result


def _rounded(graph: Any, name: str, scale: float) -> str:
    """Return the name of an activation that went through int8; products with one input share it."""
    result = f"{name}/rounded"
    onnx = require("onnx", "onnx")
    if any(result in node.output for node in graph.node):
        (held,) = [t for t in graph.initializer if t.name == f"{name}/rounded/scale"]
        if float(onnx.numpy_helper.to_array(held)) != np.float32(scale):
            raise ModelError(f"{name}: read by linears that round it with different scales")
        return result
    scales = _constant(graph, f"{name}/rounded/scale", np.float32(scale))
    # The same numbers 128 higher: on x86 ONNX Runtime has integer products for unsigned ones only.
    zero = _constant(graph, f"{name}/rounded/zero", np.uint8(128))
    whole = f"{name}/rounded/int8"
    first = next(i for i, node in enumerate(graph.node) if name in node.input)
    pair = [
        onnx.helper.make_node("QuantizeLinear", [name, scales, zero], [whole], name=whole),
        onnx.helper.make_node("DequantizeLinear", [whole, scales, zero], [result], name=result),
    ]
    for node in reversed(pair):
        graph.node.insert(first, node)
    return result


def _constant(graph: Any, name: str, value: Any) -> str:
    if all(tensor.name != name for tensor in graph.initializer):
        onnx = require("onnx", "onnx")
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return name


def _after(graph: Any, node: Any, new: Any) -> None:
    position = next(i for i, each in enumerate(graph.node) if each is node or each == node)
    graph.node.insert(position + 1, new)


def _drop_unused(graph: Any) -> None:
    """Drop initialisers that nothing reads any more, in place."""
    read = {name for node in graph.node for name in node.input}
    for tensor in [t for t in graph.initializer if t.name not in read]:
        graph.initializer.remove(tensor)
