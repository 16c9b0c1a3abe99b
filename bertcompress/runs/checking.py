"""What would fail at the end of a run, refused at its start: metrics, labels, tokenizer, disk."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from itertools import dropwhile
from pathlib import Path
from typing import Any

from bertcompress.data import TaskData
from bertcompress.deployment import Layout, Product, StageLayout
from bertcompress.engines.distillation.settings import learns_from_labels_alone
from bertcompress.errors import OutputError, RecipeError, TaskError, few
from bertcompress.heads import Head
from bertcompress.method import Method
from bertcompress.recipe import Recipe
from bertcompress.runs.contests import is_control
from bertcompress.runs.successor import Successor, shape_of
from bertcompress.shapes import anatomy
from bertcompress.task import Task

__all__ = ["check_disk", "check_methods", "check_metrics", "least_bytes", "metrics_for", "steps"]

FLOAT = 4
"""Bytes of a parameter as stages keep it."""


def metrics_for(task: Task, outputs: int) -> Task:
    """Return an unlabelled task whose usual metrics suit a model with so many outputs.

    Metrics that the user named stay: `check_metrics` judges them.
    """
    if task.is_open or task.head.has_labels or outputs != 1 or task.metrics or task.headline:
        return task
    allowed = _of_outputs(task.head, outputs)
    usual = tuple(name for name in task.head.of_width(outputs).usual if name in allowed)
    return task.model_copy(update={"metrics": usual, "headline": usual[0]})


def check_metrics(data: TaskData, outputs: int) -> None:
    """Raise TaskError for a metric that a head with so many outputs has no answer for."""
    if data.task.head.has_labels:
        return
    fitting = _of_outputs(data.task.head, outputs)
    for name in data.task.metrics:
        if name not in fitting:
            compares = "classes" if outputs == 1 else "one number"
            has = "one output" if outputs == 1 else f"{outputs} outputs"
            raise TaskError(
                f"{data.task.name}: metric '{name}' compares {compares}, but the model has {has}; "
                f"fitting: {few(fitting)}"
            )


def _of_outputs(head: Head, outputs: int) -> list[str]:
    """Return the metrics of a head that compare so many outputs with the original's."""
    numbers = outputs == 1
    return [name for name, each in head.metrics.items() if (each.reads == "numbers") == numbers]


def check_methods(
    recipe: Recipe,
    data: TaskData,
    product: Product,
    finetuned: bool,
    student: Successor | None = None,
) -> None:
    """Raise for a step that the model, its tokenizer or a task without labels cannot serve."""
    head, ran = data.task.head, steps(recipe.methods, finetuned)
    model: Any = product.model
    tokenizer = product.tokenizer
    for method in ran:
        if method.replaces_model and student:
            model, tokenizer = student.shape, student.tokenizer
        method.check_tokenizer(model, tokenizer)
    if head.searches and any(m.needs_labels or learns_from_labels_alone(m) for m in ran):
        head.labelled(data.encode(product.tokenizer, "train"))  # raises where there are none
    if head.has_labels:
        return
    for i, method in enumerate(recipe.methods):
        if method not in ran:
            continue
        if learns_from_labels_alone(method):
            raise RecipeError(
                f"methods[{i}].{method.key}: learns from labels alone, and task '{data.task.name}' "
                "has none; give its logit_weight or hidden_weight to learn from the original"
            )
        if method.needs_labels:
            raise RecipeError(
                f"methods[{i}].{method.key}: needs labels, and task '{data.task.name}' has none; "
                "distill learns from the original instead"
            )


def steps(methods: Sequence[Method], finetuned: bool) -> list[Method]:
    """Return the methods that run: a model that is fine-tuned skips that step at the front."""
    # Only at the front: after a cut it is recovery training, which this model needs as well.
    return list(dropwhile(lambda m: finetuned and m.trains_head, methods))


def check_disk(
    recipe: Recipe,
    product: Product,
    finetuned: bool,
    folder: Path,
    student: Successor | None = None,
) -> None:
    """Raise OutputError where not even the models of the stages fit on the disk of `folder`.

    Those that an interrupted run left there have their room already.
    """
    needed = least_bytes(recipe, product.model, finetuned, student) - _kept_bytes(folder)
    place = next(parent for parent in folder.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OutputError(
            f"{folder}: {free / 1e6:,.0f} MB are free there, and the models of the stages alone "
            f"take {needed / 1e6:,.0f} MB; make room, or choose another --out"
        )


def _kept_bytes(folder: Path) -> int:
    """Return what the models of finished stages take in the folder of an unfinished run."""
    found = Layout(folder).stages.glob(f"*/{StageLayout().model}/*")
    # Controls and opponents are not part of `least_bytes`.
    own = [file for file in found if file.parents[1].name[:2].isdigit()]
    return sum(f.stat().st_size for f in own if not is_control(f.parents[1].name))


def least_bytes(
    recipe: Recipe, model: Any, finetuned: bool, student: Successor | None = None
) -> int:
    """Return what the stages of a run take at least on disk: each keeps its model, in fp32.

    Of what a method leaves no more is counted than its plan_shape tells of; checkpoints, ONNX files
    and the stage store come on top.
    """
    shape: Any = shape_of(model)
    sizes, counted = [_bytes(shape)] if finetuned else [], shape
    for method in steps(recipe.methods, finetuned):
        if method.leaves == "files":
            break
        if method.leaves == "measurement":
            continue
        if method.replaces_model and student:
            shape = counted = copy.deepcopy(student.shape)
            sizes.append(_bytes(shape))
            continue
        kept = method.share_left
        method.plan_shape(shape)
        if (
            method.leaves == "shape"
            and kept is None
            and type(method).plan_shape is Method.plan_shape
        ):
            counted = anatomy(shape).encoder  # what is left of the tables is not known
        sizes.append(int(_bytes(counted) * (1.0 if kept is None else kept)))
    return sum(sizes) + (sizes[-1] if sizes else 0)


def _bytes(model: Any) -> int:
    return FLOAT * sum(int(parameter.numel()) for parameter in model.parameters())
