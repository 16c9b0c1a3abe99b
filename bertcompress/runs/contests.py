"""A method against its control: a run goes on with the better one by the selection split."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bertcompress.heads.scoring import compute
from bertcompress.measure.footprint import count_parameters
from bertcompress.measure.scores import predict
from bertcompress.method import Method
from bertcompress.runs.results import StageResult
from bertcompress.runs.stage import Stages
from bertcompress.runtimes.torch import scoring
from bertcompress.training import TrainSettings

__all__ = ["CONTROL", "Contest", "trained_alike"]

CONTROL = "labels alone, no teacher"
"""What every control is: the same training without its teacher."""

LARGER = 1.01
"""A control with more parameters than so many times the method's is of another shape."""


@dataclass(frozen=True)
class Contest:
    """A method, its control, and how they stand on the selection split."""

    method: StageResult
    control: StageResult
    method_score: float
    control_score: float
    goes_on: bool
    """Whether the control is better, and no larger: it then takes the place of the method."""

    @classmethod
    def of(cls, method: StageResult, control: StageResult, stages: Stages) -> Contest:
        """Return the contest, decided by the headline on the selection split alone."""
        ours, theirs = (_selection_score(each, stages) for each in (method, control))
        sizes = [count_parameters(each.product.model).total for each in (method, control)]
        better = theirs > ours and sizes[1] <= LARGER * sizes[0]
        return cls(method, control, ours, theirs, better)

    @property
    def winner(self) -> StageResult:
        """What goes on, under the name of the method's stage."""
        if not self.goes_on:
            return self.method
        named = self.control.record.model_copy(update={"name": self.method.record.name})
        return dataclasses.replace(self.control, record=named)

    @property
    def words(self) -> str:
        """What is said where the control goes on; empty otherwise."""
        if not self.goes_on:
            return ""
        return (
            f"the control ({CONTROL}) was better on the selection split, "
            f"{self.control_score:.3f} against {self.method_score:.3f}: it goes on and ships"
        )


def _selection_score(finished: StageResult, stages: Stages) -> float:
    """Return the headline on the selection split: as training found it, else of the model now."""
    known = finished.record.facts.get("selection_score")
    if known is not None:
        return float(known)
    data, product = stages.data, finished.product
    value = 0.0
    if stages.ranks.main:
        with scoring(product.model) as predictor:
            logits = predict(predictor, data, "selection", product.tokenizer)
        name = data.task.headline
        value = compute(data.task.head, [name], logits, data.references("selection"))[name]
    return float(stages.ranks.agree(value))


def trained_alike(control: Method, facts: Mapping[str, Any]) -> Method:
    """Return a control that trains as its method did: as many steps, its rate and precision.

    `facts`: of the method's stage.
    """
    settings: Any = control
    if not isinstance(settings, TrainSettings):
        return control
    may_end_early = settings.patience is not None or settings.max_minutes is not None
    if settings.is_fixed and not may_end_early:
        return control
    return control.model_copy(update=settings.equal_steps(facts))
