"""How weights are stored in few bits: what the code of a weight is, and which number it stands for.

Evenly spaced integers, as integer kernels have them; a table of levels (Dettmers et al. 2023,
"QLoRA", 2305.14314, section 3: NormalFloat); or a sum of binary matrices (Guo et al. 2017, "Network
Sketching", 1706.02021, equation 3). All are symmetric in storage: no zero point, and fp32 scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "WeightFormat",
    "dequantize",
    "largest",
    "pack",
    "quantize",
    "scale_shape",
    "scales_of",
    "table_group",
    "unpack",
]

MOST_LEVELS = 255
"""Of a table: what a byte holds whose integers go from -127 to 127."""
MOST_BASES = 4


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
    """Return the shape of a matrix' scales: `group` as in `WeightFormat`."""
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
    most = _largest_of(weight, group)
    return (most / largest(bits)).clamp_min(torch.finfo(torch.float32).tiny)


def _largest_of(weight: Tensor, group: int) -> Tensor:
    """Return the largest magnitude of each group. Shape: as `scale_shape` says."""
    magnitudes = weight.detach().float().abs()
    if group == 0:
        return magnitudes.amax().reshape(1, 1)
    return _in_groups(magnitudes, group).amax(dim=2)


def _in_groups(values: Tensor, group: int, fill: float = 0.0) -> Tensor:
    """Return the groups of each row. Shape: (rows, columns) -> (rows, groups, group)."""
    rows, columns = values.shape
    size = columns if group < 0 else group
    return functional.pad(values, (0, -columns % size), value=fill).reshape(rows, -1, size)


def _mean_of(values: Tensor, group: int) -> Tensor:
    """Return the mean of each group. Shape: as `scale_shape` says."""
    if group == 0:
        return values.mean().reshape(1, 1)
    return _in_groups(values, group, float("nan")).nanmean(dim=2)


def dequantize(whole: Tensor, scale: Tensor, group: int = 0) -> Tensor:
    """Return the matrix that integers and scales stand for. Shape: (rows, columns)."""
    return whole.float() * _spread(scale, whole.shape[1], group)


def _spread(scale: Tensor, columns: int, group: int) -> Tensor:
    if group <= 0:
        return scale
    return scale.repeat_interleave(group, dim=1)[:, :columns]


def per_byte(bits: int) -> int:
    """Return how many weights one byte holds."""
    return 8 if bits == 1 else 4 if bits == 2 else 2 if bits <= 4 else 1


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


@dataclass(frozen=True)
class WeightFormat:
    """How the weights of one module are stored; with `levels` or `bases` they are not integers."""

    bits: int
    group: int = 0
    """Weights with one scale: 0 the whole matrix, -1 each row, else so many of a row (of a table,
    whose rows are looked up one by one, the row)."""
    levels: tuple[float, ...] | None = None
    """What each code stands for before it is scaled, in ascending order: at most 2^bits numbers."""
    bases: int | None = None
    """Matrices of -1 and +1 whose sum is the weight, each with scales of its own: one per bit."""

    @classmethod
    def read(cls, written: int | Mapping[str, Any], group: int = 0) -> WeightFormat:
        """Return the format that a record holds: bits alone, grouped as all are, or its fields."""
        if isinstance(written, int):
            return cls(written, group)
        levels = written.get("levels")
        return cls(**{**written, "levels": tuple(levels) if levels is not None else None})

    def plain(self) -> dict[str, Any]:
        """Return the fields that a record holds, JSON-plain."""
        fields: dict[str, Any] = {"bits": self.bits, "group": self.group}
        if self.levels is not None:
            fields["levels"] = list(self.levels)
        return fields if self.bases is None else {**fields, "bases": self.bases}

    @property
    def even(self) -> bool:
        """Whether weights are integers times a scale, which is what kernels take."""
        return self.levels is None and self.bases is None

    @property
    def obstacle(self) -> str | None:
        """Why there is no such format, or None for one that there is."""
        if self.levels is not None and self.bases is not None:
            return "levels and bases exclude each other"
        if self.bases is not None:
            fits = 1 <= self.bases <= MOST_BASES and self.bits == self.bases
            return None if fits else f"{self.bases} bases in {self.bits} bits; 1 to 4, one per bit"
        if self.levels is None:
            return None if 2 <= self.bits <= 8 else f"{self.bits} bits; 2 to 8 are possible"
        if not 1 <= self.bits <= 8:
            return f"{self.bits} bits; 1 to 8 are possible with levels"
        if not 2 <= len(self.levels) <= min(2**self.bits, MOST_LEVELS):
            return f"{len(self.levels)} levels in {self.bits} bits; 2 to 2^bits, at most 255"
        if list(self.levels) != sorted({*self.levels}) or not any(self.levels):
            return "levels that do not ascend; each is larger than the one before"
        return None

    def scale_shape(self, rows: int, columns: int) -> tuple[int, ...]:
        """Return the shape of a matrix' scales; with bases, their number comes first."""
        one = scale_shape(rows, columns, self.group)
        return one if self.bases is None else (self.bases, *one)

    def encode(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the codes of a matrix, as `pack` takes them, and their scales.

        The nearest integer or level under the scale by which the largest magnitude of a group fits;
        bases are found one after the other, each from what those before leave (equation 3).
        Shape: (rows, columns) -> int8 (rows, columns), scales as `scale_shape` says.
        """
        if self.even:
            return quantize(weight, self.bits, self.group)
        values, columns = weight.detach().float(), weight.shape[1]
        if self.bases is not None:
            return self._in_bases(values)
        levels = torch.tensor(self.levels, device=values.device)
        scale = _largest_of(values, self.group) / levels.abs().max()
        scale = scale.clamp_min(torch.finfo(torch.float32).tiny)
        middles = (levels[1:] + levels[:-1]) / 2
        codes = torch.bucketize(values / _spread(scale, columns, self.group), middles)
        return (codes - largest(self.bits)).to(torch.int8), scale

    def _in_bases(self, values: Tensor) -> tuple[Tensor, Tensor]:
        assert self.bases is not None
        left, scales = values, []
        codes = torch.zeros_like(values, dtype=torch.int32)
        for place in range(self.bases):
            scale = _mean_of(left.abs(), self.group)
            positive = left >= 0
            codes += positive.to(torch.int32) << place
            left = left - _spread(scale, values.shape[1], self.group) * _signs(positive)
            scales.append(scale)
        return (codes - largest(self.bits)).to(torch.int8), torch.stack(scales)

    def decode(self, whole: Tensor, scale: Tensor) -> Tensor:
        """Return the matrix that codes and scales stand for. Shape: (rows, columns)."""
        if self.even:
            return dequantize(whole, scale, self.group)
        codes, columns = whole.to(torch.int32) + largest(self.bits), whole.shape[1]
        if self.levels is not None:
            levels = torch.tensor(self.levels, device=whole.device)
            return levels[codes] * _spread(scale, columns, self.group)
        parts = [
            _signs(codes >> place & 1) * _spread(each, columns, self.group)
            for place, each in enumerate(scale)
        ]
        return torch.stack(parts).sum(dim=0)


def _signs(bits: Tensor) -> Tensor:
    return bits.float() * 2 - 1
