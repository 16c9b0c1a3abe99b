"""Keeps padding out of the ranges that dynamic int8 takes of each activation.

Such a range is the smallest and the largest number of the whole tensor, padding included, so that
a text was answered otherwise padded than alone. Times the mask, padding is zero, which every range
holds anyway; attention leaves it out already, so that no real token sees the difference. What
remains is the company of other texts: a batch has one range for all its rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bertcompress.runtimes import require
from bertcompress.runtimes.onnx.graph import watched

__all__ = ["mask_ranges"]

MASK = "attention_mask"
COLUMN = f"{MASK}/column"
ROWS, CHOICES, TOKENS = 2, 3, 5
"""Of the input that shows which tensors have a place for each token."""


def mask_ranges(model: Any) -> int:
    """Multiply by the mask before each range that is taken over tokens, in place; return how many.

    Tensors of tokens have the shape (B, T, H), where choices count as rows of the batch. Pooled
    ones have no padding and stay as they are, and so does a graph without a mask.
    """
    graph = model.graph
    takers = [node for node in graph.node if node.op_type == "DynamicQuantizeLinear"]
    ranks = {port.name: len(port.type.tensor_type.shape.dim) for port in graph.input}
    if MASK not in ranks or not takers:
        return 0
    sizes = {2: (ROWS, TOKENS), 3: (ROWS, CHOICES, TOKENS)}
    # Every model has a first token type, not every one a second.
    example = {
        name: np.full(sizes[rank], int(name != "token_type_ids"), np.int64)
        for name, rank in ranks.items()
    }
    texts = example[MASK].size // TOKENS
    (seen,) = watched(model, sorted({node.input[0] for node in takers}), [example])
    found = [name for name, value in seen.items() if value.shape[:-1] == (texts, TOKENS)]
    for name in found:
        _mask(graph, name)
    if found:
        _column(graph)
    return len(found)


def _mask(graph: Any, name: str) -> None:
    """Let what takes the range of a tensor read it times the mask."""
    masked = f"{name}/masked"
    takers = [
        i for i, node in enumerate(graph.node)
        if node.op_type == "DynamicQuantizeLinear" and node.input[0] == name
    ]  # fmt: skip
    for i in takers:
        graph.node[i].input[0] = masked
    make = require("onnx", "onnx").helper.make_node
    graph.node.insert(takers[0], make("Mul", [name, COLUMN], [masked], name=masked))


def _column(graph: Any) -> None:
    """Write the mask as floats. Shape: (B, T, 1), (B * choices, T, 1)."""
    onnx = require("onnx", "onnx")
    make, constant = onnx.helper.make_node, onnx.numpy_helper.from_array
    floats, length, shape = (f"{MASK}/{part}" for part in ("float", "length", "shape"))
    ends = [f"{MASK}/rows", f"{MASK}/one"]
    for name, size in zip(ends, (-1, 1), strict=True):
        graph.initializer.append(constant(np.array([size], np.int64), name))
    nodes = [
        make("Cast", [MASK], [floats], name=floats, to=onnx.TensorProto.FLOAT),
        make("Shape", [MASK], [length], name=length, start=-1),
        make("Concat", [ends[0], length, ends[1]], [shape], name=shape, axis=0),
        make("Reshape", [floats, shape], [COLUMN], name=COLUMN),
    ]
    for node in reversed(nodes):
        graph.node.insert(0, node)
