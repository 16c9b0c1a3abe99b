"""`run` a recipe: `compress` it stage by stage, resumable, and `ship` what came out."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bertcompress.deployment import Layout
from bertcompress.errors import NotFound, OutputError
from bertcompress.recipe import Recipe
from bertcompress.report import Report
from bertcompress.runs.claiming import check_rows, claim, done_already
from bertcompress.runs.folder import check_free, partial_of, run_folder
from bertcompress.runs.job import Job
from bertcompress.runs.pipeline_result import PipelineResult
from bertcompress.runs.prepare import Say
from bertcompress.runs.store import StageStore
from bertcompress.support.display import logged
from bertcompress.support.locking import Hold, locked

__all__ = ["Run", "compress", "run", "ship"]


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
        if not found.layout.is_run:
            raise NotFound(f"{folder}: no finished run: there is no report.json in it")
        return found

    def __repr__(self) -> str:
        return f"Run('{self.folder}')"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<code>{escape(repr(self))}</code><br>{self.report._repr_html_()}"

    @property
    def layout(self) -> Layout:
        """Where everything of it is."""
        return Layout(self.folder)

    @property
    def report(self) -> Report:
        """What came out."""
        return Report.load(self.folder)

    @property
    def model(self) -> Path:
        """The compressed model, its tokenizer and its card."""
        return self.layout.model

    @property
    def onnx(self) -> Path:
        """fp32 and int8 files for ONNX Runtime; there if the recipe quantised."""
        return self.layout.onnx

    @property
    def openvino(self) -> Path:
        """The int8 file for OpenVINO; there if the recipe quantised and OpenVINO is installed."""
        return self.layout.openvino

    @property
    def recipe(self) -> Recipe:
        """What was run."""
        return Recipe.load(self.layout.recipe)

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
    job = Job.of(recipe, say, progress, fresh=fresh, data_dir=data_dir, store=store)
    folder, say = run_folder(out), job.display.line
    if resume and done_already(folder, recipe):
        check_rows(folder, recipe, data_dir)
        say(f"{folder}: finished before")
        return Run(folder)
    hold, finished = None, False
    with contextlib.ExitStack() as stack:
        if job.ranks.main:
            check_free(folder)
            hold = stack.enter_context(locked(folder, say))
            # Whoever held the lock until now may have come to the end.
            finished = resume and done_already(folder, recipe)
            if not finished:
                check_free(folder)
                claim(folder, recipe, resume=resume, fresh=fresh)
        if not job.ranks.agree(finished):
            with _unfinished_removed(folder, hold), job.at_work():
                result = job.compress(partial_of(folder), folder.name, hold)
                job.ship(result, folder, hold)
    return Run(folder)


@contextlib.contextmanager
def _unfinished_removed(folder: Path, hold: Hold | None) -> Iterator[None]:
    """Remove the folder of the unfinished run where it holds nothing to go on with."""
    partial = partial_of(folder)
    try:
        yield
    except BaseException:
        # Nothing worth resuming was made: leave no trace, unless the folder is another's by now.
        ours = hold is not None and not hold.lost
        inside = Layout(partial)
        if ours and not inside.stages.exists() and not inside.work.exists():
            shutil.rmtree(partial, ignore_errors=True)
        raise


def compress(
    recipe: Recipe,
    folder: str | Path | None = None,
    *,
    fresh: bool = False,
    data_dir: str | Path | None = None,
    store: StageStore | None = None,
    say: Say | None = None,
    progress: bool | None = None,
) -> PipelineResult:
    """Apply the methods of a recipe and return their stages; nothing is timed or shipped.

    Args:
        recipe: What to do.
        folder: Where the stages are kept, and found again where nothing changed that they depend
            on. None: a temporary folder, which lasts as long as the result.
        fresh: Take nothing from the stage store.
        data_dir: Local copy of the data set, instead of the Hub id of the task.
        store: Stage store; by default the user's.
        say: As of `run`.
        progress: As of `run`.

    Raises:
        InputError and its kin, before anything is written, for what cannot be compressed.
    """
    job = Job.of(recipe, say, progress, fresh=fresh, data_dir=data_dir, store=store)
    with contextlib.ExitStack() as failing, contextlib.ExitStack() as stack:
        temporary = folder is None and job.ranks.main
        made = tempfile.mkdtemp(prefix="bertcompress-") if temporary else folder
        place = run_folder(str(job.ranks.agree(str(made))))
        if Layout(place).is_run:
            raise OutputError(f"{place}: a finished run is there, whose stages stay as they are")
        if temporary:
            failing.callback(shutil.rmtree, place, ignore_errors=True)
        hold = stack.enter_context(locked(place, job.display.line)) if job.ranks.main else None
        place.mkdir(parents=True, exist_ok=True)
        stack.enter_context(job.at_work())
        result = job.compress(place, place.name, hold)
        if temporary:
            failing.pop_all()
            weakref.finalize(result, shutil.rmtree, place, ignore_errors=True)
    return result


def ship(
    result: PipelineResult,
    out: str | Path,
    *,
    say: Say | None = None,
    progress: bool | None = None,
) -> Run:
    """Make a run folder of what `compress` returned: files, timings, report, figures and card.

    `out` must not exist yet; it is there whole or not at all, and the stages stay where they were.
    Raises OutputError where the folder cannot be written.
    """
    job = Job.of(result.recipe, say, progress)
    folder = run_folder(out)
    with contextlib.ExitStack() as stack:
        hold = None
        if job.ranks.main:
            check_free(folder)
            hold = stack.enter_context(locked(folder, job.display.line))
            check_free(folder)
            claim(folder, result.recipe, resume=False, fresh=False)
        partial = partial_of(folder)
        try:
            with job.at_work():
                if job.ranks.main:
                    result.copy_to(partial)
                job.ship(result.moved_to(partial, job.clock), folder, hold)
        except BaseException:
            if hold is not None and not hold.lost:
                shutil.rmtree(partial, ignore_errors=True)
            raise
    return Run(folder)
