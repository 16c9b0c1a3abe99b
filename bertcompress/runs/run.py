"""`run(recipe, out) -> Run`: measure, apply, measure, save, for each method; resumable."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from bertcompress.errors import NotFound
from bertcompress.recipe import Recipe
from bertcompress.report import Report
from bertcompress.runs.checking import check_disk
from bertcompress.runs.claiming import claim, done_already
from bertcompress.runs.folder import check_free, partial_of, run_folder
from bertcompress.runs.outlook import TIMING, announce
from bertcompress.runs.pipeline import Pipeline
from bertcompress.runs.prepare import Say, prepare
from bertcompress.runs.ship import finish
from bertcompress.runs.stage import Clock, Stages
from bertcompress.runs.store import StageStore
from bertcompress.support.display import Display, logged, showing
from bertcompress.support.distributed import Ranks
from bertcompress.support.locking import Hold, locked
from bertcompress.support.machine import check_temporary
from bertcompress.support.quiet import quiet
from bertcompress.training.loggers import Reporting, check_loggers

__all__ = ["Run", "run"]


@dataclass(frozen=True)
class Run:
    """The folder of a finished run."""

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder).expanduser())

    @classmethod
    def load(cls, folder: str | Path) -> Run:
        """Return the finished run in a folder. Raises NotFound where none is."""
        found = cls(Path(folder))
        if not (found.folder / "report.json").is_file():
            raise NotFound(f"{folder}: no finished run: there is no report.json in it")
        return found

    def __repr__(self) -> str:
        return f"Run('{self.folder}')"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<code>{escape(repr(self))}</code><br>{self.report._repr_html_()}"

    @property
    def report(self) -> Report:
        """What came out."""
        return Report.load(self.folder)

    @property
    def model(self) -> Path:
        """The compressed model, its tokenizer and its card."""
        return self.folder / "model"

    @property
    def onnx(self) -> Path:
        """fp32 and int8 files for ONNX Runtime; there if the recipe quantised."""
        return self.folder / "onnx"

    @property
    def openvino(self) -> Path:
        """The int8 file for OpenVINO; there if the recipe quantised and OpenVINO is installed."""
        return self.folder / "openvino"

    @property
    def recipe(self) -> Recipe:
        """What was run."""
        return Recipe.load(self.folder / "recipe.yaml")

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool = False,
        revision: str | None = None,
        create_pr: bool = False,
        say: Say = logged,
    ) -> str:
        """Upload model, ONNX and OpenVINO files, report and card in one commit; return its URL.

        Arguments and errors are those of `bertcompress.push`.
        """
        from bertcompress.publish.push import push

        return push(
            self.folder,
            repository,
            private=private,
            revision=revision,
            create_pr=create_pr,
            say=say,
        )


def run(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    fresh: bool = False,
    data_dir: str | Path | None = None,
    store: StageStore | None = None,
    say: Say | None = None,
    progress: bool | None = None,
) -> Run:
    """Do what a recipe says and leave the run folder `out`, whole or not at all.

    Args:
        recipe: What to do.
        out: Folder that must not exist yet.
        resume: Go on with an interrupted run of the same recipe to the same folder.
        fresh: Take nothing from the stage store, and drop an interrupted run.
        data_dir: Local copy of the data set, instead of the Hub id of the task.
        store: Stage store; by default the user's.
        say: Called with one line at a time about what is going on. None: standard error, unless
            the logger `bertcompress`, which gets every line, shows them already.
        progress: False: no progress, and nothing on standard error. None: a bar where standard
            error is a terminal, else a line of a training now and then.

    Raises:
        InputError and its kin, before anything is written, for what cannot be run.
    """
    ranks, clock = Ranks(), Clock()
    display = Display(say, progress if ranks.main else False)
    folder, say = run_folder(out), display.line
    if resume and done_already(folder, recipe):
        say(f"{folder}: finished before")
        return Run(folder)
    hold, finished = None, False
    with contextlib.ExitStack() as stack:
        if ranks.main:
            check_free(folder)
            hold = stack.enter_context(locked(folder, say))
            # Whoever held the lock until now may have come to the end.
            finished = resume and done_already(folder, recipe)
            if not finished:
                check_free(folder)
                claim(folder, recipe, resume=resume, fresh=fresh)
        if ranks.agree(finished):
            return Run(folder)
        return _kept(recipe, folder, ranks, clock, hold, (fresh, data_dir, store, display))


def _kept(
    recipe: Recipe,
    folder: Path,
    ranks: Ranks,
    clock: Clock,
    hold: Hold | None,
    options: tuple[bool, str | Path | None, StageStore | None, Display],
) -> Run:
    """Run, and remove the folder of the unfinished run where it holds nothing to go on with."""
    partial = partial_of(folder)
    try:
        with quiet(), showing(options[-1]):
            return _run(recipe, folder, ranks, clock, hold, options)
    except BaseException:
        # Nothing worth resuming was made: leave no trace, unless the folder is another's by now.
        ours = hold is not None and not hold.lost
        if ours and not (partial / "stages").exists() and not (partial / "work").exists():
            shutil.rmtree(partial, ignore_errors=True)
        raise


def _run(
    recipe: Recipe,
    folder: Path,
    ranks: Ranks,
    clock: Clock,
    hold: Hold | None,
    options: tuple[bool, str | Path | None, StageStore | None, Display],
) -> Run:
    fresh, data_dir, store, display = options
    say, partial = display.line, partial_of(folder)
    check = hold.check if hold else lambda: None
    check_temporary()
    check_loggers(recipe.report_to)
    with clock("loading"):
        start = prepare(recipe, data_dir, say)
        check_disk(recipe, start.product, start.finetuned, partial)
    announce(recipe, start, display)
    stages = Stages(
        partial,
        start.data,
        store or StageStore(),
        ranks,
        clock,
        fresh=fresh,
        say=say,
        check=check,
        reports=Reporting(recipe.report_to, folder.name, partial / "logs"),
    )
    done = Pipeline(recipe, start, stages, display).run()
    if ranks.main:
        check()
        with display.working(TIMING):
            finish(recipe, done, partial, folder, clock, say, check)
    ranks.wait()
    return Run(folder)
