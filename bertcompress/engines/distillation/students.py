"""Students: another shape begun with the layers of a larger model, or another checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bertcompress.data import TaskData, align_labels
from bertcompress.data.for_model import already_finetuned
from bertcompress.deployment import Product
from bertcompress.errors import ModelError
from bertcompress.heads.stock import BARE
from bertcompress.models.io import class_of, load, precision_of
from bertcompress.shapes import Layer, ShapeError, anatomy, edited
from bertcompress.training.task_head import class_names, head_fields, reorder_classes, with_new_head

__all__ = ["Begun", "StudentShape", "checkpoint_student", "shaped_student"]


@dataclass(frozen=True)
class StudentShape:
    """The shape of a student. None: as the model has it, per head and per feature."""

    layers: int
    hidden_size: int
    heads: int
    intermediate_size: int

    @classmethod
    def of(
        cls,
        model: nn.Module,
        layers: int | None = None,
        hidden_size: int | None = None,
        heads: int | None = None,
        intermediate_size: int | None = None,
    ) -> StudentShape:
        """Return the shape of a student of a model, with what is left out filled in.

        Without anything: half of the layers. Without `heads` those keep their size; without
        `intermediate_size` it stays as many times the hidden size. Raises ShapeError for a model
        that was cut already, and for a shape that cannot be.
        """
        if edited(model):
            raise ShapeError(
                f"student: {type(model).__name__} was cut already; take a student of the model "
                "that it was made of, or name a checkpoint (model)"
            )
        view = anatomy(model)
        hidden, width = view.hidden, view.family.width_of(view.config)
        plain = layers is None and hidden_size is heads is intermediate_size is None
        depth = max(1, view.depth // 2) if plain else layers or view.depth
        size = hidden_size or hidden
        if heads is None and size % view.head_size:
            raise ShapeError(
                f"student: hidden_size {size} is no multiple of the model's head size "
                f"{view.head_size}; give heads too"
            )
        count = heads or size // view.head_size
        if size % count:
            raise ShapeError(f"student: hidden_size {size} cannot be divided over {count} heads")
        return cls(depth, size, count, intermediate_size or max(1, round(width * size / hidden)))

    @property
    def words(self) -> str:
        """The shape in words."""
        return (
            f"{self.layers} layer{'s' if self.layers != 1 else ''} of {self.hidden_size} features, "
            f"{self.heads} heads and {self.intermediate_size} neurons"
        )


@dataclass(frozen=True)
class Begun:
    """A student as it begins, and how it came to be."""

    model: Any
    shape: StudentShape
    copied: float
    """Share of its parameters that the model had, 0 to 1."""
    layers: tuple[int, ...] = ()
    """The model's layers that its own begin as, from 0; empty where they are drawn or shared."""
    has_head: bool = True
    """Whether its head was copied too."""

    @property
    def words(self) -> str:
        """What it is and what it begins as, for the report."""
        if not self.copied:
            return f"{self.shape.words}; all weights are drawn"
        numbers = ", ".join(str(i + 1) for i in self.layers)
        named = f" (layer{'s' if len(self.layers) > 1 else ''} {numbers})" if numbers else ""
        rest = ", the rest is drawn" if self.copied < 1 else ""
        share = f"{100 * self.copied:.0f} % of its weights are copied from the model"
        return f"{self.shape.words}; {share}{named}{rest}"


def shaped_student(
    model: nn.Module, shape: StudentShape, begins_as: Sequence[int] = (), *, seed: int = 0
) -> Begun:
    """Return a new model of a shape, whose weights are those of a model where they fit.

    Its layers begin as these of the model, numbered from 0, where the hidden size is equal and, for
    attention, the number of heads and, for the feed-forward part, that of neurons; without any
    their weights are drawn. All else is copied module by module where every tensor fits, and drawn
    by the seed where not. The model stays as it is.
    """
    view = anatomy(model)
    config = copy.deepcopy(view.config)
    view.family.narrow(config, hidden=shape.hidden_size, heads=shape.heads)
    view.family.resize(config, depth=shape.layers, width=shape.intermediate_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student: Any = type(model)(config).eval()
    inside = {id(each) for layer in anatomy(student).layers for each in layer.module.modules()}
    outside = [pair for pair in _outside(student, model, inside) if _fits(*pair)]
    taken = begins_as if shape.hidden_size == view.hidden else ()
    layers = list(_layer_modules(student, model, taken)) if taken else []
    count = sum(_copy(mine, theirs) for mine, theirs in (*outside, *layers))
    share = count / sum(each.numel() for each in student.parameters())
    head = _answers(student)
    has_head = head is None or any(head is mine for mine, _ in outside)
    return Begun(student, shape, share, () if view.family.shared else tuple(taken), has_head)


def _outside(
    student: nn.Module, model: nn.Module, inside: set[int]
) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Yield each module with tensors outside the layers, and the one of its name in the model."""
    theirs = dict(model.named_modules())
    for name, mine in student.named_modules():
        if id(mine) not in inside and name in theirs and list(_own(mine)):
            yield mine, theirs[name]


def _layer_modules(
    student: nn.Module, model: nn.Module, taken: Sequence[int]
) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Yield each module with tensors of the student's layers, and where it comes from."""
    ours, all_theirs = anatomy(student).layers, anatomy(model).layers
    shared = anatomy(model).family.shared  # then there is one layer, whatever the depth is
    theirs = all_theirs if shared else [all_theirs[i] for i in taken]
    for mine, other in zip(ours, theirs, strict=True):
        for part in mine.family.units:
            if not _alike(mine, other, part):
                continue
            for path, module in mine.modules(part).items():
                source = dict(other.modules(part)[path].named_modules())
                for name, leaf in module.named_modules():
                    if list(_own(leaf)):
                        yield leaf, source[name]


def _alike(mine: Layer, other: Layer, part: str) -> bool:
    """Return whether a part has as many units: heads of another size mean something else."""
    if part == "attention":
        return mine.heads == other.heads
    return mine.width == other.width


def _own(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters(recurse=False)


def _fits(mine: nn.Module, theirs: nn.Module) -> bool:
    shapes = [
        {name: each.shape for name, each in module.named_parameters(recurse=False)}
        for module in (mine, theirs)
    ]
    return shapes[0] == shapes[1]


@torch.no_grad()
def _copy(mine: nn.Module, theirs: nn.Module) -> int:
    """Copy the tensors of a module itself, in place, and return how many numbers they are."""
    given = dict(theirs.named_parameters(recurse=False))
    for name, parameter in mine.named_parameters(recurse=False):
        parameter.copy_(given[name])
    return sum(each.numel() for each in _own(mine))


def _answers(model: nn.Module) -> nn.Module | None:
    """Return the last linear of a task head; None for an encoder without one."""
    view = anatomy(model)
    if view.base is model:
        return None
    inside = set(view.base.modules())
    found = [m for m in model.modules() if isinstance(m, nn.Linear) and m not in inside]
    return found[-1] if found else None


def checkpoint_student(
    name: str, data: TaskData, *, revision: str | None = None, seed: int = 0
) -> tuple[Product, str]:
    """Return another checkpoint as a student for a task, and what it is in words.

    A head that was trained for classes of the task's names is kept, its outputs in the order of the
    task; any other is new, drawn by the seed. Raises as `models.io.load` does, and ModelError for
    weights that are stored in few bits.
    """
    head = data.task.head
    kept = None
    if head.auto_class is None:
        kept = load(name, head=BARE, revision=revision)
    elif class_of(name, revision=revision).__name__.endswith(head.auto_class):
        kept = load(name, revision=revision)
        if not _for_classes(kept.model, data):
            kept = None
    product = kept or with_new_head(name, data, seed, revision)
    if (stored := precision_of(product.model)) != "fp32":
        raise ModelError(
            f"student '{name}': stored in {stored}, which nothing can train any more; take the "
            "model that it was made of"
        )
    if head.auto_class is None and data.task.pooling is not None:
        data.task.pooling.keep(product.model.config)
    view = anatomy(product.model)
    told = f"'{name}', a {view.family.stock_prefix} of {view.depth} layers, {view.hidden} features"
    if head.auto_class is not None:
        told += "; its head is for these classes" if kept else "; its head is new"
    return product, told


def _for_classes(model: Any, data: TaskData) -> bool:
    """Return whether names tell that a head is for the task; its outputs get the task's order."""
    if already_finetuned(model, data) is not True:
        return False
    order = align_labels(data.labels, class_names(model))
    if order is not None:
        reorder_classes(model, order)
        for field, value in head_fields(data).items():
            setattr(model.config, field, value)
    return True
