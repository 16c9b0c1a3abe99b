"""How MatMulNBits, an operator of ONNX Runtime, holds weights in 4 or 8 bits with scales per block.

Inputs stay in floats, so that what it saves is memory: for one text at a time that is often speed
too, for many it is not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bertcompress.errors import ModelError
from bertcompress.shapes import QuantizedLinear
from bertcompress.shapes.weight_format import unpack

__all__ = ["DOMAIN", "blocks", "blocks_of"]

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


def blocks_of(module: QuantizedLinear, name: str) -> tuple[NDArray[np.uint8], int]:
    """Return a linear's blocks and the bits of the operator: 4 for weights of 2 to 4, 8 for more.

    Raises ModelError for groups that the operator does not have.
    """
    if module.group < 16 or module.group & (module.group - 1):
        raise ModelError(
            f"{name}: groups of {module.group}; ONNX Runtime has powers of two from 16 up"
        )
    bits = 4 if module.bits <= 4 else 8
    whole = unpack(module.qweight, module.bits, module.in_features).cpu().numpy()
    return blocks(whole, bits, module.group), bits
