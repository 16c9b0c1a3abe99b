"""Writes a model that is stored in few bits as one ONNX file of integers.

Weights are int8 initialisers behind DequantizeLinear, tables are looked up as integers, and inputs
pass QuantizeLinear and DequantizeLinear with the scale that training found. Runtimes fuse these
into integer products: ONNX Runtime and OpenVINO both. Measured at 128 tokens on an AMD EPYC with
VNNI (MiniLM-L6, batch 1 / 8): with inputs in uint8 ONNX Runtime takes 14 / 79 ms, in int8 28 / 109
(fp32: 24 / 148); OpenVINO takes 7 / 46 ms with either.

Each stored module is exported as a module of this file, which says itself what nodes it becomes.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from bertcompress.deployment import Product
from bertcompress.errors import ModelError
from bertcompress.runtimes import Q4_FILE, QUANTIZED_FILE
from bertcompress.runtimes.onnx.export import TOLERANCE, Integers, export_onnx
from bertcompress.runtimes.onnx.matmul_nbits import DOMAIN, blocks_of
from bertcompress.shapes import QuantizedEmbedding, QuantizedLinear
from bertcompress.shapes.lowbit import ACTIVATION_BITS, stored_modules
from bertcompress.shapes.parts import replace_modules
from bertcompress.shapes.weight_format import unpack

__all__ = ["export_qdq"]

ROUNDED = 0.2
"""Largest difference to torch allowed where inputs are rounded: one that lies between two integers
falls to either side. A wrong scale or axis makes ten times as much."""

_FLOAT = 1
"""ONNX' number for fp32."""


def export_qdq(product: Product, folder: Path) -> Path:
    """Write a file of integers with tokenizer and plain config, and return it.

    `model_quantized.onnx`, or `model_q4.onnx` where it holds weights in 4 bits. Where the weights
    of a row are grouped, products are MatMulNBits: 4 bits for 2 to 4, 8 for more. The file is run
    beside torch before it is returned. Raises ModelError for groups that this operator does not
    take, for weights that are no integers, and where the file answers other than torch.
    """
    linears = [m for _, m in stored_modules(product.model) if isinstance(m, QuantizedLinear)]
    halves = any(module.group > 0 and module.bits <= 4 for module in linears)
    rounds = any(module.input_scale is not None for module in linears)
    integers = Integers(
        _in_integers(product.model),
        Q4_FILE if halves else QUANTIZED_FILE,
        {DOMAIN: 1} if any(module.group > 0 for module in linears) else {},
        ROUNDED if rounds else TOLERANCE,
    )
    return export_onnx(product, folder, integers=integers)


def _in_integers(model: Any) -> Any:
    """Return a copy whose stored modules are exported as integers."""
    ours = copy.deepcopy(model).cpu()
    new: dict[int, nn.Module] = {}
    for name, module in stored_modules(ours):
        _check_kernels(name, module)
        if isinstance(module, QuantizedEmbedding):
            new[id(module)] = _Table(module)
        elif module.group > 0:
            new[id(module)] = _Blocks(module, name)
        else:
            new[id(module)] = _Linear(module)
    replace_modules(ours, new)
    return ours


def _check_kernels(name: str, module: QuantizedLinear | QuantizedEmbedding) -> None:
    """Raise ModelError for what no operator of ONNX computes in integers."""
    if not module.format.even:
        what = "a table of levels" if module.format.levels else "a sum of binary matrices"
        raise ModelError(f"{name}: its weights are {what}; an ONNX file holds scaled integers only")
    bits = getattr(module, "activation_bits", None)
    if bits not in (None, ACTIVATION_BITS):
        raise ModelError(f"{name}: rounds its input to {bits} bits; an ONNX file can to 8 only")


class _Linear(nn.Module):
    """A linear as a product of integers."""

    def __init__(self, module: QuantizedLinear) -> None:
        super().__init__()
        whole = unpack(module.qweight, module.bits, module.in_features)
        self.whole = _fixed(whole.T.contiguous())
        scale = module.weight_scale.detach().float()
        self.scale = _fixed(scale.reshape(-1) if scale.numel() > 1 else scale.reshape(()))
        self.zero = _fixed(torch.zeros_like(self.scale, dtype=torch.int8))
        self.bias = module.bias
        self.input_scale = module.input_scale
        # The same numbers 128 higher: on x86 ONNX Runtime has integer products for unsigned only.
        self.input_zero = _fixed(torch.tensor(128, dtype=torch.uint8))

    def forward(self, features: Tensor) -> Tensor:
        """Apply it. Shape: (..., in) -> (..., out)."""
        if self.input_scale is not None:
            features = _Round.apply(  # type: ignore[no-untyped-call]
                features, self.input_scale, self.input_zero
            )
        weight = _Scaled.apply(self.whole, self.scale, self.zero)  # type: ignore[no-untyped-call]
        product: Tensor = features @ weight
        return product if self.bias is None else product + self.bias


class _Blocks(nn.Module):
    """A linear as MatMulNBits."""

    def __init__(self, module: QuantizedLinear, name: str) -> None:
        super().__init__()
        blocks, self.bits = blocks_of(module, name)
        self.blocks = _fixed(torch.from_numpy(blocks))
        self.scales = _fixed(module.weight_scale.detach().float().flatten())
        self.weight, self.group = _fixed(module.weight), module.group
        self.bias = module.bias

    def forward(self, features: Tensor) -> Tensor:
        """Apply it. Shape: (..., in) -> (..., out)."""
        product: Tensor = _ProductOfBlocks.apply(  # type: ignore[no-untyped-call]
            features, self.blocks, self.scales, self.weight, self.bits, self.group
        )
        return product if self.bias is None else product + self.bias


class _Table(nn.Module):
    """A table whose rows are looked up as integers; only what is looked up is scaled."""

    def __init__(self, module: QuantizedEmbedding) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = module.num_embeddings, module.embedding_dim
        self.padding_idx = module.padding_idx
        self.whole = _fixed(unpack(module.qweight, module.bits, module.embedding_dim))
        scale = module.weight_scale.detach().float()
        self.scale = _fixed(scale if scale.numel() > 1 else scale.reshape(()))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Look up. Shape: (B, T) -> (B, T, E)."""
        rows: Tensor = _Rows.apply(self.whole, input_ids)  # type: ignore[no-untyped-call]
        scale = self.scale if self.scale.dim() == 0 else self.scale[input_ids]
        return rows * scale


class _Round(Function):
    """int8 of an activation and back."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """Round to the nearest of 255 values. Shape: any."""
        return torch.round(features / scale).clamp(-127, 127) * scale

    @staticmethod
    def symbolic(g: Any, features: Any, scale: Any, zero: Any) -> Any:
        """Return QuantizeLinear and DequantizeLinear."""
        whole = g.op("QuantizeLinear", features, scale, zero)
        return g.op("DequantizeLinear", whole, scale, zero).setType(features.type())


class _Scaled(Function):
    """A matrix from integers; each column has its own scale, or all have one."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """Multiply. Shape: (rows, columns), () or (columns,) twice -> (rows, columns)."""
        return whole.float() * scale

    @staticmethod
    def symbolic(g: Any, whole: Any, scale: Any, zero: Any) -> Any:
        """Return DequantizeLinear."""
        columns = {"axis_i": 1} if scale.type().dim() else {}
        result = g.op("DequantizeLinear", whole, scale, zero, **columns)
        return result.setType(scale.type().with_sizes(whole.type().sizes()))


class _Rows(Function):
    """Rows of a table of integers, as floats."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, input_ids: Tensor) -> Tensor:
        """Look up. Shape: (V, E), (B, T) -> (B, T, E)."""
        return whole[input_ids].float()

    @staticmethod
    def symbolic(g: Any, whole: Any, input_ids: Any) -> Any:
        """Return Gather and Cast."""
        return g.op("Cast", g.op("Gather", whole, input_ids, axis_i=0), to_i=_FLOAT)


class _ProductOfBlocks(Function):
    """A product with weights in blocks; in torch with the floats that they stand for."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        blocks: Tensor,
        scales: Tensor,
        weight: Tensor,
        bits: int,
        group: int,
    ) -> Tensor:
        """Multiply. Shape: (..., in) -> (..., out)."""
        return features @ weight.T

    @staticmethod
    def symbolic(
        g: Any, features: Any, blocks: Any, scales: Any, weight: Any, bits: int, group: int
    ) -> Any:
        """Return MatMulNBits."""
        out, inner = weight.type().sizes()
        result = g.op(
            f"{DOMAIN}::MatMulNBits",
            features,
            blocks,
            scales,
            K_i=inner,
            N_i=out,
            bits_i=bits,
            block_size_i=group,
        )
        free = [None] * (features.type().dim() - 1)
        return result.setType(features.type().with_sizes([*free, out]))


def _fixed(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
