"""Regression in the target's own units, whatever they are."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from tests_support import tiny_model, tiny_tokenizer
from training_support import SETTINGS, toy_rows

from bertcompress.data import collator, load_data
from bertcompress.engines.distillation.objectives import Distillation
from bertcompress.engines.distillation.teachers import LiveTeacher
from bertcompress.engines.quantization.fake_quantize import with_rounding
from bertcompress.measure.scores import predict
from bertcompress.runtimes.torch import TorchPredictor
from bertcompress.task import Task
from bertcompress.training import LabelLoss, fit, forward
from bertcompress.training.targets import TargetScale, standardised_head, to_target_units


def priced(factor, shift):
    """The toy task, its numbers in another unit."""
    splits = {"train": toy_rows(120, "regression"), "validation": toy_rows(40, "regression", 1)}
    for columns in splits.values():
        columns["label"] = [factor * value + shift for value in columns["label"]]
    data = DatasetDict({name: Dataset.from_dict(columns) for name, columns in splits.items()})
    return load_data(Task.from_dataset(data, text="text", label="label", problem="regression"))


def trained(data, workdir, objective=None, model=None, epochs=4):
    model = to_target_units(model or tiny_model(num_labels=1), data)
    fitted = fit(
        model,
        objective or LabelLoss(),
        data,
        tokenizer=tiny_tokenizer(),
        settings=SETTINGS.model_copy(update={"epochs": epochs}),
        workdir=workdir,
        progress=False,
    )
    answers = predict(TorchPredictor(model), data, "validation", tiny_tokenizer())
    return fitted, answers[:, 0]


def test_targets_of_thousands_are_answered_in_thousands(tmp_path):
    data = priced(2_000.0, 25_000.0)
    _, answers = trained(data, tmp_path, epochs=20)
    wanted = data.references("validation")
    assert np.abs(answers - wanted).mean() < 0.5 * np.abs(wanted - wanted.mean()).mean()


@pytest.mark.slow
def test_the_unit_changes_nothing(tmp_path):
    small, first = trained(priced(1.0, 0.0), tmp_path / "small")
    large, second = trained(priced(1_000.0, -5e4), tmp_path / "large")
    np.testing.assert_allclose(second, 1_000 * first - 5e4, rtol=0, atol=5)
    assert [row["score"] for row in small.history] == pytest.approx(
        [row["score"] for row in large.history], abs=1e-4
    )


def test_the_selection_split_is_judged_in_the_targets_units(tmp_path):
    data = priced(2_000.0, 25_000.0)
    fitted, _ = trained(data, tmp_path)
    scale = TargetScale.of(data)
    again = predict(TorchPredictor(fitted.model), data, "selection", tiny_tokenizer())[:, 0]
    loss = np.square((again - data.references("selection")) / scale.std).mean()
    best = next(row for row in fitted.history if row["step"] == fitted.best_step)
    assert best["selection_loss"] == pytest.approx(loss, rel=1e-3)


def test_a_teacher_in_thousands_speaks_in_the_unit_of_the_labels(tmp_path):
    """A student that answers as its teacher, in standard deviations, has nothing to learn of it."""
    data = priced(2_000.0, 25_000.0)
    model = to_target_units(tiny_model(num_labels=1).eval(), data)
    teacher = LiveTeacher(copy.deepcopy(model), tiny_tokenizer(), data)
    alone = Distillation(teacher, problem="regression", label_weight=0.0, hidden_weight=0.0)
    rows = data.encode(tiny_tokenizer(), "train")
    scale = TargetScale.of(data)
    batch = scale.labels(collator(tiny_tokenizer())([rows[i] for i in range(8)]))
    with torch.no_grad():
        far = alone(model, batch, forward(model, batch), 0)
        with standardised_head(model, scale):
            same = alone(model, batch, forward(model, batch), 0)
            shifted = {"logits": forward(model, batch).logits + 1}
            apart = alone(model, batch, shifted, 0)
    assert far > 1e6 and same < 1e-6
    assert float(apart) == pytest.approx(alone.logit_weight, rel=1e-3)


@pytest.mark.parametrize("rounding", [False, True])
def test_only_the_unit_of_the_answer_is_changed_and_taken_back(rounding):
    model = tiny_model(num_labels=1).eval()
    if rounding:
        with_rounding(model, {"classifier": 8}, group=-1)
    ids = torch.tensor([[2, 5, 6, 7]])
    scale = TargetScale(25_000.0, 2_000.0)
    with torch.no_grad():
        before = model(input_ids=ids).logits
        with standardised_head(model, scale):
            within = model(input_ids=ids).logits
        after = model(input_ids=ids).logits
    torch.testing.assert_close(within * scale.std + scale.mean, before, rtol=0, atol=0.02)
    torch.testing.assert_close(after, before, rtol=0, atol=0.02)


def test_classes_and_constant_targets_have_no_scale():
    from training_support import toy_data

    assert TargetScale.of(toy_data()) is None
    assert TargetScale.of(priced(1.0, 0.0)) is not None
