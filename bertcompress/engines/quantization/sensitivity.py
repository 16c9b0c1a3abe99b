"""Which modules 8-bit rounding hurts most: each is rounded alone, and the answers are compared."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from bertcompress.engines.pruning.importance import head_of, model_inputs
from bertcompress.engines.quantization.fake_quantize import FakeEmbedding, FakeLinear, quantizable
from bertcompress.engines.quantization.input_range import InputRange
from bertcompress.heads import Head
from bertcompress.heads.outputs import outputs_of
from bertcompress.heads.padding import outputs_of_features
from bertcompress.shapes.parts import replace_modules
from bertcompress.support.progress import bar

__all__ = ["sensitivities"]


@torch.no_grad()
def sensitivities(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    bits: int = 8,
    *,
    head: Head | None = None,
) -> dict[str, float]:
    """Return how far the answers move when one module alone is rounded, in nats, worst first.

    Weights with a scale for each row, inputs with one for their largest magnitude on the batches:
    what a runtime does without smoothing. The model is left as it is. `head`: of the task, which
    measures how far; None: as the model's config tells.
    """
    probe = copy.deepcopy(model).eval()
    inputs = [model_inputs(probe, batch) for batch in batches]
    original = _answer(probe, inputs)
    found = quantizable(probe)
    ranges = _ranges(probe, inputs, found)
    head = head_of(probe, head)
    far: dict[str, float] = {}
    for name, module in bar(found.items(), "rounding one module at a time", len(found)):
        if isinstance(module, nn.Linear):
            rounding: nn.Module = FakeLinear(module, bits, -1, InputRange(decay=0.0))
            rounding.input_most.copy_(ranges[name])  # type: ignore[operator]
        else:
            rounding = FakeEmbedding(module, bits, -1)
        replace_modules(probe, {id(module): rounding.eval()})
        far[name] = head.output_movement(_answer(probe, inputs), original)
        replace_modules(probe, {id(rounding): module})
    return dict(sorted(far.items(), key=lambda item: -item[1]))


def _answer(model: nn.Module, inputs: Sequence[Mapping[str, Tensor]]) -> list[np.ndarray]:
    """Return what the model puts out for each text. Shape: (K,), or (T, K) for tokens."""
    outputs = (outputs_of(model(**each)).float().cpu().numpy() for each in inputs)
    masks = (each["attention_mask"].cpu().numpy() for each in inputs)
    return list(chain.from_iterable(map(outputs_of_features, outputs, masks)))


def _ranges(
    model: nn.Module, inputs: Sequence[Mapping[str, Tensor]], found: Mapping[str, nn.Module]
) -> dict[str, Tensor]:
    """Return the largest magnitude that each linear's input has. Shape: () each."""
    largest: dict[str, Tensor] = {}

    def watch(name: str) -> None:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            now = args[0].detach().abs().amax()
            largest[name] = torch.maximum(largest[name], now) if name in largest else now

        handles.append(found[name].register_forward_pre_hook(hook))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for name, module in found.items():
        if isinstance(module, nn.Linear):
            watch(name)
    _answer(model, inputs)
    for handle in handles:
        handle.remove()
    return largest
