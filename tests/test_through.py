"""Wrap a copy, train that, fold it: the model itself is touched by the fold alone."""

from __future__ import annotations

import copy

import pytest
import torch
from test_training import batches, equal, quiet

from bertcompress.deployment import Product
from bertcompress.training import (
    DelegatingObjective,
    LabelLoss,
    TrainSettings,
    fit_batches,
    fit_batches_through,
    fit_through,
)

SETTINGS = TrainSettings(max_steps=2, precision="fp32", learning_rate=1e-3, batch_size=8)


class Untrained(TrainSettings):
    epochs: float | None = 0


class Seen(DelegatingObjective):
    losses = 0

    def __call__(self, *args):
        self.losses += 1
        return super().__call__(*args)


class Halved:
    """Halves the classifier of the copy, and notes who was asked for what."""

    def __init__(self, model):
        self.model, self.before = model, copy.deepcopy(model)

    def wrap(self, copied, objective):
        assert copied is not self.model and equal(copied, self.before)
        with torch.no_grad():
            copied.classifier.weight.mul_(0.5)
        self.wrapped = copy.deepcopy(copied)
        self.objective = Seen(objective)
        return self.objective

    def fold(self, model, trained):
        assert model is self.model and equal(model, self.before)
        model.load_state_dict(trained.state_dict())


def test_a_training_through_a_copy_is_that_of_the_copy():
    model = quiet().train()
    halved = Halved(model)
    made = fit_batches_through(
        model, LabelLoss(), batches(8), halved.wrap, halved.fold, settings=SETTINGS
    )
    fit_batches(halved.wrapped, LabelLoss(), batches(8), settings=SETTINGS, progress=False)
    assert made is model and not model.training
    assert equal(model, halved.wrapped) and halved.objective.losses == 2


@pytest.mark.parametrize("way", ["loader", "stage"])
def test_without_steps_the_copy_is_folded_as_it_was_wrapped(way):
    model = quiet()
    halved, settings = Halved(model), Untrained()
    if way == "loader":
        fit_batches_through(
            model, LabelLoss(), batches(8), halved.wrap, halved.fold, settings=settings
        )
    else:
        product = Product(model, None)
        done = fit_through(product, None, LabelLoss(), settings, halved.wrap, halved.fold)
        assert done.model is model
    assert equal(model, halved.wrapped) and halved.objective.losses == 0
