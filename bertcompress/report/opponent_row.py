"""The row of what could be taken instead of a result, with how far the result is above it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from bertcompress.measure.row import Row
from bertcompress.measure.scores import Cost, Score
from bertcompress.report.deployment_row import DeploymentRow

__all__ = ["Margin", "Opponent"]


class Margin(Row):
    """How far a deployment is above an opponent, on the same rows."""

    path: str = Field(description="Of the deployment, as in its row")
    against: str | None = Field(
        None, description="Of the opponent's file, as in its `deployments`; null: it has one"
    )
    difference: float = Field(description="Its score minus the opponent's")
    difference_low: float = Field(description="Lower end of its paired 95 % interval over examples")
    difference_high: float = Field(description="Upper end of that interval")


class Opponent(Row):
    """What could be taken instead of the result, and was measured on the same rows."""

    kind: Literal["static", "model"] = Field(
        "static", description="static: static word vectors; model: a model of somebody else"
    )
    name: str = Field(description="What it is")
    path: str = Field(description="Its file or folder, relative to the run folder")
    size_mb: float = Field(ge=0, description="Megabytes of that file or folder")
    dimensions: int | None = Field(ge=1, description="Of its vectors; null: it is no embedder")
    tokens: int = Field(ge=0, description="Tokens that have a vector")
    scores: tuple[Score, ...] = Field((), description="One per metric, on the validation split")
    metric: str = Field(description="The metric that it is compared by")
    margins: tuple[Margin, ...] = Field(
        (), description="One for each shipped deployment and each of its own"
    )
    finetuned: bool = Field(
        False, description="Whether the recipe's own `finetune` trained it; false: as it comes"
    )
    macs: int | None = Field(
        None, description="Multiply-accumulates of the layers for one text of 128 tokens"
    )
    cost: Cost | None = Field(None, description="What fine-tuning it cost, or else reading it")
    ended: dict[str, Any] | None = Field(
        None, description="Why its training ended, as in `facts.ended` of a stage"
    )
    deployments: tuple[DeploymentRow, ...] = Field(
        (),
        description="Its files; `path`, `size_mb` and `scores` are of the one that is the "
        "fastest on single texts, else of the smallest",
    )
    notes: tuple[str, ...] = Field((), description="What was decided about it, in words")

    @property
    def score(self) -> Score | None:
        """The score that it is compared by."""
        return next((each for each in self.scores if each.metric == self.metric), None)
