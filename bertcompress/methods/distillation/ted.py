"""Train on what of a teacher's hidden states the task needs, by filters learned on the labels.

TED (Liang et al. 2023, 2210.01351): first a linear map of every compared layer is learned, in the
teacher and in the student, each with a head of its own on the labels, while both models stand
still. Then the student, its maps included, follows the teacher in what the maps let through, beside
the labels and the teacher's answers. A student that cannot hold all of a teacher's states need not
try; maps of one width take widths that differ.

Costs a forward pass of each model for every row of `filter_epochs`, and in the second training a
forward pass of the teacher: a third. Not without labels, and not for a teacher whose tokenizer cuts
the texts otherwise; the student is better fine-tuned before. Changes no shape: no speed-up.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, TypeVar

import torch
from pydantic import Field
from torch import nn

from bertcompress.data.batches import Batches, train_loader
from bertcompress.deployment import Product
from bertcompress.engines.distillation.augmentation import with_augmented
from bertcompress.engines.distillation.filters import FilteredStates, FilterLoss, TaskFilters
from bertcompress.engines.distillation.inside import layer_map
from bertcompress.engines.distillation.objectives import Distillation
from bertcompress.engines.distillation.teachers import LiveTeacher
from bertcompress.engines.pruning.importance import head_of
from bertcompress.errors import RecipeError, TaskError
from bertcompress.heads import Head
from bertcompress.method import Context, Need
from bertcompress.methods.distillation.distill import Distill
from bertcompress.shapes import anatomy, hidden_size
from bertcompress.training import Phase, fit_batches, fit_phases, fit_stage

__all__ = ["Ted", "ted"]

_Model = TypeVar("_Model", bound=nn.Module)

_UNFILTERED = "the same, hidden states unfiltered"


def ted(
    model: nn.Module,
    teacher: nn.Module,
    loader: Batches,
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    **knobs: Any,
) -> nn.Module:
    """Train `model` in place on what a teacher's filtered states tell, and return it.

    Batches have `labels`, and both models read the same tokens. `knobs` are the fields of `Ted`;
    the teacher stays as it is. Raises ModelError for models of different vocabularies.
    """
    method, batches = Ted(**knobs), train_loader(loader)
    objective = method.loader_objective(model, teacher, seed=seed, device=device)
    if method.filters_states and isinstance(objective, Distillation):
        both = zip((model, teacher), method.compared(model, teacher), strict=True)
        losses = [
            method.filter_loss(each, teacher, states, head_of(each), seed, device)
            for each, states in both
        ]
        for each, loss in zip((model, teacher), losses, strict=True):
            settings, still = method.filter_settings, _standing_still(each)
            fit_batches(still, loss, batches, settings=settings, seed=seed, device=device)
        objective.filters = FilteredStates(*(loss.filters for loss in losses))
    fit_batches(model, objective, batches, settings=method, seed=seed, device=device)
    return model


class Ted(Distill):
    """Train on what of a teacher's hidden states the task needs, by learned filters."""

    key: ClassVar[str] = "ted"
    paper: ClassVar[str] = "Liang et al. 2023, arXiv:2210.01351"
    tier: ClassVar[Literal["core", "useful", "research"]] = "research"
    requires: ClassVar[frozenset[Need]] = frozenset(
        {Need.HEAD, Need.TEACHER, Need.CUT, Need.LABELS}
    )

    filter_epochs: float = Field(
        1, ge=0, le=1_000, description="Epochs in which filters are learned; 0: without filters"
    )
    filter_width: int | None = Field(
        None, ge=1, description="Features that a filter lets through; null: the teacher's width"
    )
    temperature: float = Field(1.0, ge=1, le=100, description="Softens both answers")
    label_weight: float = Field(1.0, ge=0, description="Weight of the labels' loss")
    logit_weight: float = Field(1.0, ge=0, description="Weight of the teacher's logits")
    hidden_weight: float = Field(
        1.0, ge=0, description="Weight of the teacher's hidden states, behind the filters"
    )

    @property
    def filters_states(self) -> bool:
        """Whether filters take part."""
        return bool(self.filter_epochs and self.hidden_weight)

    @property
    def filter_settings(self) -> Ted:
        """The settings of the training of filters."""
        fixed = {"max_steps": None, "patience": None, "evaluation_steps": None}
        return self.model_copy(update={"epochs": self.filter_epochs, **fixed})

    def compared(self, model: nn.Module, teacher: nn.Module) -> tuple[Sequence[int], Sequence[int]]:
        """Return which hidden states are compared, of the student and of its teacher, in order."""
        depths = anatomy(model).depth, anatomy(teacher).depth
        return range(1, depths[0] + 1), layer_map(*depths)[1:]

    def filter_loss(
        self,
        model: nn.Module,
        teacher: nn.Module,
        states: Sequence[int],
        head: Head,
        seed: int,
        device: torch.device | str,
    ) -> FilterLoss:
        """Return what new filters of a model are learned by. Raises TaskError without a head."""
        if head.auto_class is None:
            raise TaskError(
                f"ted: filters are learned by a head on the labels, and a {head.key} task has "
                "none; distill serves it"
            )
        config, wide = anatomy(model).config, hidden_size(anatomy(teacher).config)
        filtered, outputs = self.filter_width or wide, int(config.num_labels)
        filters = TaskFilters(states, hidden_size(config), filtered, outputs, seed)
        return FilterLoss(filters.to(device), head)

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the trained product. Raises RecipeError for a teacher that only answers."""
        if self.labels_only or not self.filters_states:
            return super().apply(product, ctx)
        ctx, made = with_augmented(self.augmentation, ctx, ctx.models.teacher, product.tokenizer)
        teacher = ctx.models.teacher
        if not isinstance(teacher, LiveTeacher) or teacher.tokenizer is None:
            raise RecipeError("ted: needs a teacher whose model and tokenizer are at hand")
        objective = self.stage_objective(product, ctx)  # first: it refuses what does not align
        of_teacher: Any = teacher.model
        theirs = Product(of_teacher, teacher.tokenizer)
        learned: list[TaskFilters] = []

        def train(settings: Ted) -> Product:
            objective.filters = FilteredStates(*learned)
            return fit_stage(product, ctx, objective, settings)

        phase = replace(ctx.phase("teacher-filters"), data=teacher.data or ctx.data)
        places = (ctx.phase("student-filters"), phase)
        filtering = self._filtering(product, theirs, places, learned)
        done = fit_phases([*filtering, Phase(self, train)])
        return self.finished(done, ctx, made)

    def _filtering(
        self,
        student: Product,
        teacher: Product,
        places: tuple[Context, Context],
        learned: list[TaskFilters],
    ) -> Iterator[Phase[Ted]]:
        """Yield the trainings of the filters of student and teacher, in that order.

        Each is beside a model that stands still, and puts its filters at the end of `learned`.
        """
        compared = self.compared(student.model, teacher.model)
        for each, states, place in zip((student, teacher), compared, places, strict=True):

            def train(
                settings: Ted, each: Product = each, states: Any = states, place: Any = place
            ) -> Product:
                head = head_of(each.model, place.task.head)
                loss = self.filter_loss(
                    each.model, teacher.model, states, head, place.seed, place.device
                )
                still = Product(_standing_still(each.model), each.tokenizer)
                done = fit_stage(still, place, loss, settings, keep_last=True)
                learned.append(loss.filters)
                return done

            yield Phase(self.filter_settings, train, "filter_epochs")

    def controls(self) -> Mapping[str, Distill]:
        """Return the labels alone, and the same on hidden states as they are."""
        alone = {
            words: each.model_copy(update={"filter_epochs": 0.0})
            for words, each in super().controls().items()
        }
        if not self.filters_states:
            return alone
        return {**alone, _UNFILTERED: self.model_copy(update={"filter_epochs": 0.0})}


def _standing_still(model: _Model) -> _Model:
    """Return a copy that no training changes."""
    still = copy.deepcopy(model)
    still.requires_grad_(False)
    return still
