"""The contracts between a run, its methods and what they train. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias

from pydantic import BaseModel, ConfigDict

from bertcompress.deployment import Measurement, Product
from bertcompress.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from bertcompress.data import TaskData
    from bertcompress.data.transfer import Augmentation, TransferText
    from bertcompress.task import Task

__all__ = [
    "Context",
    "Leaves",
    "Method",
    "Models",
    "Need",
    "Objective",
    "Projections",
    "Teacher",
    "TeacherOutputs",
]

Leaves = Literal["weights", "shape", "files", "measurement"]
"""What a method leaves: trained weights, another architecture, files of a runtime, or figures."""


class Need(StrEnum):
    """What a method cannot do without; recipes and runs read this and never a method's key."""

    HEAD = "head"
    """A model that answers the task."""
    LABELS = "labels"
    """Rows with labels."""
    TEACHER = "teacher"
    """The answers of a teacher: a stage depends on which one it is."""
    CUT = "cut"
    """A change of shape before it, or a named teacher: else the model would teach itself."""
    EVEN_LAYERS = "even layers"
    """Layers of one shape."""
    ORIGINAL = "original"
    """`Context.models.original`."""
    BASELINE = "baseline"
    """`Context.models.baseline`."""


Projections: TypeAlias = "tuple[Tensor, Tensor, Tensor]"
"""Queries, keys and values of a layer. Shape: (B, T, heads x head size) each."""


@dataclass(frozen=True)
class TeacherOutputs:
    """What a teacher answers for some rows, in the order asked.

    Shape: logits (B, K); hidden_states L + 1 tensors (B, T, H), embeddings first; attentions
    L tensors (B, heads, T, T). Only what was asked for is filled.
    """

    logits: Tensor
    hidden_states: tuple[Tensor, ...] = ()
    attentions: tuple[Tensor, ...] = ()
    projections: Mapping[int, Projections] = field(default_factory=dict)
    """By the number of the layer, from 0."""


class Teacher(Protocol):
    """Owns its tokenizer and answers by `row_id`, live or from its cache, never with gradients."""

    def __call__(
        self,
        row_ids: Tensor,
        needs: frozenset[str] = frozenset(),
        parts: Tensor | None = None,
    ) -> TeacherOutputs:
        """Answer for the rows.

        `needs`: of `hidden_states`, `attentions`, and `projections.I` for those of layer I, from 0.
        `parts`: which feature of each row, where the head makes several; None: the first.
        Shape: row_ids and parts (B,).
        """
        ...


def _no_head() -> Product | None:
    return None


def _none() -> Product:
    raise ModelError(
        "this context has no such model: a method that looks at one names Need.ORIGINAL or "
        "Need.BASELINE in its `requires`"
    )


@dataclass(frozen=True)
class Models:
    """The models that a method may look at besides its own; each is read when it is asked for."""

    teacher: Teacher | None = None
    open_original: Callable[[], Product] = _none
    open_baseline: Callable[[], Product] = _none
    open_masked_lm: Callable[[], Product | None] = _no_head
    """Reads the recipe's checkpoint with its masked-LM head; None where none was trained."""

    @property
    def original(self) -> Product:
        """The model as it came, before any step: a copy that may be changed."""
        return self.open_original()

    @property
    def baseline(self) -> Product:
        """The model that retention refers to: fine-tuned, not yet changed. A copy."""
        return self.open_baseline()


@dataclass(frozen=True)
class Context:
    """What a method may know besides the product that it is given."""

    task: Task
    data: TaskData
    """Without the validation rows: nothing is chosen on what is reported."""
    models: Models
    device: torch.device
    seed: int
    workdir: Path
    """Folder for checkpoints and caches; gone when the stage is written."""

    def phase(self, name: str) -> Context:
        """Return the context of one of several trainings, with its own folder to resume from."""
        return replace(self, workdir=self.workdir / name)


class Method(BaseModel):
    """One step of a recipe: typed settings and `apply`. Subclasses are one file each, depth 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: ClassVar[str]
    """Name in a recipe, of the file, and of the function that does the same without a recipe."""
    paper: ClassVar[str]
    """First source, with its arXiv id."""
    tier: ClassVar[Literal["core", "useful", "research"]] = "core"
    leaves: ClassVar[Leaves]
    """Files come last in a recipe: nothing can change them any more."""
    requires: ClassVar[frozenset[Need]] = frozenset({Need.HEAD})
    trains_head: ClassVar[bool] = False
    """Whether it can train a head that is new; a model that answers the task already skips it."""
    references: ClassVar[frozenset[str]] = frozenset()
    """Controls that are the goal and no rival, such as the dense model: they never go on."""
    tags: ClassVar[tuple[str, ...]] = ()
    """Tags of a model card on the Hub."""
    replaces_model: ClassVar[bool] = False
    """Whether the run goes on with another model, which `other_model` returns."""
    plain_setting: ClassVar[str | None] = None
    """The setting that is meant where a recipe gives a word in place of settings."""
    speeds_up: ClassVar[bool] = False
    """False prints "no speed-up here" beside the stage, unless it only trains."""
    speed_needs_timing: ClassVar[bool] = False
    """Whether less arithmetic need not be faster: the stage is timed beside the one before it."""

    @property
    def leaves_layers_uneven(self) -> bool:
        """Whether it leaves layers of different shapes, which then cannot share weights."""
        return False

    @property
    def leaves_zeros(self) -> bool:
        """Whether it leaves weights at exactly zero, after which no shape can change."""
        return False

    @property
    def needs_labels(self) -> bool:
        """Whether rows without labels are nothing to it, as it is set."""
        return Need.LABELS in self.requires

    @property
    def share_left(self) -> float | None:
        """The share of its parameters and work that a model keeps, 0 to 1; None: not known."""
        return None

    @property
    def rows_read(self) -> int:
        """Calibration rows that it reads at most, beside a training."""
        return 0

    @property
    def makes_files_for(self) -> tuple[str, ...]:
        """Runtimes that files are made for; empty: all that are installed, or it makes none."""
        return ()

    @property
    def tries_again(self) -> bool:
        """Whether files that lose too much are made anew in other ways."""
        return False

    def check(self, model: nn.Module) -> None:
        """Raise ShapeError where a model cannot take this step; only shapes count, not weights."""

    def check_tokenizer(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise where a model's tokenizer does not serve this step: before any step is computed."""

    def check_teacher(
        self, teacher: Product, tokenizer: PreTrainedTokenizerBase, data: TaskData
    ) -> None:
        """Raise where a teacher does not serve this step: before any step is computed.

        `tokenizer`: the student's, which reads the rows of `data`.
        """

    def plan_shape(self, model: nn.Module) -> None:
        """Give a model without weights, in place, what is known of the shape that this leaves.

        So that an impossible step is refused before the steps ahead of it are computed.
        """

    @property
    def transfer_text(self) -> TransferText | None:
        """Texts without labels that are read for its teacher; `Context.data.transfer` has them."""
        return None

    @property
    def augmentation(self) -> Augmentation | None:
        """The texts that it makes of training rows, for its teacher to answer; None: it makes none.

        With it `Context.models.open_masked_lm` reads the recipe's checkpoint.
        """
        return None

    @property
    def checkpoint(self) -> tuple[str, str | None] | None:
        """Name and revision of the checkpoint that a run goes on with; None: with its own model."""
        return None

    def other_model(self, product: Product, data: TaskData, seed: int) -> Product:
        """Return the model that a run goes on with, and the tokenizer that it reads texts by.

        Also asked before the run, of the model as it came: its shape and its tokenizer count then.
        """
        raise NotImplementedError(f"{self.key} goes on with the model that it is given")

    def files(self) -> tuple[Path, ...]:
        """Return files that the result depends on: a stage is found again by what is in them."""
        return ()

    def left_out(self) -> tuple[str, ...]:
        """Return a line for each file that this step leaves out for want of a package."""
        return ()

    def apply(self, product: Product, ctx: Context) -> Product | Measurement:
        """Return the product after this step, or what a probe measured.

        `product` is a private copy and may be changed.
        """
        raise NotImplementedError

    def dense_opponent(self) -> Method | None:
        """Return the step that makes of the *uncompressed* model what these files compete with.

        None for what makes no files. As it comes, at full speed: an opponent is never slowed.
        """
        return None

    def controls(self) -> Mapping[str, Method]:
        """Return the same step without what it adds, each under the words that a report prints."""
        return {}


class Objective(Protocol):
    """What `training.fit` minimises; `training.BaseObjective` has all of it but the loss."""

    needs: frozenset[str]
    """What the model must return: of `hidden_states`, `attentions` (forces eager attention)."""

    def __call__(
        self, model: nn.Module, batch: Mapping[str, Tensor], outputs: Any, step: int
    ) -> Tensor:
        """Return the scalar loss of one batch, which holds `row_id` and, if any, `labels`."""
        ...

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return optimizer groups of the objective's own parameters (projections, gates ...).

        Without a `weight_decay` of its own a group has that of the training on its matrices.
        """
        ...

    def on_backward(self, model: nn.Module, step: int) -> None:
        """Change the gradients of an optimizer step in place, before they are clipped."""
        ...

    def on_step_end(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Change weights or optimizer state in place after an optimizer step."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        ...
