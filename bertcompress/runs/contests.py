"""A method against its control: a run goes on with the better one by the selection split."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from bertcompress.data import TaskData
from bertcompress.deployment import Trained
from bertcompress.engines.distillation.settings import learns_from_labels_alone
from bertcompress.heads.scoring import compute
from bertcompress.measure.footprint import count_parameters
from bertcompress.method import Method
from bertcompress.report.rows import Role
from bertcompress.runs.results import StageResult
from bertcompress.runs.stage import Stages
from bertcompress.shapes import count_zeros
from bertcompress.training import TrainSettings

__all__ = ["Contest", "control_names", "controls_of", "is_control", "trained_alike"]

LARGER = 1.01
"""A control with more parameters than so many times the method's is of another shape."""


@dataclass(frozen=True)
class Contest:
    """A method, one of its controls, and how they stand on the selection split."""

    name: str
    """What the control leaves out, in words."""
    method: StageResult
    control: StageResult
    method_score: float
    control_score: float
    goes_on: bool
    """Whether the control takes the place of the method: it is better, no larger, and the best."""
    larger: bool = False
    """Whether the control has more parameters that are not zero: it is no other way to the same."""
    role: Role = "rival"
    """`rival`: may go on; `reference`: what the method aims at; `shown`: nothing was trained, so
    that the scores before any recovery decide nothing."""

    @classmethod
    def of(
        cls,
        method: StageResult,
        controls: Mapping[str, StageResult],
        stages: Stages,
        references: frozenset[str] = frozenset(),
    ) -> list[Contest]:
        """Return a contest for each control, decided by the headline on the selection split."""
        ours, size = _selection_score(method, stages), _size(method)
        scores = {name: _selection_score(each, stages) for name, each in controls.items()}
        larger = {name: _size(each) > LARGER * size for name, each in controls.items()}
        usual: Role = "shown" if method.record.findings.training is None else "rival"
        roles: dict[str, Role] = {n: "reference" if n in references else usual for n in controls}
        better = [
            name
            for name in controls
            if scores[name] > ours and not larger[name] and roles[name] == "rival"
        ]
        best = max(better, key=lambda name: scores[name], default=None)
        return [
            cls(name, method, each, ours, scores[name], name == best, larger[name], roles[name])
            for name, each in controls.items()
        ]

    @property
    def winner(self) -> StageResult:
        """What goes on, under the name of the method's stage."""
        if not self.goes_on:
            return self.method
        named = self.control.record.model_copy(update={"name": self.method.record.name})
        return dataclasses.replace(self.control, record=named)

    @property
    def words(self) -> str:
        """What is said where the control goes on, or would but for its size; empty otherwise."""
        if self.goes_on:
            end = "it goes on and ships"
        elif self.role == "rival" and self.larger and self.control_score > self.method_score:
            end = "it is larger, so the method goes on"
        else:
            return ""
        return (
            f"the control ({self.name}) was better on the selection split, "
            f"{self.control_score:.3f} against {self.method_score:.3f}: {end}"
        )


def control_names(stage: str) -> Iterator[str]:
    """Yield the stage folders of a method's controls, in order."""
    yield f"{stage}-control"
    for number in count(2):
        yield f"{stage}-control-{number}"


def is_control(folder: str) -> bool:
    """Return whether a stage folder is a control's."""
    return re.search(r"-control(-\d+)?$", folder) is not None


def _selection_score(finished: StageResult, stages: Stages) -> float:
    """Return the headline on the selection split: as training found it, else of the model now."""
    known = finished.record.findings.selection_score
    if known is not None:
        return known
    data, name = stages.data, stages.data.task.headline
    logits = finished.logits(finished.deployments[0], "selection")
    return compute(data.task.head, [name], logits, data.references("selection"))[name]


def _size(result: StageResult) -> int:
    """Return the parameters that are not masked: a dense control is larger than a sparse model."""
    model = result.product.model
    return count_parameters(model).total - count_zeros(model)


def trained_alike(control: Method, trained: Trained | None, other_rows: bool = False) -> Method:
    """Return a control that trains as its method did: as many steps, its rate and precision.

    It stays as it is where that is what it does by itself: in one training of a fixed length, as
    its method had, at the rate that was planned. `other_rows`: its epochs have not as many steps
    as those of the method.
    """
    settings: Any = control
    if not isinstance(settings, TrainSettings) or trained is None:
        return control
    may_end_early = settings.patience is not None or settings.max_minutes is not None
    otherwise = may_end_early or other_rows or trained.ended_before or trained.collapsed_at
    if settings.is_fixed and not otherwise:
        return control
    return control.model_copy(update=settings.equal_steps(trained))


def controls_of(method: Method, data: TaskData, asked: bool) -> Mapping[str, Method]:
    """Return the controls of a method; of a task without labels none.

    Where no training row has a label, none that would learn from labels alone. `asked`: by the
    recipe.
    """
    if not asked or not data.task.head.has_labels:
        return {}
    controls = method.controls()
    if data.task.head.teaches(data.train):
        return controls
    return {words: each for words, each in controls.items() if not learns_from_labels_alone(each)}
