"""Training through rounding: linears and tables that compute as their integers will.

Zafrir et al. 2019, "Q8BERT" (1910.06188), section 3: symmetric linear quantisation, weights by
their largest magnitude at each step, inputs by a moving average of theirs, and gradients that pass
the rounding as if it were not there. Weights may be grouped (Shen et al. 2019, Q-BERT, 1909.05840).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bertcompress.engines.quantization.input_range import InputRange
from bertcompress.shapes import LowBit, ShapeError, apply_edit
from bertcompress.shapes.lowbit import (
    ACTIVATION_BITS,
    QuantizedEmbedding,
    QuantizedLinear,
    fill,
    stored_modules,
)
from bertcompress.shapes.parts import replace_modules
from bertcompress.shapes.weight_format import largest, scales_of, table_group

__all__ = [
    "FakeEmbedding",
    "FakeLinear",
    "quantizable",
    "rounded",
    "rounded_weight",
    "store",
    "store_trained",
    "with_rounding",
]

_ACTIVATION_MOST = largest(ACTIVATION_BITS)


class _PassThrough(torch.autograd.Function):
    """Rounds to multiples of a scale; the gradient is that of the identity, clipped or not."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, most: int) -> Tensor:
        """Return the rounded values."""
        if values.device.type == "cpu":
            # The same bits as below, which takes thirty times as long on a CPU.
            step = scale if scale.ndim == 0 else scale[:, None]
            return (values * (1.0 / step)).round_().clamp_(-most, most).mul_(step)
        zero = torch.zeros(scale.shape, dtype=torch.int32, device=scale.device)
        if scale.ndim == 0:
            return torch.fake_quantize_per_tensor_affine(values, scale, zero, -most, most)
        return torch.fake_quantize_per_channel_affine(values, scale, zero, 0, -most, most)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient as it came."""
        return gradients[0], None, None


def rounded(values: Tensor, scale: Tensor, most: int) -> Tensor:
    """Return values rounded to the multiples of a scale that up to `most` integers reach.

    Shape: values (...) and scale (), or values (C, D) and scale (C,): one for each row.
    """
    done: Tensor = _PassThrough.apply(values.float(), scale, most)  # type: ignore[no-untyped-call]
    return done.to(values.dtype)


def rounded_weight(weight: Tensor, bits: int, group: int) -> Tensor:
    """Return a matrix as its integers stand for it. Shape: (rows, columns); `group`: `LowBit`."""
    scale = scales_of(weight, bits, group)
    if group == 0:
        return rounded(weight, scale.reshape(()), largest(bits))
    rows, columns = weight.shape
    size = columns if group < 0 else group
    padded = functional.pad(weight, (0, -columns % size)).reshape(-1, size)
    done = rounded(padded, scale.flatten(), largest(bits))
    return done.reshape(rows, -1)[:, :columns]


class FakeLinear(nn.Module):
    """A linear that trains as the `QuantizedLinear` that it will be stored as."""

    input_most: Tensor
    batches: Tensor

    def __init__(
        self,
        linear: nn.Linear,
        bits: int,
        group: int,
        inputs: InputRange | None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.bits, self.group, self.inputs = bits, group, inputs
        # 0: nothing was seen yet, and the input passes as it is.
        self.register_buffer("input_most", torch.zeros((), device=linear.weight.device))
        self.register_buffer("batches", torch.zeros((), device=linear.weight.device))

    @property
    def input_scale(self) -> Tensor:
        """What an input's integers are multiplied with. Shape: ()."""
        tiny = torch.finfo(torch.float32).tiny
        return torch.clamp_min(self.input_most / _ACTIVATION_MOST, tiny)

    def forward(self, features: Tensor) -> Tensor:
        """Apply it. Shape: (..., in) -> (..., out)."""
        if self.inputs is not None:
            if self.training and not _recomputing():
                self._watch(features.detach(), self.inputs)
            if bool(self.input_most):
                features = rounded(features, self.input_scale, _ACTIVATION_MOST)
        weight = rounded_weight(self.weight, self.bits, self.group)
        return functional.linear(features, weight, self.bias)

    @torch.no_grad()
    def _watch(self, features: Tensor, inputs: InputRange) -> None:
        """Take a batch into the range of the input."""
        moved = inputs.moved(self.input_most, self.batches, features, _ACTIVATION_MOST)
        self.input_most.copy_(moved)
        self.batches += 1


class FakeEmbedding(nn.Module):
    """A table that trains as the `QuantizedEmbedding` that it will be stored as."""

    def __init__(self, table: nn.Embedding, bits: int, group: int) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self.padding_idx = table.padding_idx
        self.weight = table.weight
        self.bits, self.group = bits, group

    def forward(self, input_ids: Tensor) -> Tensor:
        """Look up and round: only the rows that are looked up. Shape: (B, T) -> (B, T, E)."""
        rows = functional.embedding(input_ids, self.weight, self.padding_idx)
        if self.group:
            flat = rows.flatten(0, -2)
            return rounded_weight(flat, self.bits, self.group).reshape(rows.shape)
        scale = scales_of(self.weight, self.bits, 0).reshape(())
        return rounded(rows, scale, largest(self.bits))


def _recomputing() -> bool:
    """Return whether this forward pass is a repetition, by gradient checkpointing."""
    return bool(torch._C._current_graph_task_id() != -1)


def quantizable(model: nn.Module) -> dict[str, nn.Linear | nn.Embedding]:
    """Return the dense linears and tables of a model by name, each once.

    Raises ShapeError for a masked-LM head, whose decoder is the word table, and for a model that is
    stored in few bits already.
    """
    stored = next(stored_modules(model), None)
    if stored is not None:
        raise ShapeError(f"'{stored[0]}' is stored in {stored[1].bits} bits already")
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Embedding)
    }
    if len({id(module.weight) for module in found.values()}) < len(found):
        raise ShapeError("the masked-LM head is tied to the word table; quantise the fine-tuned")
    return found


def with_rounding(
    model: nn.Module,
    bits: Mapping[str, int],
    *,
    group: int = 0,
    inputs: InputRange | None = InputRange(),  # noqa: B008
) -> nn.Module:
    """Let modules compute as their integers will, in place, and return the model.

    Args:
        model: an encoder; its parameters stay the same ones.
        bits: of the weight of each module, by name, as `quantizable` has them.
        group: weights with one scale, see `LowBit`.
        inputs: how the ranges are watched by which linears round their inputs to 8 bits; None:
            they round none.
    """
    found = quantizable(model)
    new: dict[int, nn.Module] = {}
    for name, width in bits.items():
        old = found[name]
        if isinstance(old, nn.Linear):
            made: nn.Module = FakeLinear(old, width, group, inputs)
        else:
            made = FakeEmbedding(old, width, table_group(group))
        new[id(old)] = made.train(old.training)
    replace_modules(model, new)
    return model


@torch.no_grad()
def store(model: nn.Module, trained: nn.Module) -> nn.Module:
    """Give `model`, in place, the integers of its trained copy `with_rounding`; return it.

    What does not round (LayerNorms, biases) is taken over as it is, in fp32: beside stored weights
    there is little to save.
    """
    model.float()
    fake = {
        name: module
        for name, module in trained.named_modules()
        if isinstance(module, FakeLinear | FakeEmbedding)
    }
    model.load_state_dict(trained.state_dict(), strict=False)  # what has the same name
    bits = {name: module.bits for name, module in fake.items()}
    input_scales = {
        name: module.input_scale
        for name, module in fake.items()
        if isinstance(module, FakeLinear) and module.inputs is not None
    }
    groups = {module.group for module in fake.values() if isinstance(module, FakeLinear)}
    group = max(groups) if groups else max(module.group for module in fake.values())
    apply_edit(model, LowBit.uniform(bits, group, input_scales))
    for name, module in fake.items():
        stored = model.get_submodule(name)
        assert isinstance(stored, QuantizedLinear | QuantizedEmbedding)
        fill(stored, module.weight, input_scales.get(name))
    return model


def store_trained(model: nn.Module, trained: nn.Module) -> None:
    """Give `model`, in place and on the CPU, the integers of its trained copy; see `store`."""
    store(model.cpu(), trained.cpu())
