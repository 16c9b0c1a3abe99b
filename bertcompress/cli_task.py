"""The options of the command line that make a task of the user's own rows."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bertcompress.errors import InputError

__all__ = ["Label", "Separator", "Text", "Train", "Validation", "own_task"]

Train = Annotated[str | None, typer.Option(help="Your own training rows: file, folder, Hub id")]
Validation = Annotated[str | None, typer.Option(help="Your own validation rows")]
Text = Annotated[list[str] | None, typer.Option(help="Column of the text; twice for a pair")]
Label = Annotated[str | None, typer.Option(help="Column of the label; left out: unlabelled")]
Separator = Annotated[str | None, typer.Option(help="What parts several labels in one cell")]


def own_task(
    task: str | None,
    train: str | None,
    validation: str | None,
    text: list[str] | None,
    label: str | None,
    separator: str | None,
) -> Any:
    """Return a task name, or a task made of the user's own files, or None. Raises InputError."""
    from bertcompress.task import Task

    if train is None:
        names = ("--validation", "--text", "--label", "--label-separator")
        for flag, value in zip(names, (validation, text, label, separator), strict=True):
            if value:
                raise InputError(f"{flag}: goes with --train, which is missing")
        return task
    if task is not None:
        raise InputError("--task and --train: give one of them")
    if not text:
        raise InputError("--text: which column holds the text? It goes with --train")
    return Task.from_files(train, validation, text=text, label=label, label_separator=separator)
