"""`Job`: one recipe that this process works on, with what it was asked to do it by."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertcompress.deployment import Layout
from bertcompress.recipe import Recipe
from bertcompress.runs.checking import check_disk
from bertcompress.runs.outlook import TIMING, announce
from bertcompress.runs.pipeline import Pipeline
from bertcompress.runs.pipeline_result import PipelineResult
from bertcompress.runs.prepare import Say, prepare
from bertcompress.runs.ship import finish
from bertcompress.runs.stage import Clock, Stages
from bertcompress.runs.store import StageStore
from bertcompress.support.display import Display, showing
from bertcompress.support.distributed import Ranks
from bertcompress.support.locking import Hold
from bertcompress.support.machine import check_temporary
from bertcompress.support.quiet import quiet
from bertcompress.training.loggers import Reporting, check_loggers

__all__ = ["Job"]


@dataclass(frozen=True)
class Job:
    """One recipe that is worked on, by this process or by several together."""

    recipe: Recipe
    display: Display
    fresh: bool = False
    data_dir: str | Path | None = None
    store: StageStore | None = None
    ranks: Ranks = field(default_factory=Ranks)
    clock: Clock = field(default_factory=Clock)

    @classmethod
    def of(cls, recipe: Recipe, say: Say | None, progress: bool | None, **options: Any) -> Job:
        """Return a job whose first process shows what it does."""
        ranks = Ranks()
        display = Display(say, progress if ranks.main else False)
        return cls(recipe, display, ranks=ranks, **options)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Keep libraries quiet, and let trainings show themselves, inside the context."""
        with quiet(), showing(self.display):
            yield

    def compress(self, folder: Path, name: str, hold: Hold | None) -> PipelineResult:
        """Return the stages of the recipe, made in `folder/stages`; loggers are told `name`."""
        recipe, say = self.recipe, self.display.line
        check_temporary()
        check_loggers(recipe.report_to)
        with self.clock("loading"):
            start = prepare(recipe, self.data_dir, say)
            check_disk(recipe, start.product, start.finetuned, folder, start.student)
        announce(recipe, start, self.display)
        stages = Stages(
            folder,
            start.data,
            self.store or StageStore(),
            self.ranks,
            self.clock,
            fresh=self.fresh,
            say=say,
            check=hold.check if hold else lambda: None,
            reports=Reporting(recipe.report_to, name, Layout(folder).logs),
        )
        return Pipeline(recipe, start, stages, self.display).run()

    def ship(self, result: PipelineResult, folder: Path, hold: Hold | None) -> None:
        """Make the run `folder` of stages that lie in the folder of the unfinished run."""
        if self.ranks.main:
            check = hold.check if hold else lambda: None
            check()
            with self.display.working(TIMING):
                finish(result, folder, self.display.line, check)
        self.ranks.wait()
