"""The rows of a task as a model that exists reads them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertcompress.data.loading import load_data
from bertcompress.data.matching import align_labels, differ
from bertcompress.data.task_data import TaskData
from bertcompress.errors import ModelError, Notice, few
from bertcompress.heads import HEADS, Head
from bertcompress.heads.stock import check_head, has_head
from bertcompress.task import Task

if TYPE_CHECKING:
    from torch import nn

__all__ = ["already_finetuned", "data_of", "posed_by_model"]

_TOLD_BY_ROWS = ("tokens", "spans")
"""Kinds of problem that lists of words, or answers with their places, tell by themselves."""


def posed_by_model(task: Task, cls: type, name: str) -> Task:
    """Return the task with its kind of problem, where a model's class tells and nothing else does.

    Of a model that answers for whole texts the labels tell which kind it is. Raises ModelError for
    a model whose head is for no kind of problem.
    """
    texts = HEADS["single_label"]
    if not task.is_open or not has_head(cls) or has_head(cls, texts):
        return task
    fitting = [key for key, head in HEADS.items() if head.auto_class and has_head(cls, head)]
    if not fitting:
        check_head(cls, texts, name)
    if fitting[0] in _TOLD_BY_ROWS:  # and other rows refuse the model
        return task
    return task.model_copy(update={"problem": fitting[0]})


def data_of(
    model: str,
    names: Mapping[int, str] | None,
    task: Task,
    *,
    data_dir: str | Path | None = None,
    limit: int | None = None,
    check: Callable[[Head], None] = lambda _: None,
) -> TaskData:
    """Return the rows with their labels numbered as the model numbers them, by name.

    `names`: its `id2label`; None for a model of one output. `check`: raises for a head that the
    model does not have, before its classes are looked at. Raises DataError, TaskError, and
    ModelError where the model names other classes.
    """
    data = load_data(task, data_dir=data_dir, limit=limit, model_labels=names)
    check(data.task.head)
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


def already_finetuned(model: nn.Module, data: TaskData) -> bool | None:
    """Return whether a loaded model's head answers this task; None where only its score can tell.

    As many outputs and classes of the same names: yes; of other names: no. As many without names,
    such as LABEL_0, or the one number of a regression, may be anything. Ask it of a model as it
    was loaded: a head that was made new a moment ago looks the same.
    """
    config: Any = getattr(model, "config", None)
    if not has_head(type(model), data.task.head):
        return False
    if not data.task.head.has_labels or data.task.head.auto_class is None:
        return True
    if int(config.num_labels) != data.num_labels:
        return False
    if not data.task.head.has_classes:
        return None
    names = {int(i): str(name) for i, name in config.id2label.items()}
    if differ(data.labels, names):
        return False
    return True if align_labels(data.labels, names) is not None else None
