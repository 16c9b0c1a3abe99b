"""`run(recipe, out) -> Run`: measure, apply, measure, save, for each method; resumable."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from bertcompress.display import Display, logged, showing
from bertcompress.errors import NotFound, OutputError
from bertcompress.noise import quiet
from bertcompress.ranks import Ranks
from bertcompress.recipe import Recipe
from bertcompress.report import Report
from bertcompress.runs.chain import Chain
from bertcompress.runs.checking import check_disk
from bertcompress.runs.finishing import finish
from bertcompress.runs.outlook import TIMING, announce
from bertcompress.runs.stages import Clock, Stages
from bertcompress.runs.starting import Say, prepare
from bertcompress.store import StageStore, remove_leftovers, write_atomically

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
        from bertcompress.publish.hub import push

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
    folder, say = Path(out).expanduser(), display.line
    partial = folder.with_name(f".{folder.name}.partial")
    if resume and _done_already(folder, recipe):
        say(f"{folder}: finished before")
        return Run(folder)
    if ranks.main:
        _claim(folder, partial, recipe, resume=resume, fresh=fresh)
    ranks.wait()
    try:
        with quiet(), showing(display):
            return _run(recipe, folder, partial, ranks, clock, (fresh, data_dir, store, display))
    except BaseException:
        # Nothing worth resuming was made: leave no trace.
        if ranks.main and not (partial / "stages").exists() and not (partial / "work").exists():
            shutil.rmtree(partial, ignore_errors=True)
        raise


def _run(
    recipe: Recipe,
    folder: Path,
    partial: Path,
    ranks: Ranks,
    clock: Clock,
    options: tuple[bool, str | Path | None, StageStore | None, Display],
) -> Run:
    fresh, data_dir, store, display = options
    say = display.line
    with clock("loading"):
        start = prepare(recipe, data_dir, say)
        check_disk(recipe, start.product, start.finetuned, partial)
    announce(recipe, start, display)
    stages = Stages(partial, start.data, store or StageStore(), ranks, clock, fresh=fresh, say=say)
    done = Chain(recipe, start, stages, display).go()
    if ranks.main:
        with display.working(TIMING):
            finish(recipe, done, partial, folder, clock, say)
    ranks.wait()
    return Run(folder)


def _done_already(folder: Path, recipe: Recipe) -> bool:
    """Return whether what was interrupted was only the last step: saying that it is done."""
    there = folder / "recipe.yaml"
    return there.is_file() and there.read_text(encoding="utf-8") == recipe.to_yaml()


def _claim(folder: Path, partial: Path, recipe: Recipe, *, resume: bool, fresh: bool) -> None:
    """Make the folder of the unfinished run, or check that it is the one to go on with."""
    if folder.exists():
        raise OutputError(f"{folder}: exists already; choose another --out or remove it")
    if folder.parent.is_file():
        raise OutputError(f"{folder}: cannot be written: {folder.parent} is a file")
    wanted = recipe.to_yaml()
    if partial.exists():
        there = partial / "recipe.yaml"
        same = there.exists() and there.read_text(encoding="utf-8") == wanted
        if resume and not same:
            raise OutputError(
                f"{folder}: the interrupted run had another recipe ({there}); "
                "use that one, or --fresh to start over"
            )
        if not resume and not fresh:
            raise OutputError(
                f"{folder}: an interrupted run is there; --resume goes on with it, --fresh drops it"
            )
        if resume:
            remove_leftovers(partial)
            remove_leftovers(partial / "stages")
            return
        shutil.rmtree(partial)
    with write_atomically(partial) as temporary:
        temporary.mkdir(parents=True)
        (temporary / "recipe.yaml").write_text(wanted, encoding="utf-8")
