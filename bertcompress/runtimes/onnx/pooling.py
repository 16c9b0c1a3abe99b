"""Puts pooling and normalising into an ONNX file of an encoder: tokens in, a vector a text out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bertcompress.errors import ModelError
from bertcompress.heads.padding import outputs_of_features
from bertcompress.heads.pooling import Pooling
from bertcompress.runtimes import require

__all__ = ["VECTOR", "pool_file"]

VECTOR = "sentence_embedding"
"""Name of the output, as optimum and sentence-transformers call it."""
_STATES, _MASK = "last_hidden_state", "attention_mask"
_TOLERANCE = 1e-4


def pool_file(file: Path, pooling: Pooling) -> None:
    """Let an ONNX file, in place, answer with vectors instead of hidden states; of any precision.

    The nodes come behind the file's own, which stay as they are. The file is run with and without
    them before it is replaced. Raises ModelError for a file without hidden states, or where it
    answers otherwise.
    """
    onnx = require("onnx", "onnx")
    proto = onnx.load(file)
    if [port.name for port in proto.graph.output] != [_STATES]:
        names = ", ".join(port.name for port in proto.graph.output)
        raise ModelError(f"{file}: answers with {names}; only {_STATES} can be pooled")
    expected = _answers(proto, file)
    _Writer(onnx, proto.graph).pool(pooling)
    _check(file, expected, _answers(proto, file), pooling)
    onnx.save(proto, file)


class _Writer:
    """Appends nodes to a graph, each the input of the next."""

    def __init__(self, onnx: Any, graph: Any) -> None:
        self.onnx, self.graph, self.count = onnx, graph, 0

    def add(self, kind: str, *inputs: Any, name: str | None = None, **attributes: Any) -> str:
        """Add a node, and return the name of its output; numbers become constants."""
        self.count += 1
        names = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        output = name or f"pooling/{self.count}"
        node = self.onnx.helper.make_node(
            kind, names, [output], name=f"/pooling/{self.count}", **attributes
        )
        self.graph.node.append(node)
        return output

    def constant(self, value: Any) -> str:
        """Add an initializer and return its name."""
        self.count += 1
        name = f"pooling/constant_{self.count}"
        tensor = self.onnx.numpy_helper.from_array(np.asarray(value), name)
        self.graph.initializer.append(tensor)
        return name

    def pool(self, pooling: Pooling) -> None:
        """Replace the output of the graph, in place, by the vector. Shape: (B, T, H) -> (B, D)."""
        one, last = np.array([1], np.int64), np.array([-1], np.int64)
        number = self.onnx.TensorProto.FLOAT
        if pooling.mode == "cls":
            first = self.add("ArgMax", _MASK, axis=1, keepdims=1)
            found = self.add("GatherND", _STATES, first, batch_dims=1)
        else:
            mask = self.add("Unsqueeze", self.add("Cast", _MASK, to=number), last)
            if pooling.mode == "mean":
                total = self.add("ReduceSum", self.add("Mul", _STATES, mask), one, keepdims=0)
                count = self.add("ReduceSum", mask, one, keepdims=0)
                found = self.add("Div", total, self.add("Max", count, np.float32(1e-9)))
            else:
                padding = self.add("Mul", self.add("Sub", mask, np.float32(1)), np.float32(1e9))
                found = self.add("ReduceMax", self.add("Add", _STATES, padding), one, keepdims=0)
        if pooling.normalize:
            length = self.add("ReduceL2", found, last, keepdims=1)
            found = self.add("Div", found, self.add("Max", length, np.float32(1e-12)))
        end = np.array([pooling.dimensions or np.iinfo(np.int64).max], np.int64)
        self.add("Slice", found, np.array([0], np.int64), end, last, name=VECTOR)
        del self.graph.output[:]
        port = self.onnx.helper.make_tensor_value_info(VECTOR, number, ["batch", "dimensions"])
        self.graph.output.append(port)


def _example(proto: Any) -> dict[str, Any]:
    """Return three texts of different lengths, for the inputs of a graph."""
    ids = np.random.default_rng(0).integers(1, 5, (3, 12))
    mask = (np.arange(12) < np.array([[12], [5], [1]])).astype(np.int64)
    every = {"input_ids": ids * mask, _MASK: mask, "token_type_ids": np.zeros_like(ids)}
    return {port.name: every[port.name] for port in proto.graph.input}


def _answers(proto: Any, file: Path) -> Any:
    ort = require("onnxruntime", "onnx")
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    try:
        return session.run(None, _example(proto))[0]
    except Exception as error:  # ONNX Runtime has one private class per cause
        raise ModelError(f"{file}: does not run: {error}") from error


def _check(file: Path, states: Any, found: Any, pooling: Pooling) -> None:
    mask = (np.arange(12) < np.array([[12], [5], [1]])).astype(np.int64)
    wanted = np.stack([pooling.vector(each) for each in outputs_of_features(states, mask)])
    off = float(np.abs(found - wanted).max()) if found.shape == wanted.shape else np.inf
    if not off <= _TOLERANCE * max(1.0, float(np.abs(wanted).max())):
        raise ModelError(f"{file}: pooled inside the graph, vectors are off by {off:.1e}")
