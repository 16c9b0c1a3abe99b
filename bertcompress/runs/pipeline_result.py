"""`PipelineResult`: all stages of a recipe, computed and answered, before anything is shipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bertcompress.data import judged_digest
from bertcompress.deployment import Deployment, Layout
from bertcompress.measure.scores import Score, score
from bertcompress.measure.timing.candidates import Timing
from bertcompress.recipe import Recipe
from bertcompress.report import Report
from bertcompress.report.rows import Opponent, Reading, Stage
from bertcompress.runs.contests import Contest
from bertcompress.runs.other_rows import OtherRows
from bertcompress.runs.other_stages import OtherResult
from bertcompress.runs.prepare import Prepared
from bertcompress.runs.report_rows import ReportRows
from bertcompress.runs.results import StageResult
from bertcompress.runs.stage import Clock
from bertcompress.runtimes.hardware import environment
from bertcompress.support.files import copy_linked

__all__ = ["Owned", "PipelineResult"]

Owned = tuple[Deployment, StageResult]
"""A deployment, and the stage that holds its answers."""


@dataclass(frozen=True)
class PipelineResult:
    """All stages of a recipe. `ship` makes a run of it."""

    recipe: Recipe
    folder: Path
    """Where the stages lie, in `stages/`."""
    clock: Clock
    start: Prepared
    rows: list[StageResult]
    baseline: StageResult
    shaped: StageResult
    """The last stage that has a model of its own."""
    dense: StageResult | None
    """int8 of the baseline, where that is another model than what is shipped."""
    contests: dict[str, list[Contest]]
    """Stage name to the method beside each of its controls."""
    notes: dict[str, list[str]]
    precision: str | None = None
    """What `precision: auto` came to, once for the whole run."""
    others: list[OtherResult] = field(default_factory=list)
    """The models that stand beside the result; none of them ships."""

    @property
    def final(self) -> StageResult:
        """The stage that is shipped: the last one that is no probe's."""
        return next(row for row in reversed(self.rows) if not row.measures)

    def selection_scores(self, deployment: Deployment | None = None) -> list[Score]:
        """Return the scores of a deployment of the final stage on the selection split.

        By default its first one. These are what a search may choose by; what is reported is
        computed on other rows. Without labels: the agreement with the baseline.
        """
        data, split = self.start.data, "selection"
        chosen = deployment or self.final.deployments[0]
        references = (
            data.references(split)
            if data.task.head.has_labels
            else self.baseline.logits(self.baseline.deployments[0], split)
        )
        return score(data.task, data, split, self.final.logits(chosen, split), references)

    def report(self) -> Report:
        """Return the report of the stages as they are: nothing is shipped, and nothing timed."""
        dense = [(each, self.dense) for each in self.dense.deployments] if self.dense else []
        shipped = [(each, self.final) for each in self.final.deployments]
        rows = self.stage_rows(self.folder, shipped, dense)
        return self.report_of(rows, environment(), self.other_rows(shipped))

    def report_of(
        self, rows: Sequence[Stage], host: Mapping[str, Any], opponents: Sequence[Opponent] = ()
    ) -> Report:
        """Return the report of rows that were made on a machine, beside what stands beside them."""
        host = dict(host)
        if self.precision:
            host["training_precision"] = self.precision
        return Report.of(
            rows,
            recipe=self.recipe.model_dump(mode="json"),
            task=self.start.shipped.task.model_dump(mode="json"),
            environment=host,
            data=Reading(
                cut=self.start.cut,
                asked_length=self.start.shipped.asked_length,
                by_order=self.start.by_order,
                judged=judged_digest(self.start.shipped),
            ),
            opponents=opponents,
        )

    def other_rows(
        self, shipped: Sequence[Owned], timings: Mapping[Path, Timing] | None = None
    ) -> tuple[Opponent, ...]:
        """Return a row for each model beside the result. `shipped`: as in `stage_rows`."""
        rows = OtherRows(self.start.data, self.baseline, self.folder, shipped, timings or {})
        return tuple(rows.of(each) for each in self.others)

    def stage_rows(
        self,
        folder: Path,
        shipped: Sequence[Owned],
        dense: Sequence[Owned],
        timings: Mapping[Path, Timing] | None = None,
    ) -> list[Stage]:
        """Return a row of the report for each stage; paths are told relative to `folder`.

        `shipped`: what the final stage deploys; `dense`: int8 of the baseline.
        """
        judge = ReportRows(self.start.data, self.baseline, folder)
        rows: list[Stage] = []
        for result in self.rows:
            if result is self.final:
                deployments = [*shipped]
            else:
                deployments = [(each, result) for each in result.deployments]
            if result is self.baseline is not self.final:
                deployments += dense
            name = result.record.name
            controls = [judge.control(each) for each in self.contests.get(name, ())]
            notes = self.notes.get(name, ())
            # A size is of what came in: the first stage says so where that was half as large.
            came = None if rows else self.start.half_mb
            rows.append(judge.stage(result, deployments, timings or {}, controls, notes, came))
        return rows

    def copy_to(self, folder: Path) -> None:
        """Copy the stages of this result, and what loggers wrote, into another folder."""
        every = [*self.rows, *([self.dense] if self.dense else [])]
        every += [each for other in self.others for each in other.stages]
        every += [each for contests in self.contests.values() for c in contests
                  for each in (c.method, c.control)]  # fmt: skip
        for source in dict.fromkeys(each.folder for each in every):
            copy_linked(source, folder / source.relative_to(self.folder))
        logs = self.folder / Layout().logs
        if logs.is_dir():
            copy_linked(logs, folder / Layout().logs)

    def moved_to(self, folder: Path, clock: Clock) -> PipelineResult:
        """Return the same result, its stages read from another folder, where they were copied.

        `clock`: of what is done from now on; it goes on from the seconds that were spent so far.
        """
        clock.seconds.update(self.clock.seconds)
        moved: dict[int, StageResult] = {}

        def there(result: StageResult) -> StageResult:
            if id(result) not in moved:
                paths = [folder / p.relative_to(self.folder)
                         for p in (result.folder, result.model_folder)]  # fmt: skip
                moved[id(result)] = replace(result, folder=paths[0], model_folder=paths[1])
            return moved[id(result)]

        return replace(
            self,
            folder=folder,
            clock=clock,
            notes={name: [*lines] for name, lines in self.notes.items()},
            rows=[there(each) for each in self.rows],
            baseline=there(self.baseline),
            shaped=there(self.shaped),
            dense=there(self.dense) if self.dense else None,
            contests={
                name: [
                    replace(each, method=there(each.method), control=there(each.control))
                    for each in contests
                ]
                for name, contests in self.contests.items()
            },
            others=[
                replace(
                    each,
                    made=there(each.made),
                    files=there(each.files) if each.files else None,
                )
                for each in self.others
            ],
        )
