"""Edits and counts on an ONNX graph: each tensor once, what is an embedding table, bytes.

`share` was tried with the passes of onnx_ir 1.1 instead (lifted constants, identities, hashed
initialisers, common subexpressions): they also drop what nobody shares, and an int8 file of shared
layers came out no smaller than the one with copies, so it stays; `merged` is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertcompress.errors import ModelError
from bertcompress.runtimes import require

__all__ = [
    "check_size",
    "initializer_bytes",
    "merged",
    "share",
    "share_transposed",
    "unshare_transposed",
    "uses",
    "watched",
]

_FORMS = {
    *("Cast", "Constant", "DequantizeLinear", "Identity", "MatMul", "QuantizeLinear"),
    *("Reshape", "Squeeze", "Transpose", "Unsqueeze"),
}
"""How an exporter or a quantiser derives one constant from others."""


_LARGEST = 2**31 - 2**24
"""Bytes of the weights in one file: protobuf holds 2 GiB, with the graph and its names."""


def check_size(model: Any) -> None:
    """Raise ModelError for a torch model whose weights in fp32 are more than one file holds."""
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    if size > _LARGEST:
        raise ModelError(
            f"{type(model).__name__} has {size / 1e9:.1f} GB in fp32, and one ONNX file holds "
            f"{_LARGEST / 1e9:.1f} GB: cut it before, or trim its vocabulary"
        )


def share(model: Any) -> int:
    """Keep one of each set of identical constants, in place; return how many bytes went.

    Constants are initialisers, Constant nodes, and other forms computed from these alone, as by
    DequantizeLinear: a weight that several layers use, or that a quantiser copied for each of its
    uses, is held once. Identical means equal type, shape and bytes, so that answers stay the same
    bit for bit. Inputs and outputs of the graph stay as they are.
    """
    graph = model.graph
    before = graph.ByteSize()
    outside, results = ({end.name for end in ends} for ends in (graph.input, graph.output))
    first: dict[Any, tuple[str, ...]] = {}
    kept: dict[str, str] = {}
    for tensor in graph.initializer:
        name = tensor.name
        if name not in outside:  # else a caller may replace it
            kept[name] = name if name in results else first.setdefault(_value(tensor), (name,))[0]
    for node in graph.node:  # sources come first in a valid graph
        if node.op_type in _FORMS and kept.keys() >= {*node.input} - {""}:
            fixed = not results.isdisjoint(node.output)
            same = node.output if fixed else _same(node, kept, first)
            kept.update(zip(node.output, same, strict=True))
    renamed = {name: other for name, other in kept.items() if name != other}
    _rename_inputs(graph, renamed)
    for items in (graph.initializer, graph.value_info):
        _drop(items, lambda item: item.name in renamed)
    _drop(graph.node, lambda node: not renamed.keys().isdisjoint(node.output))
    return int(before - graph.ByteSize())


def merged(model: Any) -> Any:
    """Return a model in which nodes that compute the same from the same are one."""
    ir = require("onnx_ir", "onnx")
    passes = require("onnx_ir.passes.common", "onnx")
    found = ir.from_proto(model)
    passes.CommonSubexpressionEliminationPass()(found)
    passes.RemoveUnusedNodesPass()(found)
    return ir.to_proto(found)


def share_transposed(model: Any) -> int:
    """Let a matrix that is another one's transpose be computed from it, in place; return how many.

    A tied language-model head is the transposed word table; runtimes fold the node on loading.
    """
    onnx = require("onnx", "onnx")
    graph = model.graph
    arrays = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if len(tensor.dims) == 2
    }
    tables = [name for name in arrays if name in _tables(graph)]
    found = {
        name: table
        for name, array in arrays.items()
        for table in tables
        if name not in tables
        and array.shape == arrays[table].shape[::-1]
        and np.array_equal(array, arrays[table].T)
    }
    nodes = [
        onnx.helper.make_node("Transpose", [table], [name], name=f"{name}/Transpose", perm=[1, 0])
        for name, table in found.items()
    ]
    _drop(graph.initializer, lambda tensor: tensor.name in found)
    for node in reversed(nodes):
        graph.node.insert(0, node)
    return len(nodes)


def unshare_transposed(model: Any) -> int:
    """Undo `share_transposed` in place, since quantisers skip a weight that is computed."""
    onnx = require("onnx", "onnx")
    graph = model.graph
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    nodes = [n for n in graph.node if n.op_type == "Transpose" and n.input[0] in arrays]
    for node in nodes:
        array = onnx.numpy_helper.to_array(arrays[node.input[0]])
        perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
        turned = np.ascontiguousarray(array.transpose(perm))
        graph.initializer.append(onnx.numpy_helper.from_array(turned, node.output[0]))
        graph.node.remove(node)
    return len(nodes)


def uses(
    graph: Any, weight: NDArray[np.float32], kinds: Sequence[str] = ("MatMul", "Gemm", "Gather")
) -> Iterator[tuple[Any, str, bool]]:
    """Yield the nodes that use a matrix, its name there, and whether it is held turned.

    Exporters rename weights, so it is found by its values. Shape: (rows, columns).
    """
    to_array = require("onnx", "onnx").numpy_helper.to_array
    held = {
        t.name: to_array(t) for t in graph.initializer if sorted(t.dims) == sorted(weight.shape)
    }
    for node in list(graph.node):
        name = node.input[0 if node.op_type == "Gather" else 1] if len(node.input) > 1 else ""
        if node.op_type not in kinds or name not in held:
            continue
        if np.array_equal(held[name], weight):
            # A square matrix that equals itself turned is either way the same.
            yield node, name, False
        elif np.array_equal(held[name], weight.T):
            yield node, name, True


def watched(
    model: Any, names: Sequence[str], rows: Sequence[Mapping[str, NDArray[np.int64]]]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield what the named tensors inside a graph are for each of the inputs."""
    onnx, ort = require("onnx", "onnx"), require("onnxruntime", "onnx")
    opened = type(model)()
    opened.CopyFrom(model)
    del opened.graph.output[:]
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        opened.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    for row in rows:
        yield dict(zip(names, session.run(list(names), dict(row)), strict=True))


def initializer_bytes(model: Any) -> tuple[int, int]:
    """Return bytes of all initialisers and, of these, of embedding tables (read by Gather).

    The scales and zero points of a quantised table count with it: NNCF has one for each row.
    """
    tables = _tables(model.graph)
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in tables:
            tables |= {*node.input}
    sizes = {tensor.name: len(_content(tensor)) for tensor in model.graph.initializer}
    return sum(sizes.values()), sum(size for name, size in sizes.items() if name in tables)


def _tables(graph: Any) -> set[str]:
    """Names of matrices whose rows Gather looks up, straight or through dequantisation."""
    behind = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type in {"DequantizeLinear", "QuantizeLinear", "Identity", "Cast"}
    }
    matrices = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    tables = set()
    for node in graph.node:
        if node.op_type == "Gather":
            name = node.input[0]
            while name in behind:
                name = behind[name]
            if name in matrices:
                tables.add(name)
    return tables


def _value(tensor: Any) -> Any:
    """What makes two tensors the same; strings are never, since they are not held as bytes."""
    if tensor.data_type == tensor.STRING:
        return tensor.name
    return tensor.data_type, tuple(tensor.dims), _content(tensor)


def _same(node: Any, kept: Mapping[str, str], first: dict[Any, tuple[str, ...]]) -> tuple[str, ...]:
    """Names of the constants that are what the node computes; its own where it is the first."""
    inputs = tuple(kept.get(name, "") for name in node.input)
    if node.op_type == "Identity":
        return inputs
    if node.op_type == "Constant" and node.attribute[0].name == "value":
        key = _value(node.attribute[0].t)
    else:
        attributes = sorted(a.SerializeToString(deterministic=True) for a in node.attribute)
        key = (node.op_type, node.domain, inputs, tuple(attributes), len(node.output))
    return first.setdefault(key, tuple(node.output))


def _content(tensor: Any) -> bytes:
    if tensor.HasField("raw_data"):
        return bytes(tensor.raw_data)
    return bytes(require("onnx", "onnx").numpy_helper.to_array(tensor).tobytes())


def _rename_inputs(graph: Any, renamed: Mapping[str, str]) -> None:
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in renamed:
                node.input[i] = renamed[name]
        for attribute in node.attribute:  # branches and loops see the names around them
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                _rename_inputs(inner, renamed)


def _drop(items: Any, unwanted: Callable[[Any], bool]) -> None:
    for i in reversed(range(len(items))):
        if unwanted(items[i]):
            del items[i]
