"""Learning from a teacher: the weights of the loss's terms, and the objective they make of a stage.

A method that trains under a teacher inherits the fields of `DistillationSettings`.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn
from transformers import PreTrainedTokenizerBase

from bertcompress.data import TaskData
from bertcompress.deployment import Product
from bertcompress.engines.distillation.alignment import (
    answers_not_aligned,
    check_aligned,
    not_aligned,
    reads_alike,
    same_pieces,
    same_tokens,
)
from bertcompress.engines.distillation.caching import cached_where_it_fits
from bertcompress.engines.distillation.depths import check_depths
from bertcompress.engines.distillation.inside import InsideTerms
from bertcompress.engines.distillation.objectives import Distillation, projection
from bertcompress.engines.distillation.relations import Relation
from bertcompress.engines.distillation.soft_targets import (
    CONTROLS,
    LabelWeighting,
    ShuffledTeacher,
    Targets,
    check_targets,
)
from bertcompress.engines.distillation.teachers import LiveTeacher, check_same_features
from bertcompress.engines.pruning.importance import head_of
from bertcompress.errors import InputError, ModelError, RecipeError
from bertcompress.heads import Head
from bertcompress.method import Context, Objective, Teacher
from bertcompress.shapes import anatomy, hidden_size
from bertcompress.training import LabelLoss

__all__ = [
    "LABELS_ONLY",
    "TEACHER_WEIGHTS",
    "WITHOUT_TEACHER",
    "DistillationSettings",
    "check_fit",
    "control_words",
    "learns_from_labels_alone",
]


LABELS_ONLY = {
    "label_weight": 1.0,
    "logit_weight": 0.0,
    "hidden_weight": 0.0,
    "patient_weight": 0.0,
    "attention_weight": 0.0,
    "relation_weight": 0.0,
}
"""The weights of a control: the same training without its teacher."""

_INSIDE = (
    "patient_weight",
    "attention_weight",
    "relation_weight",
    "relations",
    "relation_heads",
)

WITHOUT_TEACHER = "labels alone, no teacher"
"""What a report calls that control."""


class DistillationSettings(BaseModel):
    """What a teacher's answers weigh beside the labels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float = Field(
        2.0, ge=1, le=100, description="Softens both answers; higher shows more of the small ones"
    )
    label_weight: float = Field(
        0.1, ge=0, description="Weight of the labels' loss; 0 without labels"
    )
    logit_weight: float = Field(0.9, ge=0, description="Weight of the teacher's logits")
    targets: Targets = Field(
        "probabilities",
        description="What of its logits is learned: all, or the answer decided by; smoothed, "
        "shuffled, permuted: controls that remove what probabilities tell",
    )
    label_weighting: LabelWeighting = Field(
        "equal",
        description="What a row's label weighs; confidence: by the teacher's largest probability",
    )
    hidden_weight: float = Field(
        1.0, ge=0, description="Weight of the teacher's hidden states; needs the same tokens"
    )
    patient_weight: float = Field(
        0.0, ge=0, description="Weight of the first tokens' normalised states in the layers between"
    )
    attention_weight: float = Field(
        0.0, ge=0, description="Weight of the attention scores; needs the same tokens"
    )
    relation_weight: float = Field(
        0.0, ge=0, description="Weight of the relations among tokens; needs the same tokens"
    )
    relations: tuple[Relation, ...] = Field(
        ("query", "key", "value"),
        min_length=1,
        description="Which projections are related: each with itself, or query_key",
    )
    relation_heads: int | None = Field(
        None,
        ge=1,
        description="Parts that the widths are divided into; null: as published, where that fits",
    )
    relation_layer: int | None = Field(
        None,
        ge=1,
        description="Layer of the teacher, from 1, whose relations are learned; null: last",
    )
    cache_hidden_mb: float = Field(
        0.0,
        ge=0,
        description="Keep hidden states on disk (10^6 bytes) where they take at most this; of "
        "relations and attention scores the inputs of their layers alone",
    )

    @model_validator(mode="after")
    def _something_is_learned(self) -> Self:
        if not any(getattr(self, name) for name in LABELS_ONLY):
            raise ValueError(f"nothing is learned: {', '.join(LABELS_ONLY)} are all 0")
        return self

    @model_validator(mode="after")
    def _controls_have_their_term(self) -> Self:
        if self.targets in CONTROLS and not self.logit_weight:
            raise ValueError(f"targets: {self.targets} stands for the logits, whose weight is 0")
        if self.label_weighting == "confidence":
            if not self.label_weight:
                raise ValueError("label_weighting: weighs the labels' loss, whose weight is 0")
            if self.targets == "shuffled":
                raise ValueError(
                    "label_weighting: confidence is the teacher's in each row, and targets: "
                    "shuffled takes its answers to others; one of the two at a time"
                )
        return self

    @property
    def asked_controls(self) -> tuple[str, ...]:
        """The controls among its settings, keys of `CONTROLS`."""
        return tuple(each for each in (self.targets, self.label_weighting) if each in CONTROLS)

    @property
    def learns_answers(self) -> bool:
        """Whether something of a teacher's answers is learned, beside the labels."""
        return any(getattr(self, name) for name in LABELS_ONLY if name != "label_weight")

    @property
    def learns_inside(self) -> bool:
        """Whether something inside a teacher is learned, beside its answers."""
        return bool(self.patient_weight or self.compares_tokens)

    @property
    def labels_only(self) -> bool:
        """Whether no teacher takes part."""
        weighs = self.label_weighting == "confidence" and self.label_weight > 0
        return not (self.learns_answers or weighs)

    @property
    def labels_alone(self) -> dict[str, Any]:
        """The changes that leave no teacher: those of a control."""
        return {**LABELS_ONLY, "label_weighting": "equal"}

    @property
    def taught_depths(self) -> tuple[int, ...]:
        """Numbers of layers after which vectors learn the teacher's too, beside all layers."""
        return ()

    @property
    def _where(self) -> str:
        """Name of the method in a message."""
        return str(getattr(self, "key", "this method"))

    def without_teacher(self) -> dict[str, Self]:
        """Return the control of a method whose teacher is optional: none without a teacher."""
        if self.labels_only:
            return {}
        return {WITHOUT_TEACHER: self.model_copy(update=self.labels_alone)}

    def stage_objective(self, product: Product, ctx: Context) -> Distillation:
        """Return what a stage minimises: with the run's teacher, its answers cached where it pays.

        Raises RecipeError where a term needs a teacher and there is none.
        """
        unlabelled = not ctx.task.head.has_labels
        head = head_of(product.model, ctx.task.head)
        if self.labels_only:
            # Only the control: it may not touch a teacher at all.
            return self.objective(None, head)
        where = self._where
        if ctx.models.teacher is None:
            raise RecipeError(
                f"{where}: there is no teacher; cut the model before, or name a teacher"
            )
        check_fit(self, product.model, ctx.data, where)
        live = getattr(ctx.models.teacher, "model", None)
        inside = self._inside(live)
        needs = self._asked(inside, product.model)
        folder = ctx.workdir / "training"
        teacher = cached_where_it_fits(ctx.models.teacher, needs, folder, self.cache_hidden_mb)
        theirs = getattr(teacher, "tokenizer", None)
        alike = reads_alike(live, getattr(ctx.models.teacher, "data", None), ctx.data)
        same = theirs is not None and alike and same_tokens(theirs, product.tokenizer)
        if not same and isinstance(ctx.models.teacher, LiveTeacher):
            check_same_features(ctx.models.teacher, product.tokenizer)
        # Without labels and logits the selection split is judged by its hidden states too.
        splits = [*ctx.data.learned]
        splits += ["selection"] if unlabelled and not self.logit_weight else []
        aligned = same or (
            # After trimming the vocabulary only the numbers of the tokens differ.
            theirs is not None
            and alike
            and (self.compares_tokens or (head.taught_by_token and self.logit_weight > 0))
            and all(same_pieces(theirs, product.tokenizer, ctx.data, split) for split in splits)
        )
        project = (
            self._projection(product, ctx, teacher) if aligned or self.patient_weight else None
        )
        if self.targets == "shuffled" and self.logit_weight:
            rows, labels = (np.asarray(ctx.data.train[name][:]) for name in ("row_id", "label"))
            teacher = ShuffledTeacher(teacher, rows, labels, ctx.seed)
        return self.objective(teacher, head, project, same, ctx.device, aligned, inside, ctx.seed)

    def loader_objective(
        self, model: nn.Module, teacher: nn.Module | None, *, seed: int, device: torch.device | str
    ) -> Objective:
        """Return what a training on a loader of one's own minimises; both read the same tokens.

        Without a teacher that is the labels' loss. Raises ModelError for models of different
        vocabularies, RecipeError for depths that the model or its head has no answer at.
        """
        if teacher is None:
            return LabelLoss()
        words = [int(m.config.vocab_size) for m in (model, teacher)]  # type: ignore[union-attr,arg-type]
        if words[0] != words[1]:
            raise ModelError(
                f"distill: the model knows {words[0]} tokens and the teacher {words[1]}, so one "
                "batch cannot serve both; distil before the vocabulary is trimmed, or by a recipe, "
                "where the teacher has its own tokenizer"
            )
        if self.targets == "shuffled":
            raise InputError(
                "targets: shuffled: the rows of a class are known to a recipe; with a loader of "
                "your own take smoothed or permuted"
            )
        head = head_of(model)
        check_depths(self.taught_depths, model, head, self._where)
        for asked in self.asked_controls:
            check_targets(asked, head, int(anatomy(model).config.num_labels), True, self._where)
        live = LiveTeacher(teacher, device=device)
        widths = [hidden_size(m.config) for m in (model, teacher)]
        states = self.hidden_weight or self.patient_weight
        project = projection(widths[0], widths[1], seed) if states else None
        inside = self._inside(teacher)
        return self.objective(live, head, project, device=device, inside=inside, seed=seed)

    def objective(
        self,
        teacher: Teacher | None,
        problem: str | Head,
        project: nn.Module | None = None,
        same_tokens: bool = True,
        device: torch.device | str = "cpu",
        aligned: bool = False,
        inside: InsideTerms | None = None,
        seed: int = 0,
    ) -> Distillation:
        """Return what is minimised with these weights."""
        return Distillation(
            teacher,
            problem=problem,
            label_weight=self.label_weight,
            logit_weight=self.logit_weight,
            hidden_weight=self.hidden_weight,
            temperature=self.temperature,
            project=project.to(device) if project is not None else None,
            same_tokens=same_tokens,
            aligned=aligned,
            inside=inside,
            targets=self.targets,
            label_weighting=self.label_weighting,
            depths=self.taught_depths,
            seed=seed,
        )

    @property
    def compares_tokens(self) -> bool:
        """Whether a term needs student and teacher to have the same tokens."""
        return bool(self.hidden_weight or self.attention_weight or self.relation_weight)

    def check_taught(
        self, teacher: Product, tokenizer: PreTrainedTokenizerBase, data: TaskData
    ) -> None:
        """Raise where a term looks for something that a teacher has not.

        ModelError where tokens are compared and it cuts the texts otherwise, RecipeError for a
        layer. `tokenizer`: the student's, which reads `data`.
        """
        self._inside(teacher.model)
        if self.compares_tokens:
            by_state = "hidden_weight" if self.hidden_weight else None
            refused = not_aligned(by_state or "attention_weight and relation_weight")
        elif self.logit_weight and data.task.head.taught_by_token:
            refused = answers_not_aligned(data.task.head.key)
        else:
            return
        check_aligned(teacher, tokenizer, data, refused)

    def _inside(self, teacher: nn.Module | None) -> InsideTerms:
        """Return the terms that look inside a teacher; RecipeError for one that is not at hand."""
        terms = {name: getattr(self, name) for name in _INSIDE}
        if not (self.attention_weight or self.relation_weight):
            return InsideTerms(**terms)
        if teacher is None:
            raise RecipeError(
                f"{self._where}: attention_weight and relation_weight need a teacher whose model "
                "is at hand, not its answers alone"
            )
        view = anatomy(teacher)
        layer = self.relation_layer
        if layer is not None and layer > view.depth:
            raise RecipeError(
                f"{self._where}: relation_layer: {layer}; the teacher has {view.depth} layers"
            )
        heads = tuple(view.layers[i].heads for i in view.applications)
        at = None if layer is None else layer - 1
        return InsideTerms(
            **terms, teacher_depth=view.depth, teacher_heads=heads, relation_layer=at
        )

    def _asked(self, inside: InsideTerms, model: nn.Module) -> frozenset[str]:
        """Return what a teacher is asked for besides its logits, for a student."""
        states = {"hidden_states"} if self.hidden_weight or self.patient_weight else set()
        return frozenset(states) | inside.asked(model, None)

    def _projection(self, product: Product, ctx: Context, teacher: Teacher) -> nn.Module | None:
        if not (self.hidden_weight or self.patient_weight):
            return None
        first = torch.as_tensor(ctx.data.train["row_id"][:1])
        answer = teacher(first, frozenset({"hidden_states"}))
        width = answer.hidden_states[0].shape[-1]
        return projection(hidden_size(product.model.config), width, ctx.seed)


def check_fit(method: object, model: nn.Module, data: TaskData, where: str) -> None:
    """Raise RecipeError where a method's depths or targets do not fit a model and its task."""
    if not isinstance(method, DistillationSettings):
        return
    check_depths(method.taught_depths, model, data.task.head, where)
    if not method.asked_controls:
        return
    head = head_of(model, data.task.head)
    classes, labelled = int(anatomy(model).config.num_labels), data.task.head.teaches(data.train)
    for asked in method.asked_controls:
        check_targets(asked, head, classes, labelled, where)


def control_words(method: object) -> dict[str, str]:
    """Return the settings of a method that take something from a teacher's probabilities.

    Each with what it learns from, in words; empty for most methods.
    """
    if not isinstance(method, DistillationSettings):
        return {}
    words = {}
    for asked in method.asked_controls:
        if asked == "confidence":
            words[f"label_weighting: {asked}"] = CONTROLS[asked]
            continue
        inside = "; hidden states and relations are of each row itself"
        words[f"targets: {asked}"] = CONTROLS[asked] + (inside if method.learns_inside else "")
    return words


def learns_from_labels_alone(method: object) -> bool:
    """Return whether a method could learn from a teacher and, as it is set, does not."""
    return isinstance(method, DistillationSettings) and method.labels_only


TEACHER_WEIGHTS = {name: DistillationSettings.model_fields[name].default for name in LABELS_ONLY}
"""The weights under a teacher, for methods whose own defaults are the labels alone."""
