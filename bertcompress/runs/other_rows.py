"""The models beside a result become rows of the report: scores, sizes, times, and how far below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bertcompress.data import TaskData
from bertcompress.deployment import Deployment
from bertcompress.heads import Head
from bertcompress.heads.scoring import paired_difference
from bertcompress.measure.footprint import macs
from bertcompress.measure.scores import score
from bertcompress.measure.timing.candidates import Timing
from bertcompress.report.rows import DeploymentRow, Margin, Opponent
from bertcompress.report.speed import fastest_or_smallest
from bertcompress.runs.other_stages import OtherResult
from bertcompress.runs.report_rows import file_row, right_answers
from bertcompress.runs.results import StageResult
from bertcompress.runtimes import Logits
from bertcompress.task import Task

__all__ = ["OtherRows", "margin_over", "metric_across_spaces"]

Owned = tuple[Deployment, StageResult]


def margin_over(
    head: Head,
    metric: str,
    ours: Logits,
    theirs: Logits,
    references: NDArray[Any],
    path: str,
    against: str | None = None,
) -> Margin:
    """Return how far a deployment is above an opponent, on the same rows.

    `path`: of the deployment; `against`: of the opponent's file. Shape: see `heads.scoring.sides`.
    """
    difference, low, high, _ = paired_difference(head, metric, ours, theirs, references)
    return Margin(
        path=path,
        against=against,
        difference=difference,
        difference_low=low,
        difference_high=high,
    )


def metric_across_spaces(task: Task) -> str | None:
    """Return the metric by which vectors of another space than the original's are judged.

    None where the headline does: labels judge, or the answers of all models are of one space.
    """
    return None if task.head.has_labels else task.head.across_spaces


@dataclass(frozen=True)
class OtherRows:
    """Compares every file of another model with every file that ships, on the validation split."""

    data: TaskData
    baseline: StageResult
    folder: Path
    """The run folder that paths are told relative to."""
    shipped: Sequence[Owned]
    """What ships, and the stages that hold its answers."""
    timings: Mapping[Path, Timing]

    def of(self, other: OtherResult) -> Opponent:
        """Return the row of one model.

        Its own figures are of the file that is the fastest on single texts, else of the smallest:
        what would be deployed of it, as of the result.
        """
        rows = [self._row(each, owner, other) for each, owner in other.deployments]
        main = fastest_or_smallest(rows) or rows[0]
        product = other.product
        bare = self.data.task.head.auto_class is None
        answers = other.made.logits(other.made.deployments[0], "validation")
        return Opponent(
            kind="model",
            name=other.model.name,
            path=main.path,
            size_mb=main.size_mb,
            dimensions=answers.shape[-1] if bare else None,
            tokens=len(product.tokenizer),
            scores=main.scores,
            metric=self._task.headline,
            margins=tuple(m for owned in other.deployments for m in self._margins(*owned)),
            finetuned=other.model.finetune is not None,
            macs=macs(product.model),
            cost=other.made.record.cost,
            ended=other.made.record.findings.ended,
            deployments=tuple(rows),
            notes=other.notes,
        )

    @property
    def _task(self) -> Task:
        """The task by whose metrics another model is judged.

        Vectors of another space than the original's are compared by their neighbours alone.
        """
        task, metric = self.data.task, metric_across_spaces(self.data.task)
        if metric is None:
            return task
        return task.model_copy(update={"metrics": (metric,), "headline": metric})

    @cached_property
    def _references(self) -> NDArray[Any]:
        return right_answers(self.data, self.baseline, "validation")

    def _row(self, deployment: Deployment, owner: StageResult, other: OtherResult) -> DeploymentRow:
        answers = owner.logits(deployment, "validation")
        scores = score(self._task, self.data, "validation", answers, self._references)
        timing = self.timings.get(deployment.path)
        row = file_row(deployment, owner, self.folder, scores, timing)
        came = other.model.half_mb if other.model.finetune is None else None
        if owner is not other.made or came is None:
            return row
        return row.model_copy(update={"size_mb": min(row.size_mb, came)})

    def _margins(self, deployment: Deployment, owner: StageResult) -> list[Margin]:
        """Return how far each file that ships is above one of the other model."""
        task, theirs = self._task, owner.logits(deployment, "validation")
        against = self._path(deployment)
        return [
            margin_over(
                task.head,
                task.headline,
                ours.logits(each, "validation"),
                theirs,
                self._references,
                self._path(each),
                against,
            )
            for each, ours in self.shipped
        ]

    def _path(self, deployment: Deployment) -> str:
        return deployment.path.relative_to(self.folder).as_posix()
