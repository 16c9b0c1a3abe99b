"""The options of the command line that make a task of the user's own rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bertcompress.errors import InputError

__all__ = [
    "Label",
    "Separator",
    "Text",
    "Texts",
    "Train",
    "Validation",
    "check_task",
    "judged_on",
    "own_task",
]

Train = Annotated[str | None, typer.Option(help="Your own training rows: file, folder, Hub id")]
Texts = Annotated[
    str | None,
    typer.Option(help="Your own texts for an embedder, no labels: a .txt with one a line, a table"),
]
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
    texts: str | None = None,
) -> Any:
    """Return a task name, or a task made of the user's own files, or None. Raises InputError."""
    from bertcompress.support.formats import check_format
    from bertcompress.support.word_columns import columns_of
    from bertcompress.task import Task

    if texts is not None:
        others = {"--task": task, "--train": train, "--label": label}
        for flag, given in others.items():
            if given is not None:
                raise InputError(f"--texts and {flag}: give one of them")
        return Task.from_texts(texts, validation, text=text or "text")
    if train is None:
        names = ("--validation", "--text", "--label", "--label-separator")
        for flag, value in zip(names, (validation, text, label, separator), strict=True):
            if value:
                raise InputError(f"{flag}: goes with --train, which is missing")
        return task
    if task is not None:
        raise InputError("--task and --train: give one of them")
    if not text and columns_of(train) is None:
        check_format(train)
        raise InputError("--text: which column holds the text? It goes with --train")
    columns = text or None
    return Task.from_files(train, validation, text=columns, label=label, label_separator=separator)


def judged_on(
    model: str,
    task: str | None,
    test: str | None,
    train: str | None,
    validation: str | None,
    text: list[str] | None,
    label: str | None,
    separator: str | None,
) -> Any:
    """Return the task that a model is to be judged on; None for what only the Hub knows.

    Raises InputError and its kin for what can be told without it.
    """
    from bertcompress.task import Task
    from bertcompress.verbs.run_task import kept_task, task_of_file, with_test_file

    kept = kept_task(model)
    if test is None:
        chosen = own_task(task, train, validation, text, label, separator)
        if chosen is None and kept is None and Path(model).expanduser().exists():
            raise InputError(
                "--task: on which task? `bertcompress list tasks` shows them; --test FILE judges "
                "on rows of yours, and a run knows its task"
            )
    else:
        for flag, value in (("--train", train), ("--validation", validation)):
            if value is not None:
                raise InputError(f"{flag}: not beside --test, which is judged on alone")
        known = Task.load(task) if task is not None else kept.task if kept else None
        if known is None or text:
            chosen = task_of_file(test, text or (), label, separator)
        else:
            changed = {"label": label, "label_separator": separator}
            known = known.model_copy(update={k: v for k, v in changed.items() if v is not None})
            chosen = with_test_file(known, test)
    if chosen is not None:
        check_task(chosen)
    return chosen


def check_task(task: Any) -> None:
    """Raise for what is wrong with a task, or with the local files of one, by name or itself."""
    from bertcompress.data.local import check_local
    from bertcompress.task import Task

    check_local(Task.load(task) if isinstance(task, str) else task)
