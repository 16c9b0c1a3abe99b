"""The rows of a task as a model that exists reads them, by its config alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertcompress.data.loading import load_data
from bertcompress.data.matching import differ
from bertcompress.data.task_data import TaskData
from bertcompress.errors import ModelError
from bertcompress.shapes import FAMILIES
from bertcompress.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["data_of", "fitted_to"]


def data_of(
    model: str,
    config: Mapping[str, Any],
    task: Task,
    *,
    data_dir: str | Path | None = None,
    limit: int | None = None,
) -> TaskData:
    """Return the rows with their labels numbered as the model numbers them, by name.

    `config`: the content of its config.json. Raises DataError, TaskError, and ModelError where the
    model names other classes.
    """
    # A config that names no classes has two, called LABEL_0 and LABEL_1.
    given = config.get("id2label") or {0: "LABEL_0", 1: "LABEL_1"}
    names = {int(i): str(name) for i, name in given.items()}
    data = load_data(task, data_dir=data_dir, limit=limit, model_labels=names)
    if differ(data.labels, names):
        raise ModelError(
            f"model '{model}': its classes are {', '.join(names.values())}, those of "
            f"'{data.task.name}' {', '.join(data.labels)}; by order they are never matched"
        )
    return data


def fitted_to(
    config: Mapping[str, Any], data: TaskData, tokenizer: PreTrainedTokenizerBase
) -> TaskData:
    """Return the rows cut, if at all, where the model's position table or its tokenizer ends."""
    table = config.get("max_position_embeddings")
    family = FAMILIES.get(str(config.get("model_type")).removeprefix("bertcompress-"))
    if table is None or family is None:
        return data.fitted(tokenizer)
    before = int(config.get("pad_token_id") or 0) + 1 if family.positions_after_padding else 0
    return data.fitted(tokenizer, int(table) - before)
