"""The head of a model for a task: a new one, or a trained one in the order of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import set_seed

from bertcompress.data import TaskData
from bertcompress.deployment import Product
from bertcompress.heads.stock import BARE
from bertcompress.models.io import load
from bertcompress.models.sentence import through_sigmoid
from bertcompress.shapes import anatomy
from bertcompress.training.targets import to_target_units

__all__ = ["class_names", "head_fields", "reorder_classes", "with_new_head"]


def class_names(model: Any) -> dict[int, str]:
    """Return the names of a model's outputs by their number."""
    return {int(i): str(name) for i, name in model.config.id2label.items()}


def head_fields(data: TaskData) -> dict[str, Any]:
    """Return what a config says of a head for the task: its width, problem and classes."""
    fields: dict[str, Any] = {
        "num_labels": data.num_labels,
        "problem_type": data.task.head.problem_type,
    }
    if data.labels:
        fields["id2label"] = dict(enumerate(data.labels))
        fields["label2id"] = {name: i for i, name in enumerate(data.labels)}
    # A model of one output may be of numbers as well: nothing else tells what was trained.
    return fields | (through_sigmoid() if data.task.head.serves == "score" else {})


def with_new_head(name: str, data: TaskData, seed: int, revision: str | None = None) -> Product:
    """Return a model, by folder or Hub id, with a head that nothing has trained yet.

    The head is drawn by the seed. Raises as `models.io.load` does.
    """
    set_seed(seed)
    product = load(
        name,
        head=data.task.head.auto_class or BARE,
        fresh_head=True,
        config_fields=head_fields(data),
        revision=revision,
    )
    # A head of another task with as many outputs was read with the rest: make it new.
    fresh: Any = type(product.model)(product.model.config)
    base = anatomy(fresh).base
    base.load_state_dict(anatomy(product.model).base.state_dict())
    return replace(product, model=to_target_units(fresh.eval(), data))


def reorder_classes(model: Any, order: Sequence[int]) -> None:
    """Bring the outputs of a classifier, in place, into the order `order[i]` -> i."""
    inside = set(anatomy(model).base.modules())
    head = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m not in inside]
    index = torch.tensor(order)
    with torch.no_grad():
        for parameter in head[-1].parameters():
            parameter.copy_(parameter[index].clone())
    names = class_names(model)
    model.config.id2label = {i: names[old] for i, old in enumerate(order)}
    model.config.label2id = {name: i for i, name in model.config.id2label.items()}
