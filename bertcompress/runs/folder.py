"""The folder that a run is to leave: what is in its way is told before torch is there."""

from __future__ import annotations

import os
from pathlib import Path

from bertcompress.deployment import Layout
from bertcompress.errors import OutputError

__all__ = ["check_free", "check_into", "check_out", "partial_of", "run_folder"]

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


def check_free(folder: Path) -> None:
    """Raise OutputError where something of that name is there, or cannot be."""
    if os.path.lexists(folder):
        raise OutputError(f"{folder}: exists already; choose another --out or remove it")
    _check_parents(folder)


def check_out(out: str | Path, wanted: str, *, resume: bool, fresh: bool) -> None:
    """Raise OutputError where a run cannot be begun, or gone on with, in a folder.

    `wanted`: the YAML of its recipe.
    """
    folder = run_folder(out)
    if resume and _recipe_in(folder) == wanted:  # finished before
        return
    check_free(folder)
    partial = partial_of(folder)
    # Whoever holds its lock may be alive: that is told when the lock is asked for.
    if not partial.exists() or folder.with_name(f".{folder.name}.lock").exists():
        return
    if resume and _recipe_in(partial) != wanted:
        raise OutputError(
            f"{folder}: the interrupted run had another recipe ({Layout(partial).recipe}); "
            "use that one, or --fresh to start over"
        )
    if not resume and not fresh:
        raise OutputError(
            f"{folder}: an interrupted run is there; --resume goes on with it, --fresh drops it"
        )


def check_into(out: str | Path) -> None:
    """Raise OutputError where nothing can be written into a folder, which may be there already."""
    folder = Path(out).expanduser()
    _check_parents(folder)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file; a folder was to be written there")


def _check_parents(folder: Path) -> None:
    for parent in folder.parents:
        if parent.exists() and not parent.is_dir():
            raise OutputError(f"{folder}: cannot be written: {parent} is a file")


def _recipe_in(folder: Path) -> str | None:
    there = Layout(folder).recipe
    return there.read_text(encoding="utf-8") if there.is_file() else None
