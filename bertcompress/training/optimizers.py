"""The optimizers that `TrainSettings.optimizer` names."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bertcompress.method import Objective
from bertcompress.training.rates import above_the_encoder, head_rate, learning_rate
from bertcompress.training.settings import TrainSettings
from bertcompress.training.steps import decay_groups

__all__ = ["ABOVE_ENCODER", "make_optimizer"]

ABOVE_ENCODER = "above_encoder"
"""Marks a group of an objective whose parameters are a pooler or a head."""


def make_optimizer(
    settings: TrainSettings, model: nn.Module, objective: Objective
) -> torch.optim.Optimizer:
    """Return the optimizer of the weights that train, and of the objective's own parameters.

    `adamw` is Loshchilov & Hutter 2019 (1711.05101); `sam` updates by AdamW too, with gradients
    from elsewhere (`sharpness.climbed`); `sgd` has momentum, and decay in its gradients.
    """
    rate = learning_rate(settings, model)
    groups = _by_rate(model, settings, rate) + _of_objective(objective, model, settings, rate)
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=settings.sgd_momentum)
    return torch.optim.AdamW(groups, lr=rate, fused=True)


def _of_objective(
    objective: Objective, model: nn.Module, settings: TrainSettings, rate: float
) -> list[dict[str, Any]]:
    """Return the groups of what an objective trains, as the model's where they say nothing else.

    Matrices decay, and what is above an encoder has the rate of the model's head.
    """
    groups = []
    for given in objective.parameter_groups():
        group = dict(given)
        if group.pop(ABOVE_ENCODER, False):
            group.setdefault("lr", head_rate(settings, model) * rate)
        if "weight_decay" in group:
            groups.append(group)
            continue
        params = list(group["params"])
        matrices, others = (
            [p for p in params if (p.ndim >= 2) is wanted] for wanted in (True, False)
        )
        groups.append({**group, "params": matrices, "weight_decay": settings.weight_decay})
        groups.append({**group, "params": others, "weight_decay": 0.0})
    return groups


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
