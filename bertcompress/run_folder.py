"""The folder that a run is to leave: what is in its way is told before torch is there."""

from __future__ import annotations

import os
from pathlib import Path

from bertcompress.errors import OutputError

__all__ = ["check_into", "check_out", "check_parents", "partial_of"]


def partial_of(folder: Path) -> Path:
    """Return the folder of the unfinished run."""
    return folder.with_name(f".{folder.name}.partial")


def check_out(out: str | Path, wanted: str, *, resume: bool, fresh: bool) -> None:
    """Raise OutputError where a run cannot be begun, or gone on with, in a folder.

    `wanted`: the YAML of its recipe.
    """
    folder = Path(out).expanduser()
    if os.path.lexists(folder):
        if resume and _recipe_in(folder) == wanted:
            return
        raise OutputError(f"{folder}: exists already; choose another --out or remove it")
    check_parents(folder)
    partial = partial_of(folder)
    if not partial.exists():
        return
    if resume and _recipe_in(partial) != wanted:
        raise OutputError(
            f"{folder}: the interrupted run had another recipe ({partial / 'recipe.yaml'}); "
            "use that one, or --fresh to start over"
        )
    if not resume and not fresh:
        raise OutputError(
            f"{folder}: an interrupted run is there; --resume goes on with it, --fresh drops it"
        )


def check_parents(folder: Path) -> None:
    """Raise OutputError where a folder would have to lie in a file."""
    for parent in folder.parents:
        if parent.exists() and not parent.is_dir():
            raise OutputError(f"{folder}: cannot be written: {parent} is a file")


def check_into(out: str | Path) -> None:
    """Raise OutputError where nothing can be written into a folder, which may be there already."""
    folder = Path(out).expanduser()
    check_parents(folder)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file; a folder was to be written there")


def _recipe_in(folder: Path) -> str | None:
    there = folder / "recipe.yaml"
    return there.read_text(encoding="utf-8") if there.is_file() else None
