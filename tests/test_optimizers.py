"""Schedules and optimizers against their closed forms; SAM inside a training step."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError
from test_objective import Diary
from test_training import (
    assert_near,
    batches,
    equal,
    quiet,
    run,
    script_environment,
    without_seconds,
)
from tests_support import first_fast, tiny_model
from torch import nn
from training_support import toy_data, train

from bertcompress.engines.distillation.peers import PeerLoss, SharedLayers
from bertcompress.engines.pruning.importance import head_of
from bertcompress.errors import InputError
from bertcompress.shapes import anatomy
from bertcompress.training import (
    DelegatingObjective,
    LabelLoss,
    TrainSettings,
    checkpoints,
    fit_batches,
)
from bertcompress.training.optimizers import make_optimizer
from bertcompress.training.schedule import Horizon, rate_factor
from bertcompress.training.sharpness import MicroBatches, climbed

SETTINGS = TrainSettings(epochs=2, precision="fp32", learning_rate=1e-3, warmup=0)


def factors(steps=12, **changes):
    settings = TrainSettings(max_steps=steps, **changes)
    horizon = Horizon.of(settings, steps, steps)
    return [rate_factor(horizon, step, 0, 0) for step in range(steps + 1)]


def test_auto_is_linear_where_the_length_is_fixed():
    wanted = [0.0, 0.5, *[(12 - step) / 10 for step in range(2, 13)]]
    assert factors(warmup=1 / 6) == factors(warmup=1 / 6, schedule="linear") == wanted


def test_constant_is_reached_by_the_warmup_and_held():
    assert factors(warmup=0.25, schedule="constant") == [0, 1 / 3, 2 / 3, *[1.0] * 10]


def test_cosine_by_its_values():
    got = factors(warmup=0, schedule="cosine")
    assert (got[0], got[12]) == (1.0, 0.0)
    assert [got[3], got[6]] == pytest.approx([0.5 + math.sqrt(2) / 4, 0.5])
    later = factors(steps=16, warmup=0.25, schedule="cosine")
    assert later[:4] == [0, 0.25, 0.5, 0.75] and later[4:] == got


def test_cyclic_is_a_cosine_again_and_again():
    once = factors(steps=4, warmup=0, schedule="cosine")[:4]
    assert factors(warmup=0, schedule="cyclic", cycles=3) == [*once * 3, 0.0]


def test_cycles_that_do_not_divide_the_steps_all_fall():
    got = factors(steps=10, warmup=0, schedule="cyclic", cycles=4)
    starts = [step for step, factor in enumerate(got) if factor == 1.0]
    assert starts == [0, 3, 5, 8]  # of 3, 2, 3 and 2 steps
    assert all(got[start - 1] <= 0.5 for start in [*starts[1:], 10])


def test_a_cycle_has_a_step():
    with pytest.raises(InputError, match="cycles: 8 in 6 steps after the warm-up"):
        factors(steps=12, warmup=0.5, schedule="cyclic", cycles=8)


def test_minutes_bring_every_schedule_to_zero():
    settings = TrainSettings(max_steps=12, warmup=0, schedule="constant")
    horizon = Horizon.of(settings, 12, 12)
    assert [rate_factor(horizon, step, 6, 4) for step in (6, 8, 10)] == [1.0, 0.5, 0.0]


REFUSED = [
    ({"schedule": "cosine"}, "schedule: cosine needs a length that is known before"),
    ({"schedule": "cyclic", "epochs": 2}, "cyclic needs the number of cycles"),
    ({"cycles": 2}, "cycles: only schedule: cyclic has it"),
    ({"optimizer": "sgd"}, "sgd has no rate that auto stands for"),
    ({"momentum": 0.5}, "momentum: only optimizer: sgd has it"),
    ({"rho": 0.1, "optimizer": "sgd", "learning_rate": 0.1}, "rho: only optimizer: sam has it"),
]


@pytest.mark.parametrize(("fields", "words"), REFUSED, ids=lambda x: x if type(x) is str else "")
def test_what_does_not_fit_together_is_refused(fields, words):
    with pytest.raises(ValidationError, match=words):
        TrainSettings(**fields)


def test_sgd_with_momentum_by_hand():
    settings = TrainSettings(optimizer="sgd", learning_rate=0.1, momentum=0.5, weight_decay=0)
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    optimizer = make_optimizer(settings, model, LabelLoss())
    weight, velocity = 1.0, 0.0
    for _ in range(3):
        (1.5 * model.weight.square().sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        velocity = 0.5 * velocity + 3 * weight
        weight -= 0.1 * velocity
    assert model.weight.item() == pytest.approx(weight)
    assert settings.sgd_momentum == 0.5
    assert TrainSettings(optimizer="sgd", learning_rate=0.1).sgd_momentum == 0.9


def test_sam_on_a_quadratic():
    """Of x A x / 2 the gradient at x + rho g / |g|, g = A x, is g + rho A g / |g|."""
    curvature, x, rho = torch.tensor([3.0, 1.0, 0.5]), torch.tensor([1.0, -2.0, 4.0]), 0.3
    model = nn.Module()
    model.x = nn.Parameter(x.clone())
    model.register_buffer("seen", torch.zeros(()))
    gradient = curvature * x

    def backward():
        model.seen += 1
        (0.5 * curvature * model.x.square()).sum().backward()

    backward()
    with climbed(model, [], rho):
        assert model.x.grad is None
        torch.testing.assert_close(model.x.detach() - x, rho * gradient / gradient.norm())
        backward()
    wanted = gradient + rho * curvature * gradient / gradient.norm()
    torch.testing.assert_close(model.x.grad, wanted)
    assert torch.equal(model.x.detach(), x) and model.seen == 1


def test_what_has_no_gradient_does_not_climb():
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    with climbed(model, [], 0.5):
        assert torch.equal(model.weight, before)


def test_batches_come_again_with_the_same_random_numbers():
    held, first = MicroBatches(), []
    torch.manual_seed(0)
    for i in range(2):
        held.add({"i": i})
        first.append(torch.rand(2))
    with held.again() as batches_again:
        for (last, inputs), drawn in zip(batches_again, first, strict=True):
            assert last == (inputs["i"] == 1)
            assert torch.equal(torch.rand(2), drawn)
    after = torch.rand(2)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(6)[4:], after)
    with held.again() as nothing:
        assert not list(nothing)


def trained(objective=None, size=8, model=None, **changes):
    model = model or tiny_model(num_labels=2)  # with dropout
    settings = SETTINGS.model_copy(update=changes)
    fitted = fit_batches(
        model, objective or LabelLoss(), batches(size), settings=settings, progress=False
    )
    return model, fitted


def test_sam_that_climbs_nowhere_is_adamw_to_the_bit():
    """The dropout of the second pass is that of the first, and later random numbers follow."""
    plain, plainly = trained()
    flat, flatly = trained(optimizer="sam", rho=0.0)
    climbing, _ = trained(optimizer="sam")
    assert equal(plain, flat) and plainly.samples == flatly.samples
    assert not equal(plain, climbing)


def test_sam_climbs_along_the_gradient_of_all_accumulated_batches():
    models = [
        trained(
            model=quiet(), size=size, gradient_accumulation=16 // size, optimizer="sam", rho=0.5
        )
        for size in (16, 8)
    ]
    assert_near(models[0][0].state_dict(), models[1][0].state_dict())


def test_sam_shows_an_objective_both_gradients():
    diary = Diary()
    trained(diary, optimizer="sam", epochs=1, max_steps=2)
    assert [name for name, _ in diary.calls] == ["loss", "backward"] * 2 + ["end"] + (
        ["loss", "backward"] * 2 + ["end"]
    )
    first, second = diary.weights[:2]
    assert torch.equal(first, second)  # back from the climb
    assert diary.norms[0] != diary.norms[1]


class Descent(DelegatingObjective):
    """The loss of the labels and a parameter of its own."""

    def __init__(self):
        super().__init__(LabelLoss())
        self.own = nn.Parameter(torch.ones(()))

    def __call__(self, *args):
        return super().__call__(*args) + self.own

    def parameter_groups(self):
        return [{"params": [self.own], "lr": 0.1, "weight_decay": 0.0}]


def test_parameters_of_an_objective_do_not_climb_and_count_once():
    plain, climbing = Descent(), Descent()
    trained(plain, schedule="constant")
    trained(climbing, schedule="constant", optimizer="sam", rho=1.0)
    assert torch.equal(plain.own, climbing.own)


def test_sam_in_bf16_keeps_fp32_weights():
    model, fitted = trained(optimizer="sam", precision="bf16")
    assert fitted.settings.precision == "bf16"
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not equal(model, trained(precision="bf16")[0])


@pytest.mark.parametrize("optimizer", first_fast(["sam", "sgd"]))
def test_every_optimizer_learns(optimizer, tmp_path):
    rate = {"sgd": 0.05, "sam": 2e-3}[optimizer]
    model, changes = tiny_model(num_labels=2), {"optimizer": optimizer, "learning_rate": rate}
    fitted = run(model, toy_data(), tmp_path, epochs=10, **changes)
    assert fitted.settings.optimizer == optimizer
    assert fitted.selection_score > 0.9 > fitted.history[0]["score"]


KILLED = """
import json, os, pathlib, sys
import training_support
for i, changes in enumerate(json.loads(sys.argv[1])):
    child = os.fork()
    if child == 0:
        training_support.train(pathlib.Path(f"killed-{i}"), 7, **changes)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 9
"""
WAYS = [
    {"schedule": "constant", "optimizer": "sgd", "learning_rate": 0.02},
    {"schedule": "cosine", "optimizer": "sam"},
    {"schedule": "cyclic", "cycles": 2},
]


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_bit_with_every_schedule_and_optimizer(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(WAYS)],
        cwd=tmp_path,
        env=script_environment() | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ends = []
    for i, changes in enumerate(WAYS):
        whole, objective = train(tmp_path / f"whole-{i}", **changes)
        left = checkpoints.latest(tmp_path / f"killed-{i}")
        assert left is not None and checkpoints.step_of(left) == 5
        resumed, resumed_objective = train(tmp_path / f"killed-{i}", **changes)
        assert equal(whole.model, resumed.model)
        assert equal(objective.project, resumed_objective.project)
        assert without_seconds(whole.history) == without_seconds(resumed.history)
        ends.append(whole.model)
    assert not equal(ends[1], ends[2])


class Owns(LabelLoss):
    """An objective with parameters of its own."""

    def __init__(self, *groups):
        super().__init__()
        self.groups = groups

    def parameter_groups(self):
        return list(self.groups)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_what_an_objective_trains_decays_as_the_model_does(decay, kind):
    """Projections and filters had the optimizer's own default, whatever was asked for."""
    settings = TrainSettings(weight_decay=decay, learning_rate=1e-3, optimizer=kind)
    own, gate = nn.Linear(4, 3), nn.Parameter(torch.zeros(2, 2))
    groups = [{"params": list(own.parameters())}, {"params": [gate], "weight_decay": 0.0}]
    optimizer = make_optimizer(settings, tiny_model(num_labels=2), Owns(*groups))
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups
              for p in group["params"]}  # fmt: skip
    assert [decays[id(p)] for p in (own.weight, own.bias, gate)] == [decay, 0.0, 0.0]


def test_new_heads_of_peers_learn_as_fast_as_the_leaders():
    leader = tiny_model(num_labels=2)
    shared = SharedLayers(leader, 2, 1, seed=0)
    loss = PeerLoss(head_of(leader), shared, leader, temperature=2.0, weight=1.0, ramp=1, seed=0)
    settings = TrainSettings(learning_rate=1e-3, head_rate=5.0)
    rates = {id(p): group["lr"] for group in make_optimizer(settings, leader, loss).param_groups
             for p in group["params"]}  # fmt: skip
    for model in (leader, *shared.peers):
        assert rates[id(model.classifier.weight)] == rates[id(model.classifier.bias)] == 5e-3
        assert rates[id(anatomy(model).layers[-1].linears["query"].module.weight)] == 1e-3
    shared.close()
