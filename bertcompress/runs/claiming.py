"""The folder that a run is to leave, and the one where it is made: named, made or gone on with."""

from __future__ import annotations

import shutil
from pathlib import Path

from bertcompress.data import judged_digest, load_data
from bertcompress.deployment import Layout
from bertcompress.errors import InputError, OutputError
from bertcompress.recipe import Recipe
from bertcompress.report import Report
from bertcompress.runs.folder import partial_of
from bertcompress.support.files import remove_leftovers, write_atomically
from bertcompress.task import Task

__all__ = ["check_rows", "claim", "done_already"]


def done_already(folder: Path, recipe: Recipe) -> bool:
    """Return whether what was interrupted was only the last step: saying that it is done."""
    there = Layout(folder).recipe
    return there.is_file() and there.read_text(encoding="utf-8") == recipe.to_yaml()


def check_rows(folder: Path, recipe: Recipe, data_dir: str | Path | None) -> None:
    """Raise OutputError where the rows are no longer those that a finished run was judged on.

    `recipe`: the one that was run, with its rows where they are in memory. Rows that cannot be read
    any more are no reason: the run is finished.
    """
    report = Report.load(folder)
    if report.data.judged is None:
        return
    try:
        known = Task.model_validate(report.task)
        task = recipe.resolved_task().model_copy(update=dict(known))
        data = load_data(task, data_dir=data_dir, seed=recipe.seed, limit=recipe.limit)
    except (InputError, ValueError):
        return
    if judged_digest(data) != report.data.judged:
        raise OutputError(
            f"{folder}: finished before, on other rows than those of '{task.name}' now; choose "
            "another --out, or remove it"
        )


def claim(folder: Path, recipe: Recipe, *, resume: bool, fresh: bool) -> None:
    """Make the folder of the unfinished run, or check that it is the one to go on with.

    Only for who holds the lock on `folder`.
    """
    partial = partial_of(folder)
    wanted = recipe.to_yaml()
    if partial.exists():
        there = Layout(partial).recipe
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
            remove_leftovers(Layout(partial).stages)
            return
        shutil.rmtree(partial)
    with write_atomically(partial) as temporary:
        temporary.mkdir(parents=True)
        Layout(temporary).recipe.write_text(wanted, encoding="utf-8")
