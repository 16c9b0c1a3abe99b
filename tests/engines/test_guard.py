"""The accuracy gate: what fires it and what does not, over repeated draws, and what it tries."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from bertcompress.data import load_data
from bertcompress.engines.quantization.accuracy_gate import AccuracyGate, Attempt, search
from bertcompress.heads import HEADS
from bertcompress.task import Task

ROWS, DRAWS = 900, 60


def task_of(labels, problem="single_label"):
    """A task as resolved: metrics, headline and chance."""
    sets = {
        name: Dataset.from_dict({"text": [f"{name} {i}" for i in labels], "label": list(labels)})
        for name in ("train", "validation")
    }
    task = Task.from_dataset(DatasetDict(sets), text="text", label="label", problem=problem)
    return load_data(task).task


class Answers:
    """Stands for the data of a task: the labels of the selection split and the task itself."""

    def __init__(self, task, labels):
        self.task, self.labels = task, labels

    def references(self, split):
        assert split == "selection", "the validation split is not read"
        return self.labels


TASK = task_of([0, 1] * 20)
NUMBERS = task_of(np.linspace(0, 1, 40), "regression")


def original(rng, accuracy=0.85):
    """Labels, and logits that are right so often and sure to different degrees."""
    labels = rng.integers(0, 2, ROWS)
    margin = rng.gamma(2.0, 1.5, ROWS) * np.where(rng.random(ROWS) < accuracy, 1, -0.5)
    signed = np.where(labels == 1, margin, -margin)
    return labels, np.stack([-signed, signed], 1).astype(np.float32)


def share_of_losses(change, max_drop=0.01):
    fired = 0
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        labels, logits = original(rng)
        guard = AccuracyGate(Answers(TASK, labels), None, logits, max_drop)
        fired += not guard.judge_logits(change(rng, labels, logits), {}).passes
    return fired / DRAWS


def test_noise_that_loses_nothing_passes():
    def noisy(rng, labels, logits):
        return logits + rng.normal(0, 0.12, logits.shape).astype(np.float32)

    assert share_of_losses(noisy) <= 0.05


def test_three_points_are_not_missed():
    def damaged(rng, labels, logits):
        """Noise, and besides the wrong answer to three in a hundred."""
        noisy = logits + rng.normal(0, 0.12, logits.shape).astype(np.float32)
        right = np.flatnonzero(logits.argmax(1) == labels)
        lost = rng.choice(right, round(0.03 * ROWS), replace=False)
        noisy[lost] = noisy[lost, ::-1]
        return noisy

    assert share_of_losses(damaged) >= 0.95


def test_a_loss_within_the_limit_passes():
    rng = np.random.default_rng(0)
    labels, logits = original(rng)
    worse = logits.copy()
    worse[:27] = -np.abs(worse[:27]) * np.eye(2)[labels[:27]] * 9
    losing = AccuracyGate(Answers(TASK, labels), None, logits, 0.01).judge_logits(worse, {})
    allowed = AccuracyGate(Answers(TASK, labels), None, logits, 0.10).judge_logits(worse, {})
    assert losing.drop == allowed.drop > 0.01
    assert (losing.allowed, allowed.allowed) == (False, True)
    assert losing.significant
    assert allowed.significant
    assert not allowed.passes, "it goes on trying while a loss is significant"
    assert "loses 2.67 points (significant: 1.67 at least)" in allowed.words


def unlabelled():
    sets = DatasetDict(
        {
            n: Dataset.from_dict({"text": [f"{n} {i}" for i in range(40)]})
            for n in ("train", "validation")
        }
    )
    task = Task.from_dataset(sets, text="text")
    return load_data(task).task


def test_without_labels_noise_passes_and_a_loss_does_not():
    """The original agrees with itself wholly, so that each flip near a tie counts as one."""
    rng = np.random.default_rng(0)
    _, logits = original(rng)
    near = logits.copy()
    near[:18] = 0.02 * np.sign(near[:18])  # 2 % of the rows are at a tie
    guard = AccuracyGate(Answers(unlabelled(), None), None, near, 0.01)
    flipped = near.copy()
    flipped[:18] = -flipped[:18]
    noise = guard.judge_logits(flipped, {})
    assert noise.passes
    assert noise.drop == pytest.approx(0.02, abs=1e-3)
    lost = near.copy()
    lost[:90] = -3 * lost[:90]
    damage = guard.judge_logits(lost, {})
    assert damage.drop > 0.05
    assert not damage.passes


def test_an_attempt_without_a_file_is_worse_than_any_other():
    bad = Attempt({}, (), 0.9, 0.9, 5.0, False)
    failed = Attempt.failed({}, (), "NaN")
    _, best = search(lambda options, kept: bad if kept else failed, [{}], lambda: ["a", "b"])
    assert best is bad
    assert failed.facts["drop"] is None
    assert failed.words == "defaults: NaN"


def test_moved_is_the_divergence_and_of_numbers_the_relative_square():
    logits = np.array([[0.0, 1.0], [2.0, 0.0]], np.float32)
    other = np.array([[0.5, 1.0], [2.0, 0.0]], np.float32)
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (logits, other))
    expected = (p * np.log(p / q)).sum(1).mean()
    assert HEADS["single_label"].movement(other, logits) == pytest.approx(expected, rel=1e-5)
    assert HEADS["multi_label"].movement(logits, logits) == 0
    numbers = np.array([[0.0], [2.0]], np.float32)
    assert HEADS["regression"].movement(numbers + 1, numbers) == pytest.approx(1.0)


def test_numbers_are_judged_by_their_correlation():
    rng = np.random.default_rng(1)
    truth = rng.random(ROWS)
    logits = (truth + rng.normal(0, 0.1, ROWS)).astype(np.float32)[:, None]
    guard = AccuracyGate(Answers(NUMBERS, truth), None, logits, 0.01)
    assert guard.judge_logits(logits + 0.001, {}).passes
    assert not guard.judge_logits(logits + rng.normal(0, 0.2, logits.shape), {}).passes


def found(passing, moves=None, allowed=()):
    """What `search` does where these (options, kept) pass, or lose no more than is allowed."""

    def attempt(options, kept):
        key = (options.get("n", 0), len(kept))
        far = (moves or {}).get(key, 1.0 / (1 + len(kept)))
        ok = key in passing
        drop = 0.0 if ok else 0.1 * far
        return Attempt(dict(options), tuple(kept), drop, 0.0, far, ok, ok or key in allowed)

    return search(attempt, [{}, {"n": 1}, {"n": 2}], lambda: ["a", "b", "c", "d", "e", "f"])


def test_the_defaults_are_enough_where_they_pass():
    tried, best = found({(0, 0), (1, 0)})
    assert len(tried) == 1
    assert best.passes


def test_of_the_switches_that_pass_the_nearest_is_taken():
    tried, best = found({(1, 0), (2, 0)}, {(1, 0): 0.3, (2, 0): 0.2})
    assert len(tried) == 3
    assert best.options == {"n": 2}


def test_then_the_worst_modules_stay_by_twos():
    tried, best = found({(1, 2)}, {(1, 0): 0.3, (0, 0): 0.5, (2, 0): 0.5})
    assert best.kept == ("a", "b")
    assert [len(each.kept) for each in tried] == [0, 0, 0, 1, 2]


def test_where_nothing_passes_the_smallest_loss_is_taken_and_named():
    tried, best = found(set())
    assert not best.passes
    assert best.drop == min(each.drop for each in tried)
    assert max(len(each.kept) for each in tried) == 2


def test_a_significant_loss_within_the_limit_is_taken_where_nothing_removes_it():
    tried, best = found(set(), {(0, 0): 0.08, (1, 0): 0.04}, allowed={(0, 0), (1, 0)})
    assert len(tried) == 5, "everything was tried first"
    assert (best.options, best.kept) == ({"n": 1}, ())
    assert best.allowed
    assert not best.passes


def test_a_significant_loss_within_the_limit_goes_where_something_removes_it():
    tried, best = found({(0, 1)}, {(0, 0): 0.05}, allowed={(0, 0)})
    assert [len(each.kept) for each in tried] == [0, 0, 0, 1]
    assert best.passes
