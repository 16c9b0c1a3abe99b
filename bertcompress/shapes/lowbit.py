"""The edit that stores weights in few bits: int8, or packed 4 and 2 bits, with fp32 scales.

What is stored is computed with: a module looks its integers up, scales them, and rounds its input
to 8 bits where it has a range for it. That is what integer kernels compute, in fp32 arithmetic and
so at fp32 speed; the ONNX file made from it runs in integers. Weights are symmetric: no zero point.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from bertcompress.shapes.families.anatomy import Anatomy
from bertcompress.shapes.families.views import ShapeError
from bertcompress.shapes.parts import replace_modules

__all__ = [
    "LowBit",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "dequantize",
    "largest",
    "pack",
    "quantize",
    "stored_modules",
    "unpack",
]

ACTIVATION_MOST = 127


def largest(bits: int) -> int:
    """Return the largest magnitude of a weight: 127 in 8 bits, 7 in 4; -128 is not used.

    >>> [largest(bits) for bits in (2, 4, 8)]
    [1, 7, 127]
    """
    return int(2 ** (bits - 1)) - 1


def table_group(group: int) -> int:
    """Return how the rows of a table are grouped where linears are grouped so."""
    return -1 if group > 0 else group


def scale_shape(rows: int, columns: int, group: int) -> tuple[int, int]:
    """Return the shape of a matrix' scales: `group` as in `LowBit`."""
    if group == 0:
        return 1, 1
    return rows, 1 if group < 0 else -(-columns // group)


def quantize(weight: Tensor, bits: int, group: int = 0) -> tuple[Tensor, Tensor]:
    """Return a matrix as integers and the scales that they are multiplied with.

    Each scale is the largest magnitude of its group over the largest integer. Shape: (rows,
    columns) -> int8 (rows, columns), scales as `scale_shape` says.
    """
    values = weight.detach().float()
    scale = scales_of(values, bits, group)
    whole = torch.round(values / _spread(scale, values.shape[1], group))
    return whole.clamp(-largest(bits), largest(bits)).to(torch.int8), scale


def scales_of(weight: Tensor, bits: int, group: int) -> Tensor:
    """Return the largest magnitude of each group over the largest integer.

    Shape: (rows, columns) -> as `scale_shape` says.
    """
    magnitudes = weight.detach().float().abs()
    if group == 0:
        most = magnitudes.amax().reshape(1, 1)
    else:
        rows, columns = magnitudes.shape
        size = columns if group < 0 else group
        padded = functional.pad(magnitudes, (0, -columns % size))
        most = padded.reshape(rows, -1, size).amax(dim=2)
    return (most / largest(bits)).clamp_min(torch.finfo(torch.float32).tiny)


def dequantize(whole: Tensor, scale: Tensor, group: int = 0) -> Tensor:
    """Return the matrix that integers and scales stand for. Shape: (rows, columns)."""
    return whole.float() * _spread(scale, whole.shape[1], group)


def _spread(scale: Tensor, columns: int, group: int) -> Tensor:
    if group <= 0:
        return scale
    return scale.repeat_interleave(group, dim=1)[:, :columns]


def per_byte(bits: int) -> int:
    """Return how many weights one byte holds."""
    return 4 if bits == 2 else 2 if bits <= 4 else 1


def pack(whole: Tensor, bits: int) -> Tensor:
    """Return integers with as many in a byte as fit; the first is in the lowest bits.

    Shape: int8 (rows, columns) -> int8 as it is above 4 bits, else uint8 (rows, bytes).
    """
    fit = per_byte(bits)
    if fit == 1:
        return whole
    width = 8 // fit
    rows, columns = whole.shape
    shifted = functional.pad(whole.to(torch.int32) + largest(bits), (0, -columns % fit))
    parts = shifted.reshape(rows, -1, fit)
    places = torch.arange(fit, device=whole.device, dtype=torch.int32) * width
    bytes_: Tensor = (parts << places).sum(dim=2)
    return bytes_.to(torch.uint8)


def unpack(packed: Tensor, bits: int, columns: int) -> Tensor:
    """Return the integers of `pack`. Shape: (rows, bytes) -> int8 (rows, columns)."""
    fit = per_byte(bits)
    if fit == 1:
        return packed
    width = 8 // fit
    places = torch.arange(fit, device=packed.device, dtype=torch.int32) * width
    parts: Tensor = (packed.to(torch.int32).unsqueeze(2) >> places) & (2**width - 1)
    return (parts.flatten(1)[:, :columns] - largest(bits)).to(torch.int8)


class QuantizedLinear(nn.Module):
    """A linear whose weight is stored in few bits, and whose input may be rounded to int8."""

    qweight: nn.Parameter
    weight_scale: nn.Parameter
    input_scale: nn.Parameter | None

    def __init__(self, linear: nn.Linear, bits: int, group: int, activation: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bits, self.group = bits, group
        device = linear.weight.device
        _make_room(self, self.out_features, self.in_features, device)
        self.bias = linear.bias
        # Of the input; the largest magnitude that it may have is 127 times this.
        self.input_scale = _fixed(torch.ones((), device=device)) if activation else None

    @property
    def weight(self) -> Tensor:
        """The matrix that is computed with. Shape: (out, in)."""
        return _weight(self, self.in_features)

    @property
    def stored(self) -> int:
        """Number of weights that the bits hold."""
        return self.in_features * self.out_features

    def forward(self, features: Tensor) -> Tensor:
        """Apply it. Shape: (..., in) -> (..., out)."""
        if self.input_scale is not None:
            whole = torch.round(features / self.input_scale)
            features = whole.clamp(-ACTIVATION_MOST, ACTIVATION_MOST) * self.input_scale
        return functional.linear(features, self.weight.to(features.dtype), self.bias)


class QuantizedEmbedding(nn.Module):
    """A table whose rows are stored in few bits."""

    qweight: nn.Parameter
    weight_scale: nn.Parameter

    def __init__(self, table: nn.Embedding, bits: int, group: int) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self.padding_idx = table.padding_idx
        self.bits, self.group = bits, group
        _make_room(self, self.num_embeddings, self.embedding_dim, table.weight.device)

    @property
    def weight(self) -> Tensor:
        """The table that is looked up in. Shape: (V, E)."""
        return _weight(self, self.embedding_dim)

    @property
    def stored(self) -> int:
        """Number of weights that the bits hold."""
        return self.num_embeddings * self.embedding_dim

    def forward(self, input_ids: Tensor) -> Tensor:
        """Look up. Shape: (B, T) -> (B, T, E)."""
        flat = input_ids.flatten()
        rows = unpack(self.qweight[flat], self.bits, self.embedding_dim)
        scales = self.weight_scale if self.group == 0 else self.weight_scale[flat]
        found = dequantize(rows, scales, self.group).to(self.weight_scale.dtype)
        return found.reshape(*input_ids.shape, self.embedding_dim)


def _make_room(module: Any, rows: int, columns: int, device: torch.device) -> None:
    """Make the tensors that a method, or a checkpoint, fills.

    Parameters and not buffers, since transformers ties nothing else between layers.
    """
    shape = scale_shape(rows, columns, module.group)
    empty = torch.zeros(rows, columns, dtype=torch.int8, device=device)
    module.qweight = _fixed(pack(empty, module.bits))
    module.weight_scale = _fixed(torch.ones(shape, device=device))


def _fixed(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _weight(module: Any, columns: int) -> Tensor:
    whole = unpack(module.qweight, module.bits, columns)
    return dequantize(whole, module.weight_scale, module.group)


@dataclass
class LowBit:
    """Bits of each stored weight, by the name of its module."""

    weights: dict[str, int]
    group: int = 0
    """Weights with one scale: 0 the whole matrix, -1 each row, else so many of a row (of a table,
    whose rows are looked up one by one, the row)."""
    activations: list[str] = field(default_factory=list)
    """Linears that round their input to int8."""
    kind: ClassVar[str] = "lowbit"

    @property
    def simulated(self) -> bool:
        """Whether some bits take more bytes than they claim: 3 bits in 4, 5 in 8."""
        return not {2, 4, 8}.issuperset(self.weights.values())

    def check(self, view: Anatomy) -> None:
        """Raise ShapeError for what is no dense linear or table, and for weights that are tied."""
        modules = dict(view.model.named_modules())
        holders: dict[int, int] = {}
        for module in modules.values():
            for parameter in module.parameters(recurse=False):
                holders[id(parameter)] = holders.get(id(parameter), 0) + 1
        for name, bits in self.weights.items():
            module = modules.get(name)
            if not isinstance(module, nn.Linear | nn.Embedding):
                raise ShapeError(f"lowbit: '{name}' is no dense linear and no table of this model")
            if not 2 <= bits <= 8:
                raise ShapeError(f"lowbit: {bits} bits for '{name}'; 2 to 8 are possible")
            if holders[id(module.weight)] > 1:
                raise ShapeError(f"lowbit: the weight of '{name}' is tied to another module's")
        odd = sorted(set(self.activations) - set(self.weights))
        if odd:
            raise ShapeError(f"lowbit: '{odd[0]}' rounds its input, but its weight is not stored")

    def apply(self, view: Anatomy) -> None:
        """Replace the modules, in place; `fill` gives them their integers."""
        modules = dict(view.model.named_modules())
        new: dict[int, nn.Module] = {}
        for name, bits in self.weights.items():
            old = modules[name]
            if isinstance(old, nn.Linear):
                made: nn.Module = QuantizedLinear(old, bits, self.group, name in self.activations)
            else:
                assert isinstance(old, nn.Embedding)
                made = QuantizedEmbedding(old, bits, table_group(self.group))
            new[id(old)] = made.train(old.training)
        replace_modules(view.model, new)

    def merged(self, earlier: LowBit | None, at: Sequence[int], total: int) -> LowBit:
        """Return the record with what was stored before."""
        if earlier is None:
            return self
        if earlier.group != self.group:
            raise ShapeError("lowbit: all weights of a model are grouped in one way")
        both = [*earlier.activations, *self.activations]
        return LowBit({**earlier.weights, **self.weights}, self.group, both)


def stored_modules(model: nn.Module) -> Iterator[tuple[str, QuantizedLinear | QuantizedEmbedding]]:
    """Yield the modules whose weights are stored in few bits, each once, by name."""
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear | QuantizedEmbedding):
            yield name, module
