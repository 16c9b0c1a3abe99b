"""How a score stands to chance: below it, above it, and with the classes in another order."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from bertcompress.data import load_data
from bertcompress.errors import TaskError
from bertcompress.measure.chance import best_order
from bertcompress.measure.scores import score
from bertcompress.task import Task

NAMES = ("red", "green", "blue")


def task_data(labels, *, names=None, model_labels=None, rows=None, **fields):
    """A task whose validation rows have these labels."""
    texts = [f"text {i}" for i in range(len(labels))]
    train = {"text": [f"other {i}" for i in range(len(labels))], "label": list(labels)}
    if len(labels) == 1:
        train = {"text": ["a", "b"], "label": [labels[0], labels[0] - 1]}
    data = {"train": train, "validation": {"text": texts, "label": list(labels)}}
    sets = DatasetDict({name: Dataset.from_dict(columns) for name, columns in data.items()})
    task = Task.from_dataset(sets, text="text", label="label", labels=names, **fields)
    return load_data(task, model_labels=model_labels)


def headline(data, logits):
    rows = score(data.task, data, "validation", np.asarray(logits, np.float32))
    return next(row for row in rows if row.headline)


def classes(rows=120):
    return np.random.default_rng(0).choice(3, rows, p=[0.4, 0.3, 0.3])


def test_a_score_says_whether_it_is_above_chance():
    truth = classes()
    data = task_data(truth.tolist(), names=NAMES)
    good = headline(data, np.eye(3)[truth])
    assert good.standing.above and not good.standing.below and good.alarm == ""
    usual = np.full_like(truth, np.bincount(truth).argmax())
    constant = headline(data, np.eye(3)[usual])
    assert not constant.standing.above and not constant.standing.below
    assert constant.standing.chance == pytest.approx(constant.value, abs=1e-4)
    assert constant.alarm.startswith("not above chance") and "wrong order" not in constant.alarm
    others = [r for r in score(data.task, data, "validation", np.eye(3)[truth]) if not r.headline]
    assert all(row.standing is None for row in others)


@pytest.mark.parametrize(("rows", "above"), [(8, False), (40, True)])
def test_a_handful_of_right_rows_is_not_above_chance(rows, above):
    """Every resample of eight right rows is right; by chance they are all right in 10 of 100."""
    truth = np.arange(rows) % 4 == 0
    data = task_data(truth.astype(int).tolist(), names=("no", "yes"))
    found = headline(data, np.eye(2)[truth.astype(int)])
    assert (found.value, found.standing.chance, found.standing.above) == (1.0, 0.75, above)
    assert found.alarm.endswith("; so few rows could be right by chance") is not above


@pytest.mark.parametrize(("rows", "above"), [(5, False), (30, True)])
def test_a_handful_of_numbers_is_not_above_chance(rows, above):
    truth = np.linspace(0, 1, rows)
    data = task_data(truth.tolist(), problem="regression", metrics=["spearman"])
    assert headline(data, truth[:, None]).standing.above is above


@pytest.mark.parametrize("order", [(1, 2, 0), (2, 0, 1), (1, 0, 2)])
def test_a_wrong_order_of_classes_is_found(order):
    truth = classes()
    answers = np.asarray(order)[truth]  # class i is answered as class order[i]
    answers[:6] = truth[:6]
    data = task_data(truth.tolist(), names=NAMES)
    found = headline(data, np.eye(3)[answers])
    moved = {NAMES[to]: NAMES[i] for i, to in enumerate(order) if i != to}
    assert found.standing.order == moved
    undone = np.argsort(order)[answers]
    assert found.standing.order_accuracy == pytest.approx((undone == truth).mean())
    assert f"scores {(undone == truth).mean():.3f} accuracy" in found.alarm
    assert found.standing.below == (found.value < 0.2)


def test_the_order_is_told_in_the_names_of_the_references():
    truth = classes()
    answers = (truth + 1) % 3
    # The model numbers the classes another way; its logits come back in the task's order.
    data = task_data(truth.tolist(), names=NAMES, model_labels={0: "blue", 1: "red", 2: "green"})
    assert data.order is not None
    found = headline(data, np.eye(3)[answers])
    assert found.standing.order == {"green": "red", "blue": "green", "red": "blue"}


def test_noise_over_many_classes_has_no_better_order():
    draw = np.random.default_rng(3)
    names = tuple(f"intent {i}" for i in range(77))
    for _ in range(20):
        answers, truth = draw.integers(0, 77, (2, 600))
        assert best_order(answers, truth, names) == ({}, None)
    order = draw.permutation(77)
    moved, accuracy = best_order(order[truth], truth, names)
    assert accuracy == 1.0
    assert len(moved) == int((order != np.arange(77)).sum())


def test_two_rows_are_no_proof_of_a_wrong_order():
    assert best_order(np.array([0, 1]), np.array([1, 0]), ("a", "b")) == ({}, None)


def test_worse_than_the_mean_is_at_chance():
    truth = np.linspace(20_000, 30_000, 80)
    data = task_data(truth.tolist())
    rows = score(data.task, data, "validation", np.linspace(1, 5, 80)[:, None].astype(np.float32))
    assert [row.metric for row in rows] == ["spearman", "pearson", "mae"]
    assert rows[0].value == pytest.approx(1.0)
    assert rows[2].value == pytest.approx(25_000 - 3, rel=1e-3)
    assert not rows[0].standing.above and rows[0].standing.error_ratio > 50
    assert "answering their mean is better" in rows[0].alarm
    right = headline(data, truth[:, None])
    assert right.standing.above and right.standing.error_ratio < 1e-6
    reversed_ = headline(data, truth[::-1, None])
    assert reversed_.standing.below


def test_one_row_is_given_no_score_that_it_cannot_have():
    numbers = task_data([2.5])
    (mae,) = score(numbers.task, numbers, "validation", np.array([[2.0]], np.float32))
    assert (mae.metric, mae.value, mae.ci_low, mae.ci_high) == ("mae", 0.5, None, None)
    words = task_data([1], names=("no", "yes"))
    rows = score(words.task, words, "validation", np.array([[0.0, 1.0]], np.float32))
    assert {row.metric for row in rows} == {"accuracy", "f1"}
    assert all(row.ci_low is None and row.ci_high is None for row in rows)
    assert "of one row" in rows[0].alarm


def test_nothing_is_chosen_by_an_error_in_units():
    fields = {"name": "x", "dataset": "me/x", "text": "a", "label": "b", "problem": "regression"}
    for given in ({"metrics": ["mae", "pearson"]}, {"headline": "mae"}):
        with pytest.raises(TaskError, match="put spearman or pearson first"):
            Task._checked("x", {**fields, **given})
    assert Task(**fields, metrics=("pearson", "mae")).metrics == ("pearson", "mae")


def test_nothing_is_chosen_by_a_divergence():
    """The lower one is the better one: a report told the worse of two models as the better."""
    fields = {"name": "x", "dataset": "me/x", "text": "a", "label": None, "problem": "unlabelled"}
    for given in ({"metrics": ["kl", "agreement"]}, {"headline": "kl"}):
        with pytest.raises(TaskError, match="lower, and nothing is chosen by that; put agreement"):
            Task._checked("x", {**fields, **given})


def unlabelled(original, logits, **fields):
    """Scores by the original's answers, where no row has a label."""
    train, validation = (
        Dataset.from_dict({"text": [f"{word} {i}" for i in range(len(original))]})
        for word in ("other", "text")
    )
    sets = DatasetDict(train=train, validation=validation)
    data = load_data(Task.from_dataset(sets, text="text", **fields))
    outputs = [np.asarray(each, np.float32) for each in (logits, original)]
    rows = score(data.task, data, "validation", *outputs)
    return {row.metric: row for row in rows}


def test_without_labels_chance_is_the_originals_most_frequent_class():
    original = np.eye(3)[classes()] + 0.1
    usual = original.argmax(axis=1)
    most = np.bincount(usual).max() / len(usual)
    same = unlabelled(original, 2 * original)
    assert same["agreement"].standing.chance == most
    assert same["agreement"].alarm == "" and same["kl"].standing is None
    constant = np.tile(np.eye(3)[np.bincount(usual).argmax()], (len(usual), 1))
    found = unlabelled(original, constant)["agreement"]
    assert found.value == pytest.approx(most)
    assert found.alarm.startswith("not above chance")


def test_an_original_that_answers_all_rows_alike_is_no_judge():
    original = np.tile([0.2, 0.9, 0.1], (50, 1))
    assert unlabelled(original, original)["agreement"].alarm.startswith("not above chance: 1.000")


def test_without_labels_a_number_without_relation_to_the_originals_is_at_chance():
    draw = np.random.default_rng(1)
    original, other = draw.normal(size=(2, 80, 1))
    assert unlabelled(original, original * 3 + 1, metrics=["pearson"])["pearson"].alarm == ""
    found = unlabelled(original, other, metrics=["pearson"])["pearson"]
    assert found.standing.chance == 0 and found.alarm.startswith("not above chance")
