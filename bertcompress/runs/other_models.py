"""The models that a recipe holds beside its result: refused here where they cannot be compared.

A model that answers the task is taken as it comes: an embedder of vectors, or a model whose classes
have the names of the task's. Any other gets a new head, which the recipe's own `finetune` trains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bertcompress.data import TaskData, align_labels, differ
from bertcompress.deployment import Product
from bertcompress.errors import InputError, ModelError, few
from bertcompress.heads.pooling import Pooling
from bertcompress.heads.stock import BARE, has_head, head_words
from bertcompress.measure.footprint import half_size, macs
from bertcompress.method import Method
from bertcompress.models.io import class_of, load, precision_of
from bertcompress.models.locate import locate
from bertcompress.models.sentence import settled_pooling, stated_pooling
from bertcompress.models.tokenizers import check_vocabulary
from bertcompress.recipe import Recipe
from bertcompress.report.head import short_name
from bertcompress.runs.answering import selection_headline
from bertcompress.runs.store import stage_key
from bertcompress.runs.successor import fit_rows
from bertcompress.runs.teacher import weights_digest
from bertcompress.shapes import ShapeError
from bertcompress.training.task_head import class_names, reorder_classes, with_new_head

__all__ = ["OtherModel", "other_models"]


@dataclass(frozen=True)
class OtherModel:
    """A model that stands beside the result of a run, and how it reads the rows."""

    name: str
    """As reports show it: a Hub id, or the name of a folder."""
    source: str
    """Digest of the model, its new head included."""
    data: TaskData
    """The rows as it reads them."""
    open: Callable[[], Product]
    """Reads it: with its own outputs in the order of the task, or with a new head."""
    finetune: Method | None
    """The step of the recipe that trains its new head; None: it answers as it comes."""
    work: float
    """Multiply-accumulates of a text, as a share of those of the recipe's model."""
    half_mb: float | None
    """Megabytes of its checkpoint, where that is 16-bit."""
    notes: tuple[str, ...]
    """What was decided about it without being asked, a line each."""


@dataclass(frozen=True)
class _Read:
    """A model that was read, and the rows as it reads them."""

    product: Product
    data: TaskData
    open: Callable[[], Product]
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls, name: str, rows: TaskData, opened: Callable[[], Product], notes: Sequence[str] = ()
    ) -> _Read:
        product = opened()
        check_vocabulary(product.tokenizer, rows.train["text"], name)
        data = fit_rows(rows, product, f"model '{name}'")
        told = [f"its texts: {line}" for line in data.notes[len(rows.notes) :]]
        return cls(product, data, opened, (*notes, *product.findings.notes, *told))

    def told(self, note: str) -> _Read:
        """Return the same with a line on it before the others."""
        return replace(self, notes=(note, *self.notes))


def other_models(
    recipe: Recipe, product: Product, rows: TaskData, say: Callable[[str], None]
) -> tuple[OtherModel, ...]:
    """Return the models that `measure.against` names, each read once to see that it can be.

    `product`: the recipe's model; `rows`: not cut yet; `say`: is told what was decided about them.

    Raises InputError and its kin, by the model's name, for one that cannot be read, that reads
    other texts, or that cannot answer the task.
    """
    given, found = recipe.measure.against, []
    for name, shown in zip(given, _shown(given), strict=True):
        try:
            found.append(_other_model(recipe, name, shown, product, rows))
        except ShapeError as error:
            raise ModelError(f"measure.against: {error}") from None
        except InputError as error:
            raise type(error)(f"measure.against: {error}") from None
    for each in found:
        for note in each.notes:
            say(f"{each.name}: {note}")
    return tuple(found)


def _shown(given: Sequence[str]) -> list[str]:
    """Return each model's name without the folders before it, numbered where two are alike."""
    short = [short_name(each) if Path(each).expanduser().exists() else each for each in given]
    return [
        name if short.count(name) == 1 else f"{name} ({short[: i + 1].count(name)})"
        for i, name in enumerate(short)
    ]


def _other_model(
    recipe: Recipe, name: str, shown: str, product: Product, rows: TaskData
) -> OtherModel:
    source, finetune = weights_digest(name), None
    read, why = _as_it_comes(recipe, name, shown, product, rows)
    if read is None:
        finetune = _finetune_of(recipe, name, rows, why)
        opened = partial(with_new_head, name, rows, recipe.seed)
        read = _Read.of(name, rows, opened, [f"{why}: a new head is trained"])
        source = stage_key({"files": source, "head": recipe.seed, "labels": list(rows.labels)})
    if (stored := precision_of(read.product.model)) != "fp32":
        raise ModelError(f"model '{name}': stored in {stored}; name the model that it was made of")
    return OtherModel(
        name=shown,
        source=source,
        data=read.data,
        open=read.open,
        finetune=finetune,
        work=macs(read.product.model) / macs(product.model),
        half_mb=half_size(locate(name)),
        notes=read.notes,
    )


def _as_it_comes(
    recipe: Recipe, name: str, shown: str, product: Product, rows: TaskData
) -> tuple[_Read | None, str]:
    """Return the model with its own head where that answers the task, and otherwise why not."""
    head, cls = rows.task.head, class_of(name)
    if not has_head(cls, head):
        return None, f"it is {head_words(cls)}"
    if head.auto_class is None:
        pooling, line = _pooling(recipe, name, shown)
        rows = replace(rows, task=rows.task.model_copy(update={"pooling": pooling}))
        opened = partial(_read_embedder, name, pooling)
        return _Read.of(name, rows, opened, [line] if line else []), ""
    model: Any = load(name).model
    labels, width = rows.labels, rows.num_labels
    if not head.has_labels:  # the recipe's model says what the outputs are
        own: Any = product.model
        labels, width = _classes(class_names(own)), int(own.config.num_labels)
    if why := _misfit(model, labels, width):
        return None, why
    read = _Read.of(name, rows, partial(_in_order, name, labels))
    if labels and align_labels(labels, class_names(model)) is not None:
        return read, ""
    if head.has_labels:
        return _by_score(read)
    return (read.told(_taken_in_order(model, labels)) if labels else read), ""


def _classes(names: dict[int, str]) -> tuple[str, ...]:
    """Return the classes of a model's outputs; one output is no class."""
    return tuple(names.values()) if len(names) > 1 else ()


def _misfit(model: Any, labels: Sequence[str], width: int) -> str:
    """Return why a trained head is not for a task of these classes; empty where it may be."""
    outputs, names = int(model.config.num_labels), class_names(model)
    if outputs != width:
        return f"its head has {outputs} outputs, and the task needs {width}"
    if labels and differ(labels, names):
        return f"its classes are {few(names.values())}, and those of the task {few(labels)}"
    return ""


def _by_score(read: _Read) -> tuple[_Read | None, str]:
    """Return a model whose outputs have no names, where it is above chance on the selection split.

    An untrained head has the same shape.
    """
    found = selection_headline(read.product, read.data)
    if found is None or found.standing is None:
        return None, "nothing tells that its head is for this task"
    chance = read.data.task.chance or 0.0
    told = f"{found.metric} {found.value:.3f} on the selection split, chance {chance:.3f}"
    if not found.standing.above:
        return None, f"its head is not for this task ({told})"
    return read.told(
        f"its outputs have no names; taken as those of the task, in its order: {told}"
    ), ""


def _taken_in_order(model: Any, labels: Sequence[str]) -> str:
    """Return the line on classes that no name and no label tells apart."""
    return (
        f"its classes ({few(class_names(model).values())}) are not named as those of the recipe's "
        f"model; they are taken to be, in this order, {few(labels)}"
    )


def _pooling(recipe: Recipe, name: str, shown: str) -> tuple[Pooling, str | None]:
    """Return how an embedder pools: as its folder says, else as the task does, else the mean."""
    folder, config = locate(name), load(name, head=BARE).model.config
    own = stated_pooling(config, folder, name) or recipe.resolved_task().pooling
    return settled_pooling(config, folder, shown, own)


def _read_embedder(name: str, pooling: Pooling) -> Product:
    product = load(name, head=BARE)
    pooling.keep(product.model.config)
    return product


def _in_order(name: str, labels: Sequence[str]) -> Product:
    """Return a model with its trained head, its outputs in the order of these classes."""
    product = load(name)
    order = align_labels(labels, class_names(product.model)) if labels else None
    if order is not None:
        reorder_classes(product.model, order)
    return product


def _finetune_of(recipe: Recipe, name: str, rows: TaskData, why: str) -> Method:
    """Return the step of a recipe that can train a new head. Raises ModelError without one."""
    if not rows.task.head.has_labels:
        raise ModelError(
            f"model '{name}': {why}, and task '{rows.task.name}' has no labels to fine-tune it on; "
            "name one that answers as the recipe's model does"
        )
    step = next((each for each in recipe.methods if each.trains_head), None)
    if step is None:
        raise ModelError(
            f"model '{name}': {why}, and the recipe has no step that trains a head; put finetune "
            "into its methods, or name a model that is fine-tuned for the task"
        )
    return step
