"""Where a model is that a name stands for: a folder, a run, an ONNX file, an id of the Hub."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from bertcompress.deployment import Layout
from bertcompress.errors import ModelError, NotFound, Notice
from bertcompress.hub.download import ALL_FILES, SMALL_FILES
from bertcompress.models.config import config_beside
from bertcompress.models.io import config_of
from bertcompress.models.locate import locate
from bertcompress.models.sentence import settled_pooling
from bertcompress.models.tokenizers import load_tokenizer
from bertcompress.report import Report
from bertcompress.runtimes import all_runtimes, runtime_named
from bertcompress.runtimes import locate as locate_artefact
from bertcompress.support.display import logged
from bertcompress.task import Task

__all__ = ["Place", "Say", "all_places", "find_place"]

Say = Callable[[str], None]
"""Takes one line at a time about what was chosen."""


@dataclass(frozen=True)
class Place:
    """Where an artefact is, and the folder with its config and tokenizer."""

    model: str
    """As it was given."""
    runtime: str
    precision: str | None
    """None: what the artefact holds."""
    path: Path

    @property
    def folder(self) -> Path:
        """Where config and tokenizer lie."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def config(self) -> Any:
        """The config beside it, with as many outputs as a torch model's tensors have."""
        if runtime_named(self.runtime).opens_folders:
            return config_of(self.path)
        return config_beside(self.folder, str(self.path))

    @property
    def vocab_size(self) -> int:
        """Tokens that it knows; raises ModelError for a config that does not tell."""
        found = getattr(self.config, "vocab_size", None)
        if not isinstance(found, int) or found < 1:
            raise ModelError(f"model '{self.model}': config.json tells no vocab_size")
        return found

    def reads(self, task: Task) -> Task:
        """Return a task of vectors with the pooling of this model; any other as it is.

        What was decided without being asked is told as a warning.
        """
        if task.is_open or task.head.auto_class is not None:
            return task
        known, line = settled_pooling(self.config, self.folder, self.model, task.pooling)
        if line:
            warnings.warn(line, Notice, stacklevel=3)
        return task.model_copy(update={"pooling": known})

    def tokenizer(self, task: Task | None = None) -> PreTrainedTokenizerBase:
        """Return the tokenizer that lies with the artefact; of a task's vectors, as it bounds them.

        `task`: as this model reads it.
        """
        found = load_tokenizer(self.folder, str(self.path), self.config)
        longest = None if task is None or task.pooling is None else task.pooling.max_length
        if longest is not None:
            found.model_max_length = min(found.model_max_length, longest)
        return found


def find_place(
    model: str | Path,
    runtime: str | None,
    precision: str | None,
    revision: str | None = None,
    say: Say = logged,
) -> Place:
    """Return what a name stands for; of a run, what its verdict is about."""
    name, local = str(model), Path(model).expanduser()
    here = local.exists()
    run = local if here else locate(name, revision=revision, files=SMALL_FILES)
    if _is_run(run) and runtime is None and precision is None:
        judged = _judged(run, name)
        say(
            f"{model}: {judged.runtime} {judged.precision}, which its verdict is about; "
            "--runtime and --precision choose another"
        )
        if not here:
            locate(name, revision=revision, files=(*SMALL_FILES, _pattern(judged, run)))
        return judged
    if here:
        found, path = locate_artefact(local, runtime, precision)
    else:
        found, path = _fetched(name, runtime, precision, revision)
    return Place(name, found, precision, Path(path))


def _pattern(place: Place, run: Path) -> str:
    """Return what is to be downloaded for a deployment of a run on the Hub."""
    inside = place.path.relative_to(run).as_posix()
    return runtime_named(place.runtime).weight_pattern(inside)


def _fetched(
    name: str, runtime: str | None, precision: str | None, revision: str | None
) -> tuple[str, str | Path]:
    """Return runtime and artefact of a Hub id, and download no other large file."""
    asked = [each for each in all_runtimes() if runtime in (None, each.name)]
    wanted = [w for each in asked for w in each.downloads(precision, named=runtime is not None)]
    wanted.sort(key=lambda choice_and_pattern: choice_and_pattern[0])
    refusal = NotFound(f"{name}: nothing that runs")
    for pattern in [pattern for _, pattern in wanted] or ["config.json"]:
        folder = locate(name, revision=revision, files=(*SMALL_FILES, pattern))
        try:
            return locate_artefact(folder, runtime, precision)
        except NotFound as error:
            refusal = NotFound(str(error).replace(str(folder), name))
    raise refusal


def _is_run(folder: Path) -> bool:
    return Layout(folder).is_run


def _shipped(run: Path, name: str, simulated: bool = True) -> list[Place]:
    """Return what a run ships; scores are real where precision is only simulated, times are not."""
    rows = [row for row in Report.load(run).last.deployments if simulated or not row.simulated]
    if not rows:
        raise NotFound(f"{name}: this run ships nothing that can be measured")
    for row in rows:
        if Path(row.path).is_absolute() or ".." in Path(row.path).parts:
            raise ModelError(f"{name}: report.json names '{row.path}', which is no file of a run")
    # On the Hub, and in what was pulled, the content of `model/` lies at the top.
    top = () if Layout(run).model.is_dir() else (Layout().model.name,)
    return [
        Place(name, row.runtime, row.precision, run if row.path in top else run / row.path)
        for row in rows
    ]


def _judged(run: Path, name: str) -> Place:
    verdict = Report.load(run).verdict
    shipped = _shipped(run, name)
    wanted = (verdict.runtime, verdict.precision)
    return next((e for e in shipped if (e.runtime, e.precision) == wanted), shipped[0])


def all_places(model: str, revision: str | None) -> list[Place]:
    """Return what a run ships, here or on the Hub; nothing for what is no run."""
    local = Path(model).expanduser()
    here = local.exists()
    run = local if here else locate(model, revision=revision, files=SMALL_FILES)
    if not _is_run(run):
        return []
    if not here:
        run = locate(model, revision=revision, files=ALL_FILES)
    return _shipped(run, model, simulated=False)
