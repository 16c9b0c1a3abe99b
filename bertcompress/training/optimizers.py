"""The optimizers that `TrainSettings.optimizer` names."""

from __future__ import annotations

import torch
from torch import nn

from bertcompress.method import Objective
from bertcompress.training.rates import learning_rate
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
    groups = decay_groups(model, settings.weight_decay) + objective.parameter_groups()
    groups = [group for group in groups if group["params"]]
    rate = learning_rate(settings, model)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=settings.sgd_momentum)
    return torch.optim.AdamW(groups, lr=rate, fused=True)
