"""The rows of a task as a model that exists reads them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

from bertcompress.data.loading import load_data
from bertcompress.data.matching import differ
from bertcompress.data.task_data import TaskData
from bertcompress.errors import ModelError, Notice, few
from bertcompress.task import Task

__all__ = ["data_of"]


def data_of(
    model: str,
    names: Mapping[int, str] | None,
    task: Task,
    *,
    data_dir: str | Path | None = None,
    limit: int | None = None,
) -> TaskData:
    """Return the rows with their labels numbered as the model numbers them, by name.

    `names`: its `id2label`; None for a model of one output. Raises DataError, TaskError, and
    ModelError where the model names other classes.
    """
    data = load_data(task, data_dir=data_dir, limit=limit, model_labels=names)
    if names is not None and differ(data.labels, names):
        raise ModelError(
            f"model '{model}': its classes are {few(names.values())}, those of "
            f"'{data.task.name}' {few(data.labels)}; by order they are never matched"
        )
    if names is not None and data.labels and len(names) != len(data.labels):
        # Of a file whose config is silent on its classes: nothing told the reader their number.
        warnings.warn(
            f"model '{model}': no classes are named in its config; its outputs are taken to be, "
            f"in this order, {few(data.labels)}",
            Notice,
            stacklevel=3,
        )
    return data
