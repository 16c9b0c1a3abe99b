"""How many weights are zero when, and which; zeros while a model trains, through kills too."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
from test_training import batches, equal, quiet, script_environment, without_seconds
from tests_support import tiny_model, tiny_tokenizer
from torch import nn
from training_support import SETTINGS, Killer, toy_data

from bertcompress.engines.sparsity.choosing import Ramp, lowest, magnitude, zeros_by_score
from bertcompress.engines.sparsity.gradual import GradualZeros, leave_masked, maskable
from bertcompress.errors import InputError
from bertcompress.training import (
    DelegatingObjective,
    LabelLoss,
    TrainSettings,
    checkpoints,
    fit,
    fit_batches,
)

RAMP = Ramp(0.8, begin=10, end=50, every=10)


def test_the_cubic_curve_by_hand():
    """At the middle of the ramp s - s / 8; at a quarter s (1 - 27 / 64)."""
    wanted = [0.0, 0.0, 0.8 * 37 / 64, 0.7, 0.8 * 63 / 64, 0.8, 0.8]
    steps = (0, 10, 20, 30, 40, 50, 90)
    assert [RAMP.sparsity_at(step) for step in steps] == pytest.approx(wanted)


def test_zeros_change_every_so_many_steps_and_at_the_end():
    assert [step for step in range(80) if RAMP.changes_at(step)] == [10, 20, 30, 40, 50]
    odd = Ramp(0.5, begin=0, end=7, every=3)
    assert [step for step in range(12) if odd.changes_at(step)] == [0, 3, 6, 7]
    with pytest.raises(InputError, match="allowed: 0 <= sparsity < 1, 0 <= begin < end"):
        Ramp(0.5, begin=3, end=3, every=1)


def test_exactly_so_many_are_lowest_whatever_is_equal():
    scores = torch.tensor([2.0, 1.0, 1.0, 3.0, 1.0, 0.5])
    for count in range(7):
        assert int(lowest(scores, count).sum()) == count
    assert lowest(scores, 3).tolist() == [False, True, True, False, False, True]


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 1 / 3, 0.5, 0.77, 0.99])
def test_the_number_of_zeros_is_exact(sparsity):
    generator = torch.Generator().manual_seed(0)
    scores = {
        "a": torch.rand(7, 9, generator=generator),
        "b": torch.rand(5, 3, generator=generator),
    }
    each = zeros_by_score(scores, sparsity, "matrix")
    assert [int(z.sum()) for z in each.values()] == [round(63 * sparsity), round(15 * sparsity)]
    both = zeros_by_score(scores, sparsity, "model")
    assert sum(int(z.sum()) for z in both.values()) == round(78 * sparsity)
    assert {name: z.shape for name, z in both.items()} == {n: s.shape for n, s in scores.items()}
    if sparsity > 0:
        kept = torch.cat([scores[n][~both[n]] for n in scores])
        gone = torch.cat([scores[n][both[n]] for n in scores])
        assert gone.max() <= kept.min()


def stepped(objective, model, optimizer, steps):
    """Train a linear towards a matrix of ones, as `fit` calls the hooks."""
    for step in steps:
        loss = (model.weight - 1).square().sum()
        loss.backward()
        objective.on_backward(model, step)
        optimizer.step()
        optimizer.zero_grad()
        objective.on_step_end(model, optimizer, step + 1)


def test_a_weight_comes_back_where_others_have_become_smaller():
    model = nn.Linear(4, 1, bias=False)
    model.weight.data.copy_(torch.tensor([[0.3, 0.2, 0.9, 1.0]]))
    ramp = Ramp(0.5, begin=0, end=2, every=1)
    weights = {"": model.weight}
    objective = GradualZeros(LabelLoss(), weights, ramp, magnitude, "matrix")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)
    stepped(objective, model, optimizer, [0])  # 7/16 of four weights: 2
    assert model.weight.tolist() == [[0, 0, pytest.approx(0.9), 1]]
    with torch.no_grad():
        model.weight[0, 2] = 0.25
    stepped(objective, model, optimizer, [1])
    assert model.weight.tolist() == [[pytest.approx(0.3), 0, 0, 1]]
    stepped(objective, model, optimizer, [2])
    assert model.weight.tolist() == [[pytest.approx(0.3), 0, 0, 1]]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "sam"])
def test_zeros_and_what_the_optimizer_remembers_of_them_are_exactly_zero(optimizer):
    model, seen = quiet(), []
    weights = maskable(model)
    ramp = Ramp(0.75, begin=1, end=9, every=2)

    class Watched(GradualZeros):
        def on_step_end(self, model, optimizer, step):
            super().on_step_end(model, optimizer, step)
            share = ramp.sparsity_at(step if ramp.changes_at(step) else step - 1)
            zeros = {name: int((w == 0).sum()) for name, w in weights.items()}
            seen.append((step, zeros, share))
            for name, weight in weights.items():
                if self.zeros:
                    assert not weight[self.zeros[name]].any()
                    for moment in optimizer.state[weight].values():
                        assert moment.ndim == 0 or not moment[self.zeros[name]].any()

    objective = Watched(LabelLoss(), weights, ramp, magnitude, "matrix")
    settings = TrainSettings(
        max_steps=12, precision="fp32", learning_rate=1e-2, optimizer=optimizer
    )
    fit_batches(model, objective, batches(8), settings=settings, progress=False)
    for step, zeros, share in seen:
        for name, weight in weights.items():
            assert zeros[name] == round(share * weight.numel()), (step, name)
    assert seen[-1][2] == 0.75
    assert sum(leave_masked(model).values()) == sum(seen[-1][1].values())


class Ones(DelegatingObjective):
    """Pulls every weight of the layers towards one."""

    def __init__(self, model):
        super().__init__(LabelLoss())
        self.model = model

    def __call__(self, *args):
        return sum((w - 1).square().mean() for w in maskable(self.model).values())


def test_whatever_trains_a_masked_model_keeps_its_zeros():
    model = quiet()
    with torch.no_grad():
        for weight in maskable(model).values():
            weight[:, ::2] = 0.0
    leave_masked(model)
    before = {name: weight.clone() for name, weight in maskable(model).items()}
    settings = TrainSettings(max_steps=4, precision="fp32", learning_rate=1e-2)
    fit_batches(model, Ones(model), batches(8), settings=settings, progress=False)
    for name, weight in maskable(model).items():
        assert not weight[:, ::2].any()
        assert (weight[:, 1::2] != before[name][:, 1::2]).all()


def sparse_run(workdir, kill_after=0):
    """Train a tiny model to 60 % zeros, perhaps dying on the way."""
    model, data = tiny_model(num_labels=2), toy_data()
    ramp = Ramp(0.6, begin=2, end=14, every=3)
    objective = GradualZeros(LabelLoss(), maskable(model), ramp, magnitude, "model")
    fitted = fit(
        model,
        Killer(objective, kill_after),
        data,
        tokenizer=tiny_tokenizer(),
        settings=SETTINGS.model_copy(update={"max_steps": 20, "checkpoint_steps": 3}),
        workdir=workdir,
        seed=4,
        progress=False,
        keep_last=True,
    )
    return fitted, objective


KILLED = """
import os, pathlib, test_sparsity
for step in (4, 13):  # in the ramp, between two choices of zeros
    child = os.fork()
    if child == 0:
        test_sparsity.sparse_run(pathlib.Path(f"killed-{step}"), step)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 9
"""


@pytest.mark.slow
def test_a_killed_sparse_training_ends_like_an_undisturbed_one(tmp_path):
    environment = script_environment()
    here = os.path.dirname(os.path.abspath(__file__))
    environment["PYTHONPATH"] = os.pathsep.join([here, environment["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    whole, objective = sparse_run(tmp_path / "whole")
    total = sum(w.numel() for w in objective.weights.values())
    assert sum(leave_masked(whole.model).values()) == round(0.6 * total)
    for step, last in ((4, 3), (13, 12)):
        left = checkpoints.latest(tmp_path / f"killed-{step}")
        assert left is not None and checkpoints.step_of(left) == last
        resumed, again = sparse_run(tmp_path / f"killed-{step}")
        assert equal(whole.model, resumed.model)
        assert without_seconds(whole.history) == without_seconds(resumed.history)
        assert all(torch.equal(again.zeros[n], objective.zeros[n]) for n in objective.zeros)


def random_scores(seed):
    generator, drawn = torch.Generator().manual_seed(seed), {}
    return lambda name, weight: drawn.setdefault(
        name, torch.rand(weight.shape, generator=generator)
    )


@pytest.mark.slow
def test_at_few_weights_the_large_ones_are_worth_far_more_than_any(tmp_path):
    """Of a trained model 90 % zeros: at least 5 points by magnitude over a random choice."""
    data, model = toy_data(rows=400), tiny_model(num_labels=2)
    common = {"tokenizer": tiny_tokenizer(), "progress": False}
    longer = SETTINGS.model_copy(update={"epochs": 6})
    fit(model, LabelLoss(), data, settings=longer, workdir=tmp_path / "dense", **common)
    scores = {}
    for name, choice in (("magnitude", magnitude), ("random", random_scores(0))):
        trained = copy.deepcopy(model)
        ramp = Ramp(0.9, begin=5, end=60, every=5)
        objective = GradualZeros(LabelLoss(), maskable(trained), ramp, choice, "matrix")
        settings = SETTINGS.model_copy(update={"epochs": 2, "learning_rate": 1e-3})
        place = {"workdir": tmp_path / name, "keep_last": True}
        done = fit(trained, objective, data, settings=settings, **common, **place)
        scores[name] = done.selection_score
    assert scores["magnitude"] > scores["random"] + 0.05
