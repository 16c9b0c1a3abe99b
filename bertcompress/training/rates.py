"""The peak learning rates that `auto` stands for: of the encoder by its width, of a head if new."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from bertcompress.shapes.record import hidden_size
from bertcompress.training.settings import TrainSettings

__all__ = ["above_the_encoder", "head_rate", "learning_rate"]

_BASE_RATE, _BASE_WIDTH = 5e-5, 768
"""BERT-base and its usual rate (Devlin et al. 2018, 1810.04805, appendix A.3)."""
_HIGHEST = 5e-4
_NEW_HEAD = 5.0
_UNTRAINED = 1e-5
"""Biases begin at 0 and move by about the rate in the first step."""


def learning_rate(settings: TrainSettings, model: nn.Module) -> float:
    """Return the peak rate of a training: the one that was given, else one by the hidden size.

    5e-5 for BERT-base's 768 and in inverse proportion to the width, as matrices want it under Adam
    (Yang et al. 2022, 2203.03466, table 3): 1e-4 for 384, 3.8e-5 for 1,024; 5e-4 at most, and 5e-5
    for a model that does not say how wide it is.
    """
    if settings.learning_rate != "auto":
        return settings.learning_rate
    width = hidden_size(getattr(model, "config", None)) or _BASE_WIDTH
    return float(f"{min(_BASE_RATE * _BASE_WIDTH / width, _HIGHEST):.2g}")


def head_rate(settings: TrainSettings, model: nn.Module) -> float:
    """Return how many times the rate of the encoder the layers above it are trained at.

    What was given, else 5 for a head that nothing has trained yet: it has far to go where the
    encoder has little (Howard & Ruder 2018, 1801.06146, section 3.2). 1 for any other, and where
    `learning_rate` is given: then that is the rate of all.
    """
    if settings.head_rate != "auto":
        return settings.head_rate
    if settings.learning_rate != "auto":
        return 1.0
    biases = [
        part.bias.detach()
        for above in _above(model)
        for part in above.modules()
        if hasattr(part, "out_features") and isinstance(part.bias, Tensor)
    ]
    is_new = bool(biases) and float(biases[-1].abs().max()) < _UNTRAINED
    return _NEW_HEAD if is_new else 1.0


def above_the_encoder(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a model's pooler and head; none of a model without a head."""
    above = _above(model)
    pooler = getattr(model.base_model, "pooler", None) if above else None
    modules = [pooler, *above] if isinstance(pooler, nn.Module) else above
    return [parameter for module in modules for parameter in module.parameters()]


def _above(model: Any) -> list[nn.Module]:
    """Return what stands beside the encoder in a model of transformers."""
    if not isinstance(model, PreTrainedModel) or model.base_model is model:
        return []
    return [each for each in model.children() if each is not model.base_model]
