"""Several trainings of one stage: what the next one is given, and what is kept of each."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from tests_support import tiny_model, tiny_tokenizer
from training_support import toy_data

from bertcompress.deployment import Findings, Product, Trained
from bertcompress.methods.distillation.theseus import Theseus
from bertcompress.methods.quantization.q8bert import Q8bert
from bertcompress.training import LabelLoss, Phase, TrainSettings, epoch_batches, fit, fit_phases
from bertcompress.training import phases as module

FIXED = {"reason": "fixed", "setting": "epochs", "value": 2.0, "improving": True, "learned": True}
CAPPED = {"reason": "max_minutes", "setting": "max_minutes", "value": 4.5, "improving": False}
STALLED = {"reason": "stalled", "setting": "", "value": None, "improving": False}


@pytest.fixture
def given(monkeypatch):
    """Trainings that take the minutes they are asked to, and the settings that each was given."""
    clock = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock.seconds)
    settings = []

    def phase(own, minutes, length="epochs", **trained):
        def train(given):
            settings.append(given)
            clock.seconds += 60 * minutes
            findings = Findings(training=Trained(precision="fp32", head_rate=5.0, **trained))
            return Product(None, None, (), findings)

        return Phase(own, train, length)

    return phase, settings


def test_each_training_has_what_the_ones_before_it_decided_and_left(given):
    phase, settings = given
    own = TrainSettings(max_minutes=10.0)
    collapsed = {"learning_rate": 2e-5, "collapsed_at": (4e-5,)}
    spent = [phase(own, 3, steps=5, **collapsed), phase(own, 4, steps=6, earlier_seconds=120.0)]
    done = fit_phases([*spent, phase(own, 0, steps=7)])
    assert [each.max_minutes for each in settings] == pytest.approx([10, 7, 1])
    assert settings[0].head_rate == "auto" and settings[0].precision == "auto"
    for later in settings[1:]:  # a rate that was halved stays so, for all that follow
        assert (later.learning_rate, later.head_rate, later.precision) == (2e-5, 5.0, "fp32")
    assert done.findings.training.steps == 18


def test_where_no_minute_is_left_a_training_ends_as_soon_as_it_can(given):
    phase, settings = given
    own = TrainSettings(max_minutes=2.0)
    fit_phases([phase(own, 3), phase(own, 0)])
    assert 0 < settings[1].max_minutes < 1e-3


def test_how_each_training_ended_is_kept_in_the_settings_of_the_method(given):
    phase, _ = given
    own = TrainSettings(max_minutes=9.0)
    trainings = [
        phase(own, 1, "inside_epochs", ended=FIXED),
        phase(own, 1, ended=CAPPED),
        phase(own, 1, ended=STALLED),
    ]
    training = fit_phases(trainings).findings.training
    first, second = training.ended_before
    assert first == {**FIXED, "setting": "inside_epochs"}
    assert second == {**CAPPED, "value": 9.0}
    assert training.ended == STALLED


def test_a_training_that_was_killed_goes_on_with_other_minutes(tmp_path):
    """What those before it left is a matter of the clock."""
    data = toy_data(rows=40)

    def again(minutes):
        settings = TrainSettings(epochs=1, batch_size=8, learning_rate=1e-3, precision="fp32",
                                 max_minutes=minutes)  # fmt: skip
        return fit(tiny_model(num_labels=2), LabelLoss(), data, tokenizer=tiny_tokenizer(),
                   settings=settings, workdir=tmp_path, progress=False)  # fmt: skip

    first, second = again(90.0), again(89.0)
    assert second.earlier_seconds > 0 and first.history == second.history


@pytest.mark.parametrize("size", [8, 16])
def test_batches_of_an_epoch_are_those_that_a_training_goes_over(size, tmp_path):
    data, tokenizer = toy_data(rows=44), tiny_tokenizer()
    settings = TrainSettings(
        epochs=2, batch_size=size, learning_rate=1e-3, precision="fp32", gradient_accumulation=2
    )
    done = fit(tiny_model(num_labels=2), LabelLoss(), data, tokenizer=tokenizer,
               settings=settings, workdir=tmp_path, progress=False)  # fmt: skip
    batches = epoch_batches(data, tokenizer, settings)
    assert batches == math.ceil(len(data.train) / size)
    assert done.steps == settings.steps(batches)


def test_minutes_are_refused_where_layers_are_still_replaced():
    with pytest.raises(ValueError, match="nothing stops early while layers are replaced"):
        Theseus(max_minutes=5)
    assert Theseus(max_minutes=5, replacing_epochs=0).max_minutes == 5
    assert Q8bert(max_minutes=5).max_minutes == 5
