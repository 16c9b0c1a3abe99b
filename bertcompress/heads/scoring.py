"""Scores of answers: a head decides, a metric compares, intervals and tests resample rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from bertcompress import metrics
from bertcompress.errors import TaskError
from bertcompress.heads.head import Array, Head
from bertcompress.heads.metric_fit import check_fits

__all__ = ["compute", "interval", "paired_difference", "resampled", "sides", "task_metric"]


def sides(head: Head, metric: str, answers: Array, references: Array) -> tuple[Array, Array]:
    """Return what the metric compares: decided answers and what is right.

    Shape: answers (N, K); references (N,), (N, K) for bits, and without labels the original model's
    answers (N, K). Raises TaskError for a metric that does not fit, ModelError on NaN.
    """
    found = check_fits(head, metric)
    references = np.asarray(references)
    if len(answers) != len(references) or not len(references):
        raise TaskError(f"{len(answers)} answers for {len(references)} references")
    return head.decided(found, answers), head.right(found, references)


def compute(
    head: Head, names: Sequence[str], answers: Array, references: Array
) -> dict[str, float]:
    """Return each metric's value. Shape and errors: see `sides`."""
    return {name: _score(head, name, answers, references) for name in names}


def _score(head: Head, metric: str, answers: Array, references: Array) -> float:
    sides(head, metric, answers, references)
    found = head.metrics[metric]
    return found.score(head.statistics(found, answers, np.asarray(references)))


def resampled(
    head: Head, metric: str, models: Sequence[Array], references: Array, seed: int = 0
) -> Array:
    """Return the metric of the answers of some models on 1,000 resamples of the same rows.

    Shape: models (N, K) each, references as in `sides` -> (models, 1,000).
    """
    found, references = check_fits(head, metric), np.asarray(references)
    if found.of_all_rows:
        every = [head.statistics(found, answers, references) for answers in models]
        first, counts = metrics.kinds(every)
        return metrics.resampled(found, [each[first] for each in every], counts, seed)
    compared = [sides(head, metric, answers, references) for answers in models]
    first, counts = metrics.kinds([*(decided for decided, _ in compared), compared[0][1]])
    statistics = [head.statistics(found, each[first], references[first]) for each in models]
    return metrics.resampled(found, statistics, counts, seed)


def interval(
    head: Head, metric: str, answers: Array, references: Array, seed: int = 0
) -> tuple[float, float, float]:
    """Return value, low and high of the 95 % bootstrap over rows. Shape: see `sides`."""
    draws = resampled(head, metric, [answers], references, seed)[0]
    return (_score(head, metric, answers, references), *metrics.percentiles(draws))


def paired_difference(
    head: Head, metric: str, a: Array, b: Array, references: Array, seed: int = 0
) -> tuple[float, float, float, float]:
    """Return `a - b`, its 95 % interval on the same resampled rows, and the two-sided p value.

    p: McNemar's exact test for accuracy-like metrics, else from the bootstrap. Shape: see `sides`.
    """
    found, references = check_fits(head, metric), np.asarray(references)
    draws = resampled(head, metric, [a, b], references, seed)
    statistics = [head.statistics(found, each, references) for each in (a, b)]
    differences = draws[0] - draws[1]
    if found.accuracy_like:
        p = metrics.mcnemar(*(each[:, 0] > 0.5 for each in statistics))
    else:
        p = max(metrics.p_value(differences), metrics.least_p(len(statistics[0])))
    value = found.score(statistics[0]) - found.score(statistics[1])
    return (value, *metrics.percentiles(differences), p)


@cache
def _task_metric_class() -> type[Any]:
    """Return the class; `evaluate` takes seconds to import, and few callers need it."""
    import datasets
    import evaluate

    class TaskMetric(evaluate.Metric):  # type: ignore[misc]
        """The metrics of a task behind the interface of `evaluate`; nothing is downloaded."""

        def __init__(self, names: Sequence[str], head: Head, **options: Any) -> None:
            self.names, self.head = tuple(names), head
            super().__init__(config_name=head.key, **{"keep_in_memory": True, **options})

        def _info(self) -> Any:
            rows = datasets.Sequence(datasets.Value("float32"))
            one = datasets.Value("float32" if self.head.has_units else "int64")
            if self.head.by_name:  # a class for each word
                rows, one = datasets.Sequence(rows), datasets.Sequence(one)
            single = self.head.one_value or self.head.by_name
            references = self.head.reference_feature() or (one if single else rows)
            return evaluate.MetricInfo(
                description="Metrics of a bertcompress task",
                citation="",
                inputs_description="predictions: logits; references: labels, or original logits",
                features=datasets.Features({"predictions": rows, "references": references}),
            )

        def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
            return compute(self.head, self.names, np.asarray(predictions), np.asarray(references))

    return TaskMetric


def task_metric(names: Sequence[str], head: Head) -> Any:
    """Return a local `evaluate.Metric` that takes logits; nothing is downloaded."""
    return _task_metric_class()(names, head)
