"""The contracts between a run, its methods and what they train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from bertcompress.data import TaskData
from bertcompress.deployment import Product
from bertcompress.task import Task

__all__ = ["Context", "Method", "Objective", "Teacher", "TeacherOutputs"]


@dataclass(frozen=True)
class TeacherOutputs:
    """What a teacher answers for some rows, in the order asked.

    Shape: logits (B, K); hidden_states L + 1 tensors (B, T, H), embeddings first; attentions
    L tensors (B, heads, T, T). Only what was asked for is filled.
    """

    logits: Tensor
    hidden_states: tuple[Tensor, ...] = ()
    attentions: tuple[Tensor, ...] = ()


class Teacher(Protocol):
    """Owns its tokenizer and answers by `row_id`, live or from its cache, never with gradients."""

    def __call__(self, row_ids: Tensor, needs: frozenset[str] = frozenset()) -> TeacherOutputs:
        """Answer for the rows. Shape: row_ids (B,). `needs`: of `hidden_states`, `attentions`."""
        ...


@dataclass(frozen=True)
class Context:
    """What a method may know besides the product that it is given."""

    task: Task
    data: TaskData
    """Without the validation rows: nothing is chosen on what is reported."""
    teacher: Teacher | None
    device: torch.device
    seed: int
    workdir: Path


class Method(BaseModel):
    """One step of a recipe: typed knobs and `apply`. Subclasses are one file each, depth 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: ClassVar[str]
    """Name in a recipe, of the file, and of the function that does the same without a recipe."""
    paper: ClassVar[str]
    """First source, with its arXiv id."""
    tier: ClassVar[Literal["core", "useful", "research"]] = "core"
    kind: ClassVar[Literal["train", "shape", "precision"]]
    """`train` changes weights, `shape` the architecture; `precision` makes deployments, last."""
    needs_labels: ClassVar[bool] = False
    uses_teacher: ClassVar[bool] = False
    """Whether the result depends on `Context.teacher`."""
    speeds_up: ClassVar[bool] = False
    """False prints "no speed-up here" beside the stage, unless it only trains."""
    pays_when_measured: ClassVar[bool] = False
    """Whether less arithmetic need not be faster: the stage is timed beside the one before it."""

    @property
    def uneven(self) -> bool:
        """Whether it leaves layers of different shapes, which then cannot share weights."""
        return False

    def check(self, model: nn.Module) -> None:
        """Raise ShapeError where a model cannot take this step; only shapes count, not weights."""

    def check_tokenizer(self, model: nn.Module, tokenizer: Any) -> None:
        """Raise where a model's tokenizer does not serve this step: before any step is computed."""

    def outline(self, model: nn.Module) -> None:
        """Give a model without weights, in place, what is known of the shape that this leaves.

        So that an impossible step is refused before the steps ahead of it are computed.
        """

    def files(self) -> tuple[Path, ...]:
        """Return files that the result depends on: a stage is found again by what is in them."""
        return ()

    def left_out(self) -> tuple[str, ...]:
        """Return a line for each file that this step leaves out for want of a package."""
        return ()

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the product after this step. `product` is a private copy and may be changed."""
        raise NotImplementedError

    def control(self) -> Method | None:
        """Return the same step with the teacher's terms zero, or None where that means nothing."""
        return None


class Objective(Protocol):
    """What `training.fit` minimises."""

    needs: frozenset[str]
    """What the model must return: of `hidden_states`, `attentions` (forces eager attention)."""

    def __call__(
        self, model: nn.Module, batch: Mapping[str, Tensor], outputs: Any, step: int
    ) -> Tensor:
        """Return the scalar loss of one batch, which holds `row_id` and, if any, `labels`."""
        ...

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return optimizer groups of the objective's own parameters (projections, gates ...)."""
        ...

    def on_step_end(self, step: int) -> None:
        """Run after each optimizer step."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        ...
