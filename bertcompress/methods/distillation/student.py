"""Go on with another, smaller model: the student that the model so far teaches.

Either of a shape of its own, such as half of the layers (Sanh et al. 2019, 1910.01108) or a
narrower stream (Jiao et al. 2020, 1909.10351), begun with the model's weights where they fit; or
another checkpoint of any known family, with its own tokenizer (Turc et al. 2019, 1908.08962).
Everything after it is about the student; the baseline of every comparison, and the teacher unless
the recipe names one, is the model before it.

Costs nothing but reading the weights. Not without a method after it that trains: what is drawn
answers by chance. Every device is as much faster as the student is smaller.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator
from torch import nn

from bertcompress.deployment import Findings, Product
from bertcompress.engines.distillation.students import (
    Begun,
    StudentShape,
    checkpoint_student,
    shaped_student,
)
from bertcompress.method import Context, Leaves, Method
from bertcompress.methods.pruning.structured import choose_layers
from bertcompress.models.locate import weight_files
from bertcompress.shapes import ShapeError, anatomy
from bertcompress.training import to_target_units

if TYPE_CHECKING:
    from bertcompress.data import TaskData

__all__ = ["Student", "student"]


def student(
    model: nn.Module,
    layers: int | None = None,
    *,
    hidden_size: int | None = None,
    heads: int | None = None,
    intermediate_size: int | None = None,
    start: Literal["layers", "random"] = "layers",
    layer_order: Literal["spread", "bottom"] = "spread",
    seed: int = 0,
) -> nn.Module:
    """Return a new model of another shape, begun with the weights of `model` where they fit.

    The arguments are the fields of `Student`; without any it has half of the layers. `model` stays
    as it is, and may teach it: `distill(student(model, 3), model, loader)`. Raises ShapeError for a
    shape that cannot be.
    """
    method = Student(
        layers=layers,
        hidden_size=hidden_size,
        heads=heads,
        intermediate_size=intermediate_size,
        start=start,
        layer_order=layer_order,
    )
    begun = method.begin(model, seed)
    return begun.model.to(next(model.parameters()).device)  # type: ignore[no-any-return]


class Student(Method):
    """Go on with another model, which the one so far teaches."""

    key: ClassVar[str] = "student"
    paper: ClassVar[str] = "Sanh et al. 2019, arXiv:1910.01108; Turc et al. 2019, arXiv:1908.08962"
    leaves: ClassVar[Leaves] = "shape"
    tags: ClassVar[tuple[str, ...]] = ("distilled",)
    speeds_up: ClassVar[bool] = True
    replaces_model: ClassVar[bool] = True
    plain_setting: ClassVar[str | None] = "model"

    model: str | None = Field(
        None, description="Checkpoint that it is: Hub id, folder, run, or embedded: id; null: none"
    )
    revision: str | None = Field(None, description="Commit or tag of that checkpoint on the Hub")
    layers: int | None = Field(
        None, ge=1, description="Its layers; null: as many as the model, alone: half of them"
    )
    hidden_size: int | None = Field(None, ge=1, description="Its features; null: the model's")
    heads: int | None = Field(
        None, ge=1, description="Its attention heads; null: of the size of the model's"
    )
    intermediate_size: int | None = Field(
        None, ge=1, description="Its feed-forward neurons; null: as many a feature as the model"
    )
    start: Literal["layers", "random"] = Field(
        "layers", description="What its layers begin as: layers of the model, or drawn weights"
    )
    layer_order: Literal["spread", "bottom"] = Field(
        "spread", description="Which layers those are: evenly spread, or the lowest ones"
    )

    @model_validator(mode="after")
    def _checkpoint_or_shape(self) -> Student:
        given = {
            "layers": self.layers,
            "hidden_size": self.hidden_size,
            "heads": self.heads,
            "intermediate_size": self.intermediate_size,
        }
        shaped = [name for name, value in given.items() if value is not None]
        if self.start == "random":
            shaped.append("start")
        if self.model is not None and shaped:
            raise ValueError(
                f"{shaped[0]}: the checkpoint '{self.model}' has its own shape and weights; give "
                "either model or a shape"
            )
        if self.revision is not None and self.model is None:
            raise ValueError("revision: of no model; give model too")
        return self

    @property
    def checkpoint(self) -> tuple[str, str | None] | None:
        """The checkpoint that a run goes on with, and its revision."""
        return None if self.model is None else (self.model, self.revision)

    def shape(self, model: nn.Module) -> StudentShape:
        """Return the shape of a student of a model; ShapeError where it cannot be."""
        given = (self.layers, self.hidden_size, self.heads, self.intermediate_size)
        shape, depth = StudentShape.of(model, *given), anatomy(model).depth
        if self.start == "layers" and shape.layers > depth:
            raise ShapeError(
                f"student: layers {shape.layers} of {depth}; with start: random there may be more"
            )
        return shape

    def begin(self, model: nn.Module, seed: int) -> Begun:
        """Return the student of a model, of its own shape."""
        shape = self.shape(model)
        drawn, depth = self.start == "random", anatomy(model).depth
        begins_as = [] if drawn else choose_layers(depth, shape.layers, self.layer_order)
        return shaped_student(model, shape, begins_as, seed=seed)

    def check(self, model: nn.Module) -> None:
        """Raise ShapeError for a shape that no student of the model can have."""
        if self.model is None:
            self.shape(model)

    def files(self) -> tuple[Path, ...]:
        """Return the files of the checkpoint."""
        return () if self.model is None else weight_files(self.model, self.revision)

    def other_model(self, product: Product, data: TaskData, seed: int) -> Product:
        """Return the student with its tokenizer, and with the head that the task needs."""
        if self.model is not None:
            made, words = checkpoint_student(self.model, data, revision=self.revision, seed=seed)
            free: dict[str, Any] = {"goes_on_as": self.model, "checkpoint": self.model}
            return Product(made.model, made.tokenizer, (), _findings(words, free))
        begun = self.begin(product.model, seed)
        model = begun.model if begun.has_head else to_target_units(begun.model, data)
        free = {"goes_on_as": begun.shape.words, "copied": begun.copied}
        return Product(model, product.tokenizer, (), _findings(begun.words, free))

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the student."""
        return self.other_model(product, ctx.data, ctx.seed)


def _findings(words: str, free: Mapping[str, Any]) -> Findings:
    return Findings(notes=(f"the student is {words}",), free=dict(free))
