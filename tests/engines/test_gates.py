"""Gates against their closed forms; a controller that reaches its size; a resume that goes on."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from scipy import integrate, special
from tests_support import tiny_inputs, tiny_model
from torch import nn
from torch.utils.data import DataLoader

from bertcompress.engines.l0_gates import (
    GatedObjective,
    HardConcrete,
    SizeController,
    expected_size,
    gate_inputs,
    keep_within,
)
from bertcompress.errors import InputError
from bertcompress.training import BaseObjective, LabelLoss, TrainSettings, fit_batches

DRAWS = 100_000


def gate_at(*log_alpha, **options):
    gate = HardConcrete(len(log_alpha), **options)
    with torch.no_grad():
        gate.log_alpha.copy_(torch.tensor(log_alpha))
    return gate


def draws(log_alpha, **options):
    return gate_at(*[log_alpha] * DRAWS, **options).sample().detach()


def density_mass(log_alpha, beta, low, high):
    """P(z > x), by integrating the density of the stretched binary concrete variable."""

    def density(stretched):
        s = (stretched - low) / (high - low)
        top = beta * math.exp(log_alpha) * s ** (-beta - 1) * (1 - s) ** (-beta - 1)
        return top / (math.exp(log_alpha) * s**-beta + (1 - s) ** -beta) ** 2 / (high - low)

    return lambda x: integrate.quad(density, x, high)[0]


@pytest.mark.parametrize("options", [{}, {"temperature": 0.4, "low": -0.3, "high": 1.2}], ids=str)
@pytest.mark.parametrize("log_alpha", [-2.0, 0.3, 2.5])
def test_drawn_gates_follow_the_hard_concrete_distribution(log_alpha, options):
    torch.manual_seed(0)
    z = draws(log_alpha, **options)
    gate = gate_at(log_alpha, **options)
    above = density_mass(log_alpha, gate.temperature, gate.low, gate.high)
    assert gate.expected_open().item() == pytest.approx(above(0), abs=1e-6)
    assert (z > 0).float().mean().item() == pytest.approx(above(0), abs=5e-3)
    at_one = special.expit(
        log_alpha - gate.temperature * math.log((1 - gate.low) / (gate.high - 1))
    )
    assert above(1) == pytest.approx(at_one, abs=1e-6)
    assert (z == 1).float().mean().item() == pytest.approx(at_one, abs=5e-3)
    mean = integrate.quad(above, 0, 1)[0]  # of a variable that is never negative
    assert z.mean().item() == pytest.approx(mean, abs=5e-3)
    assert 0 < above(1) < above(0) < 1
    assert 0 <= z.min() <= z.max() <= 1


def test_gates_start_as_open_as_asked_and_change_nothing_in_evaluation():
    for openness in (0.5, 0.9, 0.99):
        gate = HardConcrete(3, openness=openness)
        torch.testing.assert_close(gate.expected_open(), torch.full((3,), openness))
    assert torch.equal(HardConcrete(5).eval()(), torch.ones(5))
    assert HardConcrete(50).train()().min() < 1


def test_evaluation_gate_formula():
    values = [-5.0, -1.0, 0.0, 1.0, 5.0]
    expected = [min(1, max(0, 1.2 * special.expit(a) - 0.1)) for a in values]
    torch.testing.assert_close(gate_at(*values).deterministic(), torch.tensor(expected).float())


def test_gradients_by_finite_differences():
    gate = HardConcrete(4).double()
    at = torch.tensor([-1.0, 0.2, 0.9, 2.0], dtype=torch.float64, requires_grad=True)

    def drawn(log_alpha):
        torch.manual_seed(3)
        return torch.func.functional_call(
            _Calling(gate.sample, gate), {"of.log_alpha": log_alpha}, ()
        )

    def opened(log_alpha):
        call = _Calling(gate.expected_open, gate)
        return torch.func.functional_call(call, {"of.log_alpha": log_alpha}, ())

    inner = drawn(at)
    assert ((inner > 0) & (inner < 1)).any()
    assert torch.autograd.gradcheck(opened, (at,))
    assert torch.autograd.gradcheck(drawn, (at,))


class _Calling(nn.Module):
    def __init__(self, method, of):
        super().__init__()
        self.method, self.of = method, of

    def forward(self):
        return self.method()


@pytest.mark.parametrize("wrong", [
    {"openness": 1.0}, {"openness": 0.0}, {"temperature": 0.0}, {"low": 0.0}, {"high": 1.0},
])  # fmt: skip
def test_numbers_that_make_no_gate_are_refused(wrong):
    with pytest.raises(InputError, match="allowed"):
        HardConcrete(2, **wrong)


def test_gates_stay_where_they_can_learn():
    gate = gate_at(-9.0, 1.0, 9.0)
    gate.constrain()
    torch.testing.assert_close(gate.log_alpha.detach().exp(), torch.tensor([0.01, math.e, 100.0]))
    assert gate.deterministic().tolist()[::2] == [0.0, 1.0]


def test_units_that_stay():
    gate = gate_at(3.0, -9.0, 0.5, 1.0, -9.0, 0.5)
    assert gate.kept() == [0, 2, 3, 5]
    assert [gate.kept(n) for n in (0, 1, 2, 3, 6)] == [[], [0], [0, 3], [0, 2, 3], [*range(6)]]


def test_expected_size_is_the_mean_of_counted_sizes():
    """Less what gates at the closed end cannot help: they count nothing, those at the other one."""
    torch.manual_seed(0)
    gates, costs = [gate_at(-1.0, 2.0, 0.0), gate_at(0.5)], [7.0, 3.0]
    ends = gate_at(-99.0, 99.0)
    ends.constrain()
    counted, least, most = 0.0, 0.0, 0.0
    for _ in range(4_000):
        counted += sum(c * int((g.sample() > 0).sum()) for g, c in zip(gates, costs, strict=True))
        low, high = (ends.sample() > 0).tolist()
        least, most = least + low / 4_000, most + high / 4_000
    mean = (counted / 4_000 - least * 24.0) / (most - least)
    assert expected_size(gates, costs).item() == pytest.approx(mean, rel=0.02)
    torch.testing.assert_close(ends.counted().detach(), torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="zip"):
        expected_size(gates, [1.0])


def test_the_most_open_units_stay_while_the_size_allows():
    gates = [gate_at(3.0, 1.0, 2.0), gate_at(2.5, 0.5)]
    costs = [2.0, 5.0]
    assert keep_within(gates, costs, 16.0) == [[0, 1, 2], [0, 1]]
    assert keep_within(gates, costs, 9.0) == [[0, 2], [0]]
    assert keep_within(gates, costs, 6.0) == [[0, 1, 2], []]  # 5 no longer fits behind 2
    assert keep_within(gates, costs, 1.0) == [[], []]


def test_gated_inputs_are_those_of_a_model_cut_to_the_same_units():
    torch.manual_seed(0)
    linear, x = nn.Linear(12, 5), torch.randn(7, 12)
    gate = gate_at(9.0, -9.0, 9.0, -9.0)  # units of 3 features
    handle = gate_inputs(linear, gate, size=3)
    keep = [0, 1, 2, 6, 7, 8]
    cut = nn.functional.linear(x[:, keep], linear.weight[:, keep], linear.bias)
    torch.testing.assert_close(linear.eval()(x), cut)
    half = gate_at(0.0, 0.0, 0.0, 0.0)
    handle.remove()
    handle = gate_inputs(linear, half, size=3)
    assert torch.equal(linear(x), linear(x))
    assert not torch.equal(linear.train()(x), linear(x))
    linear(x).sum().backward()
    assert half.log_alpha.grad.abs().sum() > 0
    handle.remove()
    assert torch.equal(linear(x), nn.functional.linear(x, linear.weight, linear.bias))


def test_target_falls_linearly():
    controller = SizeController(200.0, 50.0, warmup_steps=10)
    assert [controller.target_at(s) for s in (0, 5, 10, 99)] == [200.0, 125.0, 50.0, 50.0]
    assert SizeController(200.0, 50.0).target_at(0) == 50.0


@pytest.mark.parametrize("wrong", [(10.0, 11.0), (10.0, -1.0), (0.0, 0.0)])
def test_sizes_that_cannot_be_reached_are_refused(wrong):
    with pytest.raises(InputError, match="target"):
        SizeController(*wrong)


@pytest.mark.parametrize(("size", "sign"), [(80.0, 1), (20.0, -1)])
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad])
def test_multipliers_ascend_in_any_optimizer(size, sign, optimizer):
    """Too large: l1 rises and pushes down. Too small: it falls and pushes up. l2 never falls."""
    controller = SizeController(100.0, 50.0, learning_rate=0.1)
    moving = torch.tensor(size, requires_grad=True)
    steps = optimizer(controller.parameter_groups(), lr=1.0)
    assert controller.penalty(moving, 0) == 0
    for _ in range(3):
        steps.zero_grad()
        controller.penalty(moving, 0).backward()
        steps.step()
    assert controller.linear.item() * sign > 0
    assert controller.quadratic.item() > 0
    gap = (size - 50.0) / 100.0
    by_hand = controller.linear * gap + controller.quadratic * gap**2
    torch.testing.assert_close(controller.penalty(moving, 0), by_hand)
    moving.grad = None
    controller.penalty(moving, 0).backward()
    assert moving.grad * sign > 0


class Squares(BaseObjective):
    """Least squares of which 64 weights are worth keeping, by falling worth."""

    def __init__(self):
        self.gate = HardConcrete(64)
        self.truth = torch.linspace(3.0, 0.05, 64)

    def __call__(self, model, batch, outputs, step):
        x = batch["x"]
        missed = (x * self.gate.sample() * model.weight - x * self.truth).sum(1)
        return (missed**2).mean() / (self.truth**2).sum()


class Problem:
    """A gated least-squares problem with its optimizer, as a training holds them."""

    def __init__(self, target):
        squares = Squares()
        self.model = nn.Module()
        self.model.weight = nn.Parameter(squares.truth.clone())
        controller = SizeController(64 * 3.0, target, warmup_steps=300)
        self.objective = GatedObjective(squares, [squares.gate], [3.0], controller)
        groups = [{"params": [self.model.weight]}, *self.objective.parameter_groups()]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, fused=True)

    def train(self, steps, last):
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            batch = {"x": torch.randn(32, 64, generator=generator)}
            torch.manual_seed(step)
            for group in self.optimizer.param_groups:  # as `fit` lets every rate fall
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * (1 - step / last)
            self.objective(self.model, batch, None, step).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.objective.on_step_end(self.model, self.optimizer, step + 1)


@pytest.mark.parametrize("keep", [48, 16])
def test_the_controller_reaches_its_size_and_keeps_what_matters(keep):
    problem = Problem(3.0 * keep)
    problem.train(range(1500), 1500)
    objective = problem.objective
    assert objective.expected_size().item() == pytest.approx(3.0 * keep, rel=0.01)
    gate = objective.gates[0]
    assert abs(len(gate.kept()) - keep) <= 1
    (kept,) = keep_within([gate], [3.0], 3.0 * keep)
    assert len(kept) == keep == len(gate.kept(keep))
    # Neighbours in worth may change places.
    worth = objective.inner.truth**2
    assert worth[kept].sum() >= 0.97 * worth[:keep].sum()


def test_a_small_size_is_not_used_up_by_closed_gates():
    """Of 61 closed gates each is open in one of twenty draws: as many as the three that stay."""
    problem = Problem(3.0 * 3)
    problem.train(range(1500), 1500)
    (gate,) = problem.objective.gates
    assert abs(len(gate.kept()) - 3) <= 1
    assert problem.objective.expected_size().item() == pytest.approx(9.0, abs=1.0)
    worth = problem.objective.inner.truth**2
    assert worth[gate.kept(3)].sum() >= 0.94 * worth[:3].sum()


def test_a_resumed_training_ends_where_the_whole_one_does():
    whole = Problem(60.0)
    whole.train(range(40), 60)
    saved = {
        "objective": {
            key: {name: torch.clone(value) for name, value in part.items()}
            for key, part in whole.objective.state_dict().items()
        },
        "optimizer": copy.deepcopy(whole.optimizer.state_dict()),
        "weight": whole.model.weight.detach().clone(),
    }
    resumed = Problem(60.0)
    resumed.objective.load_state_dict(saved["objective"])
    resumed.optimizer.load_state_dict(saved["optimizer"])
    resumed.model.weight.data.copy_(saved["weight"])
    for each in (whole, resumed):
        each.train(range(40, 60), 60)
    for key in ("gates", "controller"):
        for name, value in whole.objective.state_dict()[key].items():
            assert torch.equal(value, resumed.objective.state_dict()[key][name]), name
    assert torch.equal(whole.model.weight, resumed.model.weight)
    assert whole.objective.controller.linear.item() != 0


def test_inside_the_trainer_the_size_falls_since_the_multipliers_rise():
    """The fused AdamW, the schedule and the clipping of a real `fit`."""
    model = tiny_model()
    gates, costs = [], []
    for layer in model.bert.encoder.layer:
        gates.append(HardConcrete(24))
        costs.append(33.0)
        gate_inputs(layer.output.dense, gates[-1])
    full = 24 * 33.0 * len(gates)
    controller = SizeController(full, 0.5 * full, warmup_steps=20)
    objective = GatedObjective(LabelLoss(), gates, costs, controller)
    batch = tiny_inputs() | {"labels": torch.tensor([0, 2, 1])}
    rows = [{key: value[i] for key, value in batch.items()} for i in range(3)] * 40
    settings = TrainSettings(epochs=4, batch_size=3, precision="fp32", checkpoint_steps=None)
    fitted = fit_batches(model, objective, DataLoader(rows, batch_size=3), settings=settings)
    assert fitted.steps == 160
    assert 0.35 * full < objective.expected_size().item() < 0.65 * full
    assert controller.quadratic.item() > 0
    assert [group["lr"] for group in objective.parameter_groups()] == [0.1, 0.3]
