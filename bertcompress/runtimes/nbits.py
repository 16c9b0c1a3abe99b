"""Products with weights in 4 or 8 bits and a scale for each block: ONNX Runtime's MatMulNBits.

Inputs stay in floats, so that what it saves is memory: for one text at a time that is often speed
too, for many it is not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertcompress.errors import ModelError
from bertcompress.runtimes import require
from bertcompress.runtimes.graph import uses
from bertcompress.shapes import QuantizedLinear
from bertcompress.shapes.lowbit import unpack

__all__ = ["blocks", "in_blocks"]

DOMAIN = "com.microsoft"


def blocks(whole: NDArray[np.int8], bits: int, group: int) -> NDArray[np.uint8]:
    """Return a matrix as MatMulNBits holds it: blocks of a row, the first value in the low bits.

    Integers are moved up by half the range, which is the zero point that is meant without one.
    Shape: (rows, columns) -> (rows, blocks, bytes).
    """
    rows, columns = whole.shape
    moved = whole.astype(np.int16) + 2 ** (bits - 1)
    padded = np.pad(moved, ((0, 0), (0, -columns % group)), constant_values=2 ** (bits - 1))
    shaped = padded.reshape(rows, -1, group).astype(np.uint8)
    if bits == 8:
        return shaped
    return np.asarray(shaped[..., ::2] | shaped[..., 1::2] << 4, np.uint8)


def in_blocks(proto: Any, module: QuantizedLinear, weight: NDArray[np.float32], name: str) -> bool:
    """Make every product with this weight one of the module's blocks, in place; False without any.

    Raises ModelError for bits and groups that the operator does not have.
    """
    bits = 4 if module.bits <= 4 else 8
    if module.group < 16 or module.group & (module.group - 1):
        raise ModelError(
            f"{name}: groups of {module.group}; ONNX Runtime has powers of two from 16 up"
        )
    onnx = require("onnx", "onnx")
    graph = proto.graph
    found = list(uses(graph, weight, ("MatMul", "Gemm")))
    if not found:
        return False
    whole = unpack(module.qweight, module.bits, module.in_features).cpu().numpy()
    scale = module.weight_scale.detach().cpu().numpy().astype(np.float32)
    prefix = found[0][1]
    held = {
        f"{prefix}/blocks": blocks(whole, bits, module.group),
        f"{prefix}/scales": scale.ravel(),
    }
    for key, value in held.items():
        graph.initializer.append(onnx.numpy_helper.from_array(value, key))
    for node, _, _ in found:
        position = next(i for i, each in enumerate(graph.node) if each == node)
        bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else None
        result = node.output[0]
        product = result if bias is None else f"{result}/product"
        new = [
            onnx.helper.make_node(
                "MatMulNBits",
                [node.input[0], *held],
                [product],
                name=f"{node.name}/blocks",
                domain=DOMAIN,
                K=module.in_features,
                N=module.out_features,
                bits=bits,
                block_size=module.group,
            )
        ]
        if bias is not None:
            new.append(
                onnx.helper.make_node("Add", [product, bias], [result], name=f"{result}/add")
            )
        graph.node.remove(node)
        for each in reversed(new):
            graph.node.insert(position, each)
    if all(opset.domain != DOMAIN for opset in proto.opset_import):
        proto.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    return True
