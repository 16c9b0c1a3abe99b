"""Values are scikit-learn's and scipy's; intervals and tests are what a plain loop gives."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from bertcompress import metrics
from bertcompress.errors import ModelError, TaskError
from bertcompress.heads import HEADS, scoring
from bertcompress.task import Task

N = 300


def made(problem: str, rows: int = N, noise: float = 1.0, seed: int = 0):
    """Logits that know something, and references. Ties in the numbers on purpose."""
    rng = np.random.default_rng(seed)
    if problem == "regression":
        truth = rng.normal(size=rows).round(1)
        return (truth + noise * rng.normal(size=rows)).round(1)[:, None], truth
    if problem == "multi_label":
        truth = rng.integers(0, 2, (rows, 4))
        return truth - 0.5 + noise * rng.normal(size=truth.shape), truth
    if problem == "unlabelled":
        truth = rng.normal(size=(rows, 3))
        return truth + noise * rng.normal(size=truth.shape), truth
    classes = int(problem[-1])
    truth = rng.choice(classes, rows, p=[0.7, 0.3] if classes == 2 else [0.5, 0.3, 0.2])
    logits = noise * rng.normal(size=(rows, classes))
    logits[np.arange(rows), truth] += 1
    return logits, truth


CASES = [
    ("accuracy", "single_label_2"),
    ("f1", "single_label_2"),
    ("matthews", "single_label_2"),
    ("accuracy", "single_label_3"),
    ("f1_macro", "single_label_3"),
    ("matthews", "single_label_3"),
    ("accuracy", "multi_label"),
    ("f1_micro", "multi_label"),
    ("f1_macro", "multi_label"),
    ("pearson", "regression"),
    ("spearman", "regression"),
    ("mae", "regression"),
    ("agreement", "unlabelled"),
    ("kl", "unlabelled"),
]


CLASSES, NUMBERS = HEADS["single_label"], HEADS["regression"]


def head_of(kind: str):
    return HEADS[kind.rsplit("_", 1)[0] if kind.startswith("single") else kind]


def oracle(metric, logits, truth):
    """The metric by its library, from logits."""
    if metric == "kl":
        p, q = (np.exp(a) / np.exp(a).sum(1, keepdims=True) for a in (truth, logits))
        return float(stats.entropy(p, q, axis=1).mean())
    if metric == "mae":
        return float(sk.mean_absolute_error(truth, logits[:, 0]))
    if metric in ("pearson", "spearman"):
        test = stats.pearsonr if metric == "pearson" else stats.spearmanr
        return float(test(logits[:, 0], truth).statistic)
    decided = logits.argmax(1)
    if truth.ndim == 2:
        decided, truth = (
            (decided, truth.argmax(1)) if metric == "agreement" else (logits > 0, truth)
        )
    if metric == "matthews":
        return float(sk.matthews_corrcoef(truth, decided))
    if metric in ("accuracy", "agreement"):
        return float(sk.accuracy_score(truth, decided))
    average = {"f1": "binary", "f1_macro": "macro", "f1_micro": "micro"}[metric]
    return float(sk.f1_score(truth, decided, average=average))


@pytest.mark.parametrize(("metric", "kind"), CASES)
def test_value(metric, kind):
    logits, truth = made(kind)
    value = scoring.compute(head_of(kind), [metric], logits, truth)[metric]
    assert value == pytest.approx(oracle(metric, logits, truth), abs=1e-9)


@pytest.mark.parametrize(("metric", "kind"), CASES)
def test_resamples_are_the_metric_of_resampled_rows(metric, kind):
    """Counts over kinds of rows give exactly what indexing the rows gives."""
    logits, truth = made(kind, rows=60)
    decided, sided = scoring.sides(head_of(kind), metric, logits, truth)
    rng = np.random.default_rng(1)
    for _ in range(5):
        index = rng.integers(0, 60, 60)
        counts = np.bincount(index, minlength=60)[None, :].astype(float)
        found = metrics.METRICS[metric]
        got = found.weighted(found.statistics(decided, sided), counts)
        assert got[0] == pytest.approx(oracle(metric, logits[index], truth[index]), abs=1e-9)


@pytest.mark.parametrize(("metric", "kind"), CASES)
def test_interval_is_that_of_a_plain_bootstrap(metric, kind):
    logits, truth = made(kind)
    rng = np.random.default_rng(7)
    draws = [oracle(metric, logits[i], truth[i]) for i in rng.integers(0, N, (400, N))]
    low, high = np.quantile(draws, [0.025, 0.975])
    value, ours_low, ours_high = scoring.interval(head_of(kind), metric, logits, truth, seed=0)
    width = high - low
    assert ours_low < value < ours_high
    assert ours_low == pytest.approx(low, abs=0.2 * width)
    assert ours_high == pytest.approx(high, abs=0.2 * width)


def test_interval_is_fixed_by_its_seed():
    logits, truth = made("single_label_2")
    one, again, other = (
        scoring.interval(CLASSES, "accuracy", logits, truth, seed=s) for s in (3, 3, 4)
    )
    assert one == again
    assert one != other


def test_intervals_cover_the_truth():
    """A 95 % interval of 200 rows holds the score of a million in about 95 of 100 draws."""
    logits, truth = made("single_label_2", rows=200_000)
    whole = scoring.compute(CLASSES, ["matthews"], logits, truth)["matthews"]
    inside = 0
    for k in range(100):
        part = slice(k * 200, (k + 1) * 200)
        _, low, high = scoring.interval(CLASSES, "matthews", logits[part], truth[part])
        inside += low <= whole <= high
    assert 88 <= inside <= 99


@pytest.mark.parametrize(("metric", "kind"), CASES)
def test_paired_difference(metric, kind):
    better, truth = made(kind, rows=600, noise=0.5)
    worse, _ = made(kind, rows=600, noise=2.5)
    difference, low, high, p = scoring.paired_difference(
        head_of(kind), metric, better, worse, truth
    )
    values = [scoring.compute(head_of(kind), [metric], x, truth)[metric] for x in (better, worse)]
    assert difference == pytest.approx(values[0] - values[1])
    assert low <= difference <= high
    assert (difference > 0) == (not metrics.METRICS[metric].report_only)
    assert low * high > 0 and p < 0.01
    same = scoring.paired_difference(head_of(kind), metric, better, better, truth)
    assert same == (0.0, 0.0, 0.0, 1.0)


def test_mcnemar_is_the_binomial_test_of_disagreements():
    a = np.array([1] * 8 + [0] * 2 + [1] * 5, dtype=bool)
    b = np.array([0] * 8 + [1] * 2 + [1] * 5, dtype=bool)
    assert metrics.mcnemar(a, b) == pytest.approx(2 * sum(stats.binom.pmf(range(3), 10, 0.5)))
    assert metrics.mcnemar(a, a) == 1.0


def test_constant_answers_know_nothing():
    truth = np.arange(20.0)
    logits = np.full((20, 1), 0.3)
    for metric in ("pearson", "spearman"):
        assert scoring.interval(NUMBERS, metric, logits, truth) == (0.0, 0.0, 0.0)
    classes = (np.arange(20) % 2, np.tile([1.0, 0.0], (20, 1)))
    assert scoring.interval(CLASSES, "matthews", classes[1], classes[0]) == (
        0.0,
        0.0,
        0.0,
    )


@pytest.mark.parametrize(
    ("metric", "logits", "truth", "problem", "says", "error"),
    [
        ("acuracy", [[0.0, 1.0]], [1], "single_label", "did you mean 'accuracy'", TaskError),
        ("pearson", [[0.0, 1.0]], [1], "single_label", "does not fit a single_label", TaskError),
        (
            "accuracy",
            [[np.nan, 1.0]],
            [1],
            "single_label",
            "NaN or infinity for 1 of 1",
            ModelError,
        ),
        ("accuracy", [[0.0, 1.0]], [1, 0], "single_label", "1 answers for 2", TaskError),
        ("accuracy", np.zeros((0, 2)), [], "single_label", "0 answers for 0", TaskError),
        ("agreement", [[0.3]], [[0.2]], "unlabelled", "one output; use spearman", TaskError),
    ],
)
def test_refusals(metric, logits, truth, problem, says, error):
    with pytest.raises(error, match=says):
        scoring.compute(HEADS[problem], [metric], np.asarray(logits), np.asarray(truth))


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews"])
def test_ten_thousand_rows_are_quick(metric):
    logits, truth = made("single_label_2", rows=10_000)
    scoring.interval(CLASSES, metric, logits[:10], truth[:10])  # imports
    start = time.process_time()
    scoring.interval(CLASSES, metric, logits, truth)
    assert time.process_time() - start < 0.2


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["accuracy", "f1"], "single_label_2"),
        (["f1_micro"], "multi_label"),
        (["spearman", "pearson"], "regression"),
        (["agreement", "kl"], "unlabelled"),
    ],
)
def test_evaluate_metric(names, kind, tmp_path, monkeypatch):
    logits, truth = made(kind)
    metric = scoring.task_metric(names, head_of(kind))
    for part in (slice(0, 100), slice(100, N)):
        metric.add_batch(predictions=logits[part], references=truth[part])
    assert metric.compute() == pytest.approx(
        scoring.compute(head_of(kind), names, logits, truth), abs=1e-6
    )


def test_a_task_gives_its_metric():
    import evaluate

    columns = {"name": "mine", "dataset": "me/mine", "text": "text", "label": "label"}
    metric = Task(**columns, problem="single_label", labels=("no", "yes")).metric()
    assert isinstance(metric, evaluate.Metric)
    found = metric.compute(predictions=[[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]], references=[1, 1, 1])
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert set(found) == {"accuracy", "f1", "matthews"}
    with pytest.raises(TaskError, match=r"load_data\(task\).task.metric"):
        Task(**columns).metric()


SUMMED = [name for name, metric in metrics.METRICS.items() if not metric.of_ranks]


@pytest.mark.parametrize(("metric", "kind"), [case for case in CASES if case[0] in SUMMED])
def test_a_score_is_a_function_of_sums_over_rows(metric, kind):
    logits, truth = made(kind)
    found = metrics.METRICS[metric]
    rows = head_of(kind).statistics(found, logits, truth)
    assert len(rows) == N and rows.ndim == 2
    value = found.value(rows[:100].sum(axis=0) + rows[100:].sum(axis=0))
    assert float(value) == pytest.approx(oracle(metric, logits, truth), abs=1e-12)


@pytest.mark.parametrize(("scale", "shift"), [(1e-9, 0.0), (1.0, 1e6), (1e12, -1e15)])
@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_correlations_do_not_depend_on_units(metric, scale, shift):
    logits, truth = made("regression")
    plain = scoring.interval(NUMBERS, metric, logits, truth)
    moved = scoring.interval(NUMBERS, metric, scale * logits + shift, scale * truth + shift)
    assert moved == pytest.approx(plain, abs=1e-7)
    assert plain[0] == pytest.approx(oracle(metric, logits, truth), abs=1e-12)


def test_a_resample_of_equal_numbers_has_no_correlation():
    found = metrics.METRICS["pearson"]
    x, y = np.array([0.1, 7.3, 0.2]), np.array([0.3, 0.9, 0.1])
    rows = found.statistics(x, y)
    drawn = np.array([[3.0, 0.0, 0.0], [0.0, 1000.0, 0.0], [1.0, 1.0, 1.0]])
    assert found.weighted(rows, drawn)[:2].tolist() == [0.0, 0.0]
    assert found.weighted(rows, drawn)[2] == pytest.approx(stats.pearsonr(x, y).statistic)


def test_resamples_without_a_difference_count_for_both_sides():
    differences = np.array([0.1, 0.2, 1e-17, -1e-17])
    assert metrics.p_value(differences) == 1.0
    assert metrics.p_value(np.full(999, 0.1)) == pytest.approx(2 / 1000)


def test_a_head_may_say_what_each_row_adds():
    class Lenient(type(CLASSES)):
        """A neighbour of the right class is half right."""

        def statistics(self, metric, answers, references):
            off = np.abs(self.decided(metric, answers) - references)
            return np.stack([np.maximum(0, 1 - off / 2), np.ones(len(off))], axis=1)

    logits, truth = made("single_label_3")
    head, off = Lenient(), np.abs(logits.argmax(1) - truth)
    value, low, high = scoring.interval(head, "accuracy", logits, truth)
    assert value == pytest.approx(1 - off.mean() / 2)
    assert low < value < high and high - low < 0.2
    assert scoring.compute(head, ["accuracy"], logits, truth)["accuracy"] == value
    assert scoring.compute(CLASSES, ["accuracy"], logits, truth)["accuracy"] < value
