"""Edits and counts on an ONNX graph: each tensor once, what is an embedding table, bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from bertcompress.runtimes import require

__all__ = ["initializer_bytes", "share", "share_transposed", "unshare_transposed"]


def share(model: Any) -> int:
    """Keep one of each set of identical initialisers, in place; return how many went.

    Initialisers that are only another's name (Identity) count as the same one.
    """
    graph = model.graph
    _skip_identities(graph)
    first: dict[Any, str] = {}
    renamed: dict[str, str] = {}
    for tensor in graph.initializer:
        key = (tensor.data_type, tuple(tensor.dims), _content(tensor))
        kept = first.setdefault(key, tensor.name)
        if kept != tensor.name:
            renamed[tensor.name] = kept
    outputs = {output.name for output in graph.output}
    renamed = {name: kept for name, kept in renamed.items() if name not in outputs}
    _rename_inputs(graph, renamed)
    _drop_initializers(graph, set(renamed))
    return len(renamed)


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
    _drop_initializers(graph, set(found))
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


def initializer_bytes(model: Any) -> tuple[int, int]:
    """Return bytes of all initialisers and, of these, of embedding tables (read by Gather)."""
    tables = _tables(model.graph)
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


def _skip_identities(graph: Any) -> None:
    """Drop nodes that hand an initialiser on unchanged: NNCF does not look through them."""
    initializers = {tensor.name for tensor in graph.initializer}
    outputs = {output.name for output in graph.output}
    dropped = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Identity"
        and node.input[0] in initializers
        and node.output[0] not in outputs
    }
    kept = [node for node in graph.node if node.output[0] not in dropped]
    del graph.node[:]
    graph.node.extend(kept)
    _rename_inputs(graph, dropped)


def _content(tensor: Any) -> bytes:
    if tensor.HasField("raw_data"):
        return bytes(tensor.raw_data)
    return bytes(require("onnx", "onnx").numpy_helper.to_array(tensor).tobytes())


def _rename_inputs(graph: Any, renamed: dict[str, str]) -> None:
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in renamed:
                node.input[i] = renamed[name]


def _drop_initializers(graph: Any, names: set[str]) -> None:
    kept = [tensor for tensor in graph.initializer if tensor.name not in names]
    del graph.initializer[:]
    graph.initializer.extend(kept)
