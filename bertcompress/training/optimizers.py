"""The optimizers that `TrainSettings.optimizer` names."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bertcompress.method import Objective
from bertcompress.training.rates import above_the_encoder, head_rate, learning_rate
from bertcompress.training.settings import TrainSettings
from bertcompress.training.steps import decay_groups

__all__ = ["make_optimizer"]


def make_optimizer(
    settings: TrainSettings, model: nn.Module, objective: Objective
) -> torch.optim.Optimizer:
    """Return the optimizer of the weights that train, and of the objective's own parameters.

    `adamw` is Loshchilov & Hutter 2019 (1711.05101); `sam` updates by AdamW too, with gradients
    from elsewhere (`sharpness.climbed`); `sgd` has momentum, and decay in its gradients.
    """
    rate = learning_rate(settings, model)
    groups = _by_rate(model, settings, rate) + objective.parameter_groups()
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=settings.sgd_momentum)
    return torch.optim.AdamW(groups, lr=rate, fused=True)


def _by_rate(model: nn.Module, settings: TrainSettings, rate: float) -> list[dict[str, Any]]:
    """Return the groups of the weights that train, those above the encoder at their own rate."""
    groups, times = decay_groups(model, settings.weight_decay), head_rate(settings, model)
    above = {id(parameter) for parameter in above_the_encoder(model)} if times != 1 else set()
    if not above:
        return groups
    faster = [
        {**group, "params": [p for p in group["params"] if id(p) in above], "lr": times * rate}
        for group in groups
    ]
    rest = [
        {**group, "params": [p for p in group["params"] if id(p) not in above]} for group in groups
    ]
    return rest + faster
