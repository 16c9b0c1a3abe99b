"""The edit that stores weights in few bits: int8, or packed 4, 2 and 1 bits, with fp32 scales.

What is stored is computed with: a module looks its codes up, scales them, and rounds its input
to few bits where it has a range for it. That is what integer kernels compute, in fp32 arithmetic
and so at fp32 speed; the ONNX file made from it runs in integers, where the codes are integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from bertcompress.shapes.families.anatomy import Anatomy
from bertcompress.shapes.families.views import ShapeError
from bertcompress.shapes.parts import replace_modules
from bertcompress.shapes.weight_format import WeightFormat, largest, pack, table_group, unpack

__all__ = [
    "ACTIVATION_BITS",
    "LowBit",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "fill",
    "stored_modules",
]

ACTIVATION_BITS = 8
"""That integer kernels take an input in."""


class QuantizedLinear(nn.Module):
    """A linear whose weight is stored in few bits, and whose input may be rounded to int8."""

    qweight: nn.Parameter
    weight_scale: nn.Parameter
    input_scale: nn.Parameter | None

    def __init__(
        self, linear: nn.Linear, format: WeightFormat, activation_bits: int | None
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.format, self.activation_bits = format, activation_bits
        self.bits, self.group = format.bits, format.group
        device = linear.weight.device
        _make_room(self, self.out_features, self.in_features, device)
        self.bias = linear.bias
        # Of the input; in 8 bits the largest magnitude that it may have is 127 times this.
        rounds = activation_bits is not None
        self.input_scale = _fixed(torch.ones((), device=device)) if rounds else None

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
        if self.input_scale is not None and self.activation_bits is not None:
            most = largest(self.activation_bits)
            whole = torch.round(features / self.input_scale)
            features = whole.clamp(-most, most) * self.input_scale
        return functional.linear(features, self.weight.to(features.dtype), self.bias)


class QuantizedEmbedding(nn.Module):
    """A table whose rows are stored in few bits."""

    qweight: nn.Parameter
    weight_scale: nn.Parameter

    def __init__(self, table: nn.Embedding, format: WeightFormat) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self.padding_idx = table.padding_idx
        self.format = format
        self.bits, self.group = format.bits, format.group
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
        scales = self.weight_scale if self.group == 0 else self.weight_scale[..., flat, :]
        found = self.format.decode(rows, scales).to(self.weight_scale.dtype)
        return found.reshape(*input_ids.shape, self.embedding_dim)


def _make_room(module: Any, rows: int, columns: int, device: torch.device) -> None:
    """Make the tensors that a method, or a checkpoint, fills.

    Parameters and not buffers, since transformers ties nothing else between layers.
    """
    shape = module.format.scale_shape(rows, columns)
    empty = torch.zeros(rows, columns, dtype=torch.int8, device=device)
    module.qweight = _fixed(pack(empty, module.bits))
    module.weight_scale = _fixed(torch.ones(shape, device=device))


def _fixed(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _weight(module: Any, columns: int) -> Tensor:
    whole = unpack(module.qweight, module.bits, columns)
    matrix: Tensor = module.format.decode(whole, module.weight_scale)
    return matrix


@dataclass
class LowBit:
    """How each stored weight is stored, by the name of its module."""

    weights: dict[str, WeightFormat]
    activations: dict[str, int] = field(default_factory=dict)
    """Bits that linears round their input to."""
    kind: ClassVar[str] = "lowbit"

    @classmethod
    def uniform(
        cls, bits: Mapping[str, int], group: int = 0, activations: Iterable[str] = ()
    ) -> LowBit:
        """Return the edit of integers that are all grouped in one way, with inputs in 8 bits."""
        return cls.read(bits, group, list(activations))

    @classmethod
    def read(
        cls,
        weights: Mapping[str, int | Mapping[str, Any]],
        group: int = 0,
        activations: Mapping[str, int] | Sequence[str] = (),
    ) -> LowBit:
        """Return the edit of a record, of either form that `plain` returns."""
        formats = {name: WeightFormat.read(each, group) for name, each in weights.items()}
        if isinstance(activations, Mapping):
            return cls(formats, dict(activations))
        return cls(formats, dict.fromkeys(activations, ACTIVATION_BITS))

    @property
    def is_uniform(self) -> bool:
        """Whether all are integers, grouped in one way, and inputs are rounded to 8 bits."""
        formats = self.weights.values()
        alike = len({each.group for each in formats}) <= 1 and all(each.even for each in formats)
        return alike and {*self.activations.values()} <= {ACTIVATION_BITS}

    def plain(self) -> dict[str, Any]:
        """Return what the record holds: as older releases read it, where that says it all."""
        if not self.is_uniform:
            formats = {name: each.plain() for name, each in self.weights.items()}
            return {"weights": formats, "activations": dict(self.activations)}
        return {
            "weights": {name: each.bits for name, each in self.weights.items()},
            "group": next((each.group for each in self.weights.values()), 0),
            "activations": list(self.activations),
        }

    @property
    def simulated(self) -> bool:
        """Whether bytes or time do not shrink as claimed: 3 bits take 4, inputs in 4 bits 8."""
        stored = {1, 2, 4, 8}.issuperset(each.bits for each in self.weights.values())
        return not stored or any(each != ACTIVATION_BITS for each in self.activations.values())

    def check(self, view: Anatomy) -> None:
        """Raise ShapeError for what is no dense linear or table, and for weights that are tied."""
        modules = dict(view.model.named_modules())
        holders: dict[int, int] = {}
        for module in modules.values():
            for parameter in module.parameters(recurse=False):
                holders[id(parameter)] = holders.get(id(parameter), 0) + 1
        for name, each in self.weights.items():
            module = modules.get(name)
            if not isinstance(module, nn.Linear | nn.Embedding):
                raise ShapeError(f"lowbit: '{name}' is no dense linear and no table of this model")
            if each.obstacle is not None:
                raise ShapeError(f"lowbit: '{name}': {each.obstacle}")
            if holders[id(module.weight)] > 1:
                raise ShapeError(f"lowbit: the weight of '{name}' is tied to another module's")
        self._check_activations(modules)

    def _check_activations(self, modules: Mapping[str, nn.Module]) -> None:
        odd = sorted(set(self.activations) - set(self.weights))
        if odd:
            raise ShapeError(f"lowbit: '{odd[0]}' rounds its input, but its weight is not stored")
        for name, bits in self.activations.items():
            if not isinstance(modules[name], nn.Linear):
                raise ShapeError(f"lowbit: '{name}' is no linear: nothing rounds its input")
            if not 2 <= bits <= 8:
                raise ShapeError(f"lowbit: the input of '{name}' in {bits} bits; 2 to 8 allowed")

    def apply(self, view: Anatomy) -> None:
        """Replace the modules, in place; `fill` gives them their codes."""
        modules = dict(view.model.named_modules())
        new: dict[int, nn.Module] = {}
        for name, each in self.weights.items():
            old = modules[name]
            if isinstance(old, nn.Linear):
                made: nn.Module = QuantizedLinear(old, each, self.activations.get(name))
            else:
                assert isinstance(old, nn.Embedding)
                made = QuantizedEmbedding(old, replace(each, group=table_group(each.group)))
            new[id(old)] = made.train(old.training)
        replace_modules(view.model, new)

    def merged(self, earlier: LowBit | None, at: Sequence[int], total: int) -> LowBit:
        """Return the record with what was stored before."""
        if earlier is None:
            return self
        both = {**earlier.activations, **self.activations}
        return LowBit({**earlier.weights, **self.weights}, both)


@torch.no_grad()
def fill(
    module: QuantizedLinear | QuantizedEmbedding, weight: Tensor, input_scale: Tensor | None = None
) -> None:
    """Give a stored module, in place, the codes and scales of a matrix, and its input's scale.

    Shape: weight as the module's; input_scale ().
    """
    codes, scale = module.format.encode(weight)
    module.qweight.copy_(pack(codes, module.bits))
    module.weight_scale.copy_(scale)
    if input_scale is not None and isinstance(module, QuantizedLinear):
        assert module.input_scale is not None
        module.input_scale.copy_(input_scale)


def stored_modules(model: nn.Module) -> Iterator[tuple[str, QuantizedLinear | QuantizedEmbedding]]:
    """Yield the modules whose weights are stored in few bits, each once, by name."""
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear | QuantizedEmbedding):
            yield name, module
