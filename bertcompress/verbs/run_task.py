"""Which task a model is judged on: the one that its run kept, or a test file alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from bertcompress.deployment import Layout
from bertcompress.errors import DataError, InputError, TaskError
from bertcompress.support.formats import READ, check_format, format_of
from bertcompress.support.reading import read_json
from bertcompress.support.word_columns import columns_of
from bertcompress.task import Task

__all__ = ["TEST", "Kept", "is_test_file", "kept_task", "task_of_file", "with_test_file"]

TEST = "test"
"""What the rows of a test file are called."""

_LEVELS = 3
"""A run's folder is at most so many above a file that it ships: `runs/x/onnx/model.onnx`."""


class Kept(NamedTuple):
    """What a run tells of its rows."""

    task: Task
    limit: int | None
    """Of rows."""
    judged: str | None
    """Digest of those that it reported on; None: not known."""


def kept_task(model: str | Path) -> Kept | None:
    """Return the task of the run that a local model is, or lies in.

    None for what is in no run. Raises InputError for a run whose task cannot be read.
    """
    place = Path(model).expanduser().absolute()
    # Not all of them: a name of fifty thousand parts would take most of a minute.
    for folder in (place, *islice(place.parents, _LEVELS - 1)):
        if folder.is_dir() and Layout(folder).is_run:
            return _read(Layout(folder).report)
    return None


def _read(file: Path) -> Kept | None:
    try:
        content = read_json(file)
        fields, recipe = content["task"], content["recipe"]
        task = Task.model_validate(fields)
        limit, judged = recipe.get("limit"), content.get("data", {}).get("judged")
    except (KeyError, TypeError, AttributeError):  # of another program
        return None
    except (OSError, ValueError, InputError):
        raise InputError(f"{file}: its task cannot be read; name one by --task") from None
    return Kept(task, limit if isinstance(limit, int) else None, judged)


def with_test_file(task: Task, file: str | Path) -> Task:
    """Return a task that is judged on the rows of one file, and trained on nothing.

    Columns, classes and metrics stay. Raises DataError or TaskError for no file of rows.
    """
    path = os.path.abspath(os.path.expanduser(os.fspath(file)))
    if not os.path.isfile(path):
        raise DataError(f"--test {file}: {'a folder' if os.path.isdir(path) else 'no such file'}")
    check_format(path)
    form = format_of(path)
    if form is None:
        raise TaskError(f"--test {file}: not a format that is read; those are {READ}")
    gone = dict.fromkeys(("config", "train_config", "revision", "chance"))
    split = {"files": {TEST: path}, "train": TEST, "validation": TEST, "also": {}}
    return task.model_copy(update={**gone, **split, "dataset": form})


def is_test_file(task: Task) -> bool:
    """Return whether a task is what `with_test_file` makes: judged on the rows of one file."""
    return task.train == task.validation == TEST


def task_of_file(
    file: str | Path, text: Sequence[str], label: str | None, separator: str | None
) -> Task:
    """Return a task on one file of rows to judge on. Raises InputError and its kin."""
    if not text and columns_of(file) is None:
        raise InputError(
            f"--text: which column of {file} holds the text? Only a run knows it by itself"
        )
    task = Task.from_files(file, text=text or None, label=label, label_separator=separator)
    return with_test_file(task, file)
