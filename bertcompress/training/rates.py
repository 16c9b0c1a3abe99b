"""The peak learning rate that `auto` stands for: by the model's hidden size."""

from __future__ import annotations

from torch import nn

from bertcompress.shapes.record import hidden_size
from bertcompress.training.settings import TrainSettings

__all__ = ["learning_rate"]

_BASE_RATE, _BASE_WIDTH = 5e-5, 768
"""BERT-base and its usual rate (Devlin et al. 2018, 1810.04805, appendix A.3)."""
_EXPONENT = 1.5
_HIGHEST = 5e-4


def learning_rate(settings: TrainSettings, model: nn.Module) -> float:
    """Return the peak rate of a training: the one that was given, else one by the hidden size.

    5e-5 for BERT-base's 768, more for narrower models, less for wider ones: 1.4e-4 for 384, 3.2e-5
    for 1,024; 5e-4 at most, and 5e-5 for a model that does not say how wide it is.
    """
    if settings.learning_rate != "auto":
        return settings.learning_rate
    width = hidden_size(getattr(model, "config", None)) or _BASE_WIDTH
    return float(f"{min(_BASE_RATE * (_BASE_WIDTH / width) ** _EXPONENT, _HIGHEST):.2g}")
