"""What a model is worth: scores with their intervals, and the comparison with the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bertcompress import metrics
from bertcompress.data import TaskData, numpy_batches
from bertcompress.errors import ModelError
from bertcompress.heads import Head
from bertcompress.heads.scoring import compute, interval, paired_difference, resampled
from bertcompress.measure.chance import Standing, standing_of, standing_to_original
from bertcompress.measure.row import Row
from bertcompress.runtimes import Batch, Logits, Predictor, depends_on_company
from bertcompress.support.progress import bar
from bertcompress.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "BATCH",
    "Comparison",
    "Cost",
    "Score",
    "compare",
    "flips",
    "predict",
    "score",
    "task_batches",
]

BATCH = 32
"""Texts of like length that are answered together, where nobody says otherwise."""


class Score(Row):
    """One metric on one split."""

    metric: str = Field(description="Name of the metric")
    value: float = Field(
        description="0 to 1; correlations -1 to 1; kl from 0; mae in the units of the target"
    )
    ci_low: float | None = Field(
        description="Lower end of the 95 % interval over examples; null for one row"
    )
    ci_high: float | None = Field(description="Upper end of the 95 % interval over examples")
    n: int = Field(ge=1, description="Examples")
    headline: bool = Field(description="Whether this metric decides")
    split: str = Field(description="The split that was scored")
    standing: Standing | None = Field(
        None,
        description="Of the headline, and without labels of each metric: how it stands to chance; "
        "null where nobody knows a chance level",
    )

    @property
    def alarm(self) -> str:
        """What is wrong with the score as the end of a sentence; empty where it is above chance."""
        if self.standing is None:
            return ""
        return self.standing.words(self.metric, self.value, self.ci_low, self.ci_high)


class Comparison(Row):
    """A model beside the baseline, on the same rows, by the headline metric."""

    retention: float | None = Field(description="Score divided by the baseline's")
    retention_low: float | None = Field(description="Lower end of its paired 95 % interval")
    retention_high: float | None = Field(description="Upper end of its paired 95 % interval")
    retention_chance_corrected: float | None = Field(
        description="(score - chance) / (baseline - chance); null without a chance level"
    )
    flipped: float | None = Field(description="Share of predictions that differ; null for numbers")
    p_value: float | None = Field(
        description="McNemar for accuracy-like metrics, else paired bootstrap; null without labels"
    )
    difference: float = Field(description="Score minus the baseline's")
    difference_low: float = Field(description="Lower end of its paired 95 % interval")
    difference_high: float = Field(description="Upper end of its paired 95 % interval")


class Cost(Row):
    """What one step of compressing cost."""

    seconds: float = Field(ge=0, description="Wall clock")
    steps: int | None = Field(None, ge=0, description="Optimizer steps")
    samples: int | None = Field(None, ge=0, description="Examples seen, repeats counted")
    peak_memory_mb: float | None = Field(None, ge=0, description="Of the process, 10^6 bytes")
    reused: bool = Field(False, description="Taken from the stage store; paid by an earlier run")


def predict(
    predictor: Predictor,
    data: TaskData,
    split: str,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int | None = None,
    config: Any = None,
) -> Logits:
    """Return the answers for a split, rows and classes in the order of the task. Shape: (N, K).

    One for each row: the head joins what the model puts out for its features. `batch_size`: texts
    answered together; None takes one where the answer depends on the others of a batch, as in int8,
    since one text is what a server is asked for, and `BATCH` elsewhere. `config`: of the model,
    which tells how some heads read its answers.
    Raises ModelError for a model that does not give one answer of the task's width for each row.
    """
    if batch_size is None:
        batch_size = 1 if depends_on_company(predictor) else BATCH
    head, encoded = data.task.head, data.encoded(tokenizer, split)
    features = encoded.dataset
    if not len(features):
        raise ModelError(f"{split}: there are no rows to predict")
    outputs: list[Logits] = [np.empty(0, np.float32)] * len(features)
    batches = numpy_batches(features, tokenizer, batch_size, head=head)
    for positions, batch in bar(batches, f"answering {split}", -(-len(features) // batch_size)):
        answer = np.array(predictor(batch), np.float32)  # a copy: runtimes reuse what they give
        _check_shape(data, split, answer)
        each = head.feature_outputs(data.in_task_order(answer), batch["attention_mask"])
        for position, output in zip(positions.tolist(), each, strict=True):
            outputs[position] = output
    return head.settled(head.answers(outputs, encoded), head.settings_in(config))


def _check_shape(data: TaskData, split: str, answer: Logits) -> None:
    """Raise ModelError for a model that does not answer as the head of the task does."""
    head = data.task.head
    pooled = head.auto_class is None and answer.ndim == 2
    if answer.ndim != head.output_axes and not pooled:
        raise ModelError(
            f"{split}: the model answers with shape {answer.shape} for {len(answer)} rows; "
            + (
                "a task needs one row of logits for each: a sequence classification head"
                if head.output_axes == 2
                else f"a {head.key} task needs logits for each of their tokens"
            )
        )
    if data.num_labels and answer.shape[-1] != data.num_labels:
        raise ModelError(
            f"{split}: the model answers with {answer.shape[-1]} numbers, task "
            f"'{data.task.name}' needs {data.num_labels}: its head is for another task"
        )


def score(
    task: Task,
    data: TaskData,
    split: str,
    logits: Logits,
    references: NDArray[Any] | None = None,
) -> list[Score]:
    """Return the task's metrics on a split, each with its 95 % interval over examples.

    A metric that these references do not allow is left out: one row has no correlation, and no
    interval.

    Args:
        task: As resolved (`data.task`).
        data: Where the labels come from.
        split: Name of the split.
        logits: From `predict`. Shape: (N, K).
        references: Instead of the labels; without labels the original's logits. Shape: (N, K).
    """
    references = data.references(split) if references is None else references
    # In the order of the references: the task's, which the model's may differ from.
    labels = tuple(data.labels[i] for i in data.order) if data.order else data.labels
    rows, examples = [], task.head.examples(references)
    for metric in task.metrics:
        if not metrics.given(task.head.metrics[metric], references):
            continue
        value, low, high = interval(task.head, metric, logits, references)
        span = (low, high) if examples > 1 else None
        headline = metric == task.headline
        rows.append(
            Score(
                metric=metric,
                value=value,
                ci_low=span[0] if span else None,
                ci_high=span[1] if span else None,
                n=examples,
                headline=headline,
                split=split,
                standing=_standing(task, metric, labels, logits, references, span),
            )
        )
    return rows


def _standing(
    task: Task,
    metric: str,
    labels: tuple[str, ...],
    logits: Logits,
    references: NDArray[Any],
    span: tuple[float, float] | None,
) -> Standing | None:
    """Return how a score stands to chance: of the headline, and without labels of each metric."""
    if not task.head.has_labels:
        return standing_to_original(task.head, metric, logits, references, span)
    if metric != task.headline:
        return None
    return standing_of(task, labels, logits, references, span)


def compare(
    task: Task, logits: Logits, baseline_logits: Logits, references: NDArray[Any]
) -> Comparison:
    """Return how a model stands to the baseline on the same rows.

    Shape: both (N, K); references (N,) or (N, K), without labels the baseline's logits.
    """
    name, head = task.headline, task.head
    difference, low, high, p_value = paired_difference(
        head, name, logits, baseline_logits, references
    )
    base = compute(head, [name], baseline_logits, references)[name]
    retention = _ratio(base + difference, base)
    span = (
        _retention_interval(task, logits, baseline_logits, references)
        if retention is not None
        else None
    )
    metric = head.metrics[name]
    chance = (
        task.chance
        if head.has_labels
        else head.original_chance(metric, logits, np.asarray(references))
    )
    return Comparison(
        retention=retention,
        retention_low=span[0] if span else None,
        retention_high=span[1] if span else None,
        retention_chance_corrected=(
            None if chance is None else _ratio(base + difference - chance, base - chance)
        ),
        flipped=flips(logits, baseline_logits, head),
        # Without labels the baseline is right by definition: there is nothing to test.
        p_value=p_value if head.has_labels else None,
        difference=difference,
        difference_low=low,
        difference_high=high,
    )


def _ratio(value: float, base: float) -> float | None:
    """Return the quotient, None where the baseline is no better than nothing."""
    return value / base if base > 0 else None


def _retention_interval(
    task: Task, logits: Logits, baseline_logits: Logits, references: NDArray[Any]
) -> tuple[float, float] | None:
    sides = [logits, baseline_logits]
    ours, theirs = resampled(task.head, task.headline, sides, references)
    return None if (theirs <= 0).any() else metrics.percentiles(ours / theirs)


def flips(logits: Logits, baseline_logits: Logits, head: Head) -> float | None:
    """Return the share of rows that are decided otherwise; None for numbers. Shape: both (N, K)."""
    changed = head.changed(logits, baseline_logits)
    return None if changed is None else float(changed.mean())


def task_batches(
    data: TaskData,
    split: str,
    tokenizer: PreTrainedTokenizerBase,
    sizes: Sequence[int] = (1, 8),
    rows: int = 64,
) -> dict[int, list[Batch]]:
    """Return random features of a split as batches of each size, padded to the longest.

    They are the same for each size, but of a search: queries one by one, and documents in batches.
    In random order, as a server meets them: rows sorted by length would flatter padding. A size of
    which there are too few rows for one batch is left out.
    """
    encoded, head = data.encode(tokenizer, split), data.task.head
    made: dict[int, list[Batch]] = {}
    for size in sizes:
        places = head.served(encoded, size)
        drawn = np.random.default_rng(0).permutation(len(places))[: max(rows, max(sizes))]
        if size <= len(drawn):
            chosen = encoded.select(places[drawn].tolist())
            batches = numpy_batches(chosen, tokenizer, size, False, head)
            made[size] = [batch for positions, batch in batches if len(positions) == size]
    return made
