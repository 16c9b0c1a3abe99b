"""How a score stands to what answering without reading the texts gets, and why it may be below."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bertcompress.heads import Head
from bertcompress.measure.row import Row
from bertcompress.metrics import SIGNIFICANT, Metric, least_p
from bertcompress.task import Task

__all__ = ["Standing", "best_order", "standing_of", "standing_to_original"]

Array = NDArray[Any]

NAMED = 6
"""So many classes are named in a sentence."""


class Standing(Row):
    """A headline score beside the chance level: what needs no reading of the texts."""

    chance: float = Field(
        description="Headline score of the best constant answer; of rankings that of a random order"
    )
    random_order: bool = Field(False, description="Whether chance is that of a random order")
    above: bool = Field(
        description="Whether the whole 95 % interval lies above it; numbers: and the squared error "
        "is below the variance of the targets"
    )
    below: bool = Field(description="Whether the whole 95 % interval lies below it")
    error_ratio: float | None = Field(
        None,
        ge=0,
        description="Numbers: squared error divided by the variance of the targets; above 1 it is "
        "worse than answering their mean",
    )
    order: dict[str, str] = Field(
        {},
        description="Where the classes are read in a wrong order: each class as it is read, and "
        "the one that it stands for; empty otherwise",
    )
    order_accuracy: float | None = Field(
        None, ge=0, le=1, description="Accuracy with the classes read in that order"
    )

    def bar(self, least: float) -> float:
        """Return the score that keeps this share of what exceeds chance, 1 being perfect."""
        return self.chance + least * (1 - self.chance)

    def words(self, metric: str, value: float, low: float | None, high: float | None) -> str:
        """Return what is wrong with the score as the end of a sentence; empty where nothing is."""
        if self.above:
            return ""
        span = "of one row" if low is None or high is None else f"interval {low:.3f} to {high:.3f}"
        place = "significantly below chance" if self.below else "not above chance"
        blind = "a random order" if self.random_order else "the best constant answer"
        words = f"{place}: {value:.3f} {metric} ({span}), and {blind} scores {self.chance:.3f}"
        if self.error_ratio is not None and self.error_ratio > 1:
            words += (
                f"; its squared error is {self.error_ratio:.1f} times the variance of the targets: "
                "answering their mean is better"
            )
        elif low is not None and low > self.chance and not self.above:
            words += "; so few rows could be right by chance"
        elif self.error_ratio is not None and self.below:
            words += "; its answers fall where the targets rise: the scale may be reversed"
        if self.order:
            words += f"; the classes are nearly certainly in a wrong order: reading {self._read} "
            words += f"scores {self.order_accuracy:.3f} accuracy"
        return words

    @property
    def _read(self) -> str:
        pairs = [f"'{read}' as '{meant}'" for read, meant in self.order.items()]
        more = f" and {len(pairs) - NAMED} others" if len(pairs) > NAMED else ""
        return ", ".join(pairs[:NAMED]) + more


def standing_to_original(
    head: Head,
    metric: str,
    answers: Array,
    original: Array,
    interval: tuple[float, float] | None,
) -> Standing | None:
    """Return how a metric without labels stands to answers that read no text.

    None where nobody knows what those score. Shape: as `standing_of`, of the original's answers.
    """
    chance = head.original_chance(head.metrics[metric], answers, original)
    if chance is None:
        return None
    low, high = interval if interval else (-np.inf, np.inf)
    return Standing(chance=chance, above=bool(low > chance), below=bool(high < chance))


def standing_of(
    task: Task,
    labels: tuple[str, ...],
    logits: Array,
    references: Array,
    interval: tuple[float, float] | None,
) -> Standing | None:
    """Return how the headline stands to chance; None without labels, or where nobody knows.

    Shape: logits (N, K); references (N,) or (N, K). `interval`: of the headline, None for one row.
    """
    if not task.head.has_labels or task.chance is None:
        return None
    ratio, metric = None, task.head.metrics[task.headline]
    low, high = _bounds(task.head, metric, logits, references, interval)
    if task.head.has_units:
        ratio = _error_ratio(task.head.decided(metric, logits), references)
    above = bool(low > task.chance) and (ratio is None or ratio < 1)
    order: dict[str, str] = {}
    accuracy = None
    if labels and task.head.has_order and not above:
        order, accuracy = best_order(logits.argmax(axis=1), np.asarray(references), labels)
    return Standing(
        chance=task.chance,
        random_order=metric.of_all_rows,
        above=above,
        below=bool(high < task.chance),
        error_ratio=ratio,
        order=order,
        order_accuracy=accuracy,
    )


def _bounds(
    head: Head,
    metric: Metric,
    logits: Array,
    references: Array,
    interval: tuple[float, float] | None,
) -> tuple[float, float]:
    """Return between what a score is shown to lie; everything where rows are too few for that.

    Of shares of right rows no further than the exact interval (Clopper & Pearson 1934): resamples
    of eight right rows are all right.
    """
    if interval is None:
        return -np.inf, np.inf
    found = head.statistics(metric, logits, np.asarray(references))
    if metric.accuracy_like and (found[:, 1] == 1).all():
        from scipy.stats import binomtest

        exact = binomtest(int(found[:, 0].sum()), len(found)).proportion_ci()
        return min(interval[0], exact.low), max(interval[1], exact.high)
    return interval if least_p(len(found)) < SIGNIFICANT else (-np.inf, np.inf)


def _error_ratio(answers: Array, references: Array) -> float | None:
    """Return squared error over variance; None where all targets are equal. Shape: (N,) twice."""
    truth = np.asarray(references, float).ravel()
    variance = float(np.var(truth))
    return float(np.mean((answers - truth) ** 2)) / variance if variance > 0 else None


def best_order(
    decided: Array, references: Array, labels: tuple[str, ...]
) -> tuple[dict[str, str], float | None]:
    """Return which class each answer stands for, where another order is shown to be better.

    The order has the largest sum in the confusion matrix. It must hold on rows that it was not
    found on: of many classes, some order fits any noise. Shape: decided and references (N,),
    numbers of `labels`. Returns the classes that change, and the accuracy of all rows.
    """
    if not _holds(decided, references, len(labels)):
        return {}, None
    counts = _confusion(decided, references, len(labels))
    meant = _assigned(counts)
    order = {
        labels[read]: labels[to]
        for read, to in enumerate(meant.tolist())
        if read != to and counts[read, to]
    }
    return order, float((meant[decided] == references).mean()) if order else None


def _holds(decided: Array, references: Array, classes: int) -> bool:
    """Return whether orders found on one half of the rows are right on the other half.

    More often than the best constant answer, and than the classes as they are read.
    """
    from scipy.stats import binomtest

    rows = len(decided)
    half = np.random.default_rng(0).permutation(rows) < rows // 2
    right = 0
    for seen in (half, ~half):
        meant = _assigned(_confusion(decided[seen], references[seen], classes))
        right += int((meant[decided[~seen]] == references[~seen]).sum())
    level = max(np.bincount(references).max() / rows, float((decided == references).mean()))
    return bool(level < 1 and binomtest(right, rows, level, "greater").pvalue < 0.01)


def _confusion(decided: Array, references: Array, classes: int) -> Array:
    """Return how often each class was answered for each. Shape: (K, K), answers first."""
    counts = np.zeros((classes, classes))
    np.add.at(counts, (decided, references), 1)
    return counts


def _assigned(confusion: Array) -> Array:
    """Return the class that each answer stands for; itself where nothing tells. Shape: (K,)."""
    from scipy.optimize import linear_sum_assignment

    ties = 1e-6 * np.eye(len(confusion))
    return np.asarray(linear_sum_assignment(confusion + ties, maximize=True)[1])
