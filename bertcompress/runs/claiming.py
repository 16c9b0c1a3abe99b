"""The folder that a run is to leave, and the one where it is made: named, made or gone on with."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from bertcompress.errors import OutputError
from bertcompress.recipe import Recipe
from bertcompress.store import remove_leftovers, write_atomically

__all__ = ["check_free", "claim", "done_already", "partial_of", "run_folder"]

LONGEST_NAME = 200
"""Bytes. File systems take 255, and what is written beside a run has a longer name than the run."""


def run_folder(out: str | Path) -> Path:
    """Return the folder of a run that is to be made; raises OutputError for an impossible one."""
    folder = Path(out).expanduser()
    if folder.name in ("", ".."):
        folder = folder.resolve()
    length = len(os.fsencode(folder.name))
    if length > LONGEST_NAME:
        raise OutputError(
            f"--out {folder.name[:40]}...: a name of {length} bytes; at most {LONGEST_NAME} fit"
        )
    return folder


def partial_of(folder: Path) -> Path:
    """Return the folder of the unfinished run."""
    return folder.with_name(f".{folder.name}.partial")


def done_already(folder: Path, recipe: Recipe) -> bool:
    """Return whether what was interrupted was only the last step: saying that it is done."""
    there = folder / "recipe.yaml"
    return there.is_file() and there.read_text(encoding="utf-8") == recipe.to_yaml()


def check_free(folder: Path) -> None:
    """Raise OutputError where something of that name is there, or cannot be."""
    if os.path.lexists(folder):
        raise OutputError(f"{folder}: exists already; choose another --out or remove it")
    for parent in folder.parents:
        if parent.exists() and not parent.is_dir():
            raise OutputError(f"{folder}: cannot be written: {parent} is a file")


def claim(folder: Path, recipe: Recipe, *, resume: bool, fresh: bool) -> None:
    """Make the folder of the unfinished run, or check that it is the one to go on with.

    Only for who holds the lock on `folder`.
    """
    partial = partial_of(folder)
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
