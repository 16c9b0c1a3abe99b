"""The rows of a report: what `report.json` holds, stage by stage and deployment by deployment.

Every figure names its unit; a figure that nobody measured is null. Sizes are megabytes of 10^6
bytes, shares are 0 to 1, times are as named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from bertcompress.deployment import Findings, Measurement
from bertcompress.measure.row import Row
from bertcompress.measure.scores import Cost, Score
from bertcompress.report.deployment_row import DeploymentRow, Part
from bertcompress.report.judgement import Verdict
from bertcompress.report.opponent_row import Margin, Opponent
from bertcompress.runtimes import REFERENCE

__all__ = [
    "VERSION",
    "Control",
    "DeploymentRow",
    "LayerShape",
    "Margin",
    "Opponent",
    "Outcome",
    "Part",
    "Reading",
    "ReportData",
    "Role",
    "Stage",
    "last_of",
]

VERSION = 3
"""Raised when an older release could not read what this one writes."""


class LayerShape(Row):
    """What one layer of the encoder has left. A layer with no head and no neuron is gone."""

    layer: int = Field(ge=0, description="Index in the original model, bottom is 0")
    heads: int = Field(ge=0, description="Attention heads left")
    heads_before: int = Field(ge=0, description="Attention heads of the original")
    neurons: int = Field(ge=0, description="Feed-forward neurons left")
    neurons_before: int = Field(ge=0, description="Feed-forward neurons of the original")
    attention_of: int | None = Field(
        None, description="Lower layer whose attention weights it shares; null: it has its own"
    )
    ffn_of: int | None = Field(
        None, description="Lower layer whose feed-forward weights it shares; null: it has its own"
    )
    ranks: dict[str, int] = Field(
        {}, description="Rank of each of its linears that is a product of two thin ones"
    )

    @property
    def cut(self) -> bool:
        """Whether heads or neurons are gone."""
        return self.heads < self.heads_before or self.neurons < self.neurons_before

    @property
    def shared(self) -> bool:
        """Whether it uses weights of a lower layer."""
        return self.attention_of is not None or self.ffn_of is not None


Role = Literal["rival", "reference", "shown"]


class Outcome(Row):
    """What one of two trainings reached, of a method and its control."""

    score: Score | None = Field(description="Headline score; null where the rows allow none")
    selection_score: float | None = Field(
        None, description="Headline on the selection split, which decides which of the two goes on"
    )
    ended: dict[str, Any] | None = Field(
        None, description="Why the training ended, as in `facts.ended` of a stage"
    )
    history: tuple[dict[str, Any], ...] = Field(
        (), description="Loss and selection score over the steps, as in `facts.history` of a stage"
    )


class Control(Outcome):
    """The same step without one thing that the method adds, at equal data and steps."""

    name: str = Field(description="What was left out")
    goes_on: bool = Field(
        False,
        description="Whether it was the better one on the selection split, and is what the stage "
        "hands on: the figures of the stage are then the control's",
    )
    role: Role = Field(
        "rival",
        description="rival: may go on; reference: what the method aims at, as the dense model; "
        "shown: nothing was trained, so that scores before any recovery decide nothing",
    )
    method: Outcome | None = Field(
        None, description="What the method itself reached; null in reports of version 1"
    )


class Stage(Row):
    """One step of the recipe and what it led to."""

    name: str = Field(description="Folder of the stage, for example 02-prune_structured")
    method: str = Field(description="Key of the method, or `original` for the model as it came")
    baseline: bool = Field(
        False, description="True for the one stage that retention, sizes and speed refer to"
    )
    source_mb: float | None = Field(
        None, ge=0, description="Megabytes of the checkpoint as it came, where that is 16-bit"
    )
    params: int = Field(ge=0, description="Parameters, shared ones counted once")
    encoder_params: int = Field(ge=0, description="Parameters of the layers alone")
    macs: int | None = Field(
        None, ge=0, description="Multiply-accumulates of the layers for one text of 128 tokens"
    )
    cost: Cost | None = Field(None, description="What this step cost")
    controls: tuple[Control, ...] = Field(
        (), description="The same step without what the method adds, once for each such part"
    )
    deployments: tuple[DeploymentRow, ...] = Field((), description="Where the result runs")
    edits: tuple[LayerShape, ...] = Field((), description="What is left of each layer, if cut")
    notes: tuple[str, ...] = Field((), description="Remarks in words: reused, no speed-up here")
    facts: dict[str, Any] = Field(
        default_factory=dict, description="What the method found and chose, free of format"
    )
    measurement: Measurement | None = Field(
        None, description="What a probe measured; its stage leaves the model as it is"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_control(cls, value: Any) -> Any:
        """Read `control` of reports of versions 1 and 2, which had one at most."""
        if not isinstance(value, Mapping) or "control" not in value:
            return value
        rest = {name: each for name, each in value.items() if name != "control"}
        return rest if value["control"] is None else {**rest, "controls": [value["control"]]}

    @property
    def is_original(self) -> bool:
        """Whether it is the model as it came, before any method."""
        return self.method == "original"

    @property
    def findings(self) -> Findings:
        """`facts`, typed."""
        return Findings.of_facts(self.facts)

    @property
    def replaced_by(self) -> Control | None:
        """The control that goes on in the place of the method; the stage's figures are its own."""
        return next((each for each in self.controls if each.goes_on), None)

    @property
    def method_ended(self) -> Mapping[str, Any] | None:
        """Why the method's own training ended, whoever goes on."""
        control = self.replaced_by
        return control.method.ended if control and control.method else self.findings.ended

    @property
    def main(self) -> DeploymentRow | None:
        """The deployment that tells the story of this stage: torch, else the first."""
        reference = [row for row in self.deployments if row.runtime == REFERENCE]
        return next(iter(reference or self.deployments), None)


def last_of(stages: Sequence[Stage]) -> Stage:
    """Return the stage that is shipped: a probe after it leaves the model as it is."""
    left = [stage for stage in stages if stage.measurement is None]
    return (left or stages)[-1]


class Reading(Row):
    """How rows and classes were read."""

    cut: dict[str, float] = Field(
        {}, description="Share of the rows of each split that `max_length` cuts; empty: not known"
    )
    asked_length: int | None = Field(
        None,
        description="The `max_length` that the task asked for; null: none, then that of `task` is "
        "what its longest row needs, and what ships takes as many tokens as the model",
    )
    by_order: tuple[str, ...] = Field(
        (),
        description="Whose classes (`model`, `teacher`) were matched with the task's by order, "
        "since one side has no names",
    )
    judged: str | None = Field(
        None, description="sha256 of the texts and labels that scores are of; null: not known"
    )


class ReportData(Row):
    """The whole of `report.json`."""

    version: int = Field(VERSION, description="Of this format")
    recipe: dict[str, Any] = Field(description="The recipe with its defaults filled in")
    task: dict[str, Any] = Field(description="The task as resolved: data, metrics, chance level")
    environment: dict[str, Any] = Field(
        description="Processor, instruction sets, cores, threads, versions, date; "
        "`busy_cores`: what others used in the rounds of timing that count; `disturbed_rounds`: "
        "share of these in which that was 0.3 or more"
    )
    data: Reading = Field(Reading(), description="How rows and classes were read")
    stages: tuple[Stage, ...] = Field(description="In the order they ran")
    opponents: tuple[Opponent, ...] = Field(
        (),
        description="What could be taken instead: static word vectors beside an embedder, and the "
        "models of `measure.against`",
    )
    verdict: Verdict = Field(description="Computed from the stages")

    @property
    def last(self) -> Stage:
        """The stage that is shipped."""
        return last_of(self.stages)

    @property
    def reference(self) -> Stage:
        """The baseline stage."""
        return next(stage for stage in self.stages if stage.name == self.verdict.baseline)

    @property
    def methods(self) -> list[str]:
        """The keys of the methods that ran, in order."""
        return [stage.method for stage in self.stages if not stage.is_original]

    @property
    def title(self) -> str:
        """Model and task in one line; of a student, its teacher too, where one took part."""
        model, task = self.recipe.get("model", "a model"), self.task.get("name", "a task")
        if self.student is None:
            return f"{model} on {task}"
        if self.teacher is None:
            return f"{self.student}, in place of {model}, on {task}"
        return f"{self.student}, a student of {self.teacher}, on {task}"

    @property
    def student(self) -> str | None:
        """What went on in place of the model: a checkpoint, or a shape in words; None: nothing."""
        found = [stage.facts["goes_on_as"] for stage in self.stages if "goes_on_as" in stage.facts]
        return str(found[-1]) if found else None

    @property
    def checkpoint(self) -> str:
        """The checkpoint whose weights these were: the student's own, else the recipe's model."""
        named = [
            str(each.facts["checkpoint"]) for each in self.stages if "checkpoint" in each.facts
        ]
        return named[-1] if named else str(self.recipe.get("model", "encoder"))

    @property
    def teacher(self) -> str | None:
        """What taught: the model that the recipe names for it, else its model before any cut.

        None where no stage that went on learned from it.
        """
        known = [stage.facts["taught"] for stage in self.stages if "taught" in stage.facts]
        if known and not any(known):  # older reports do not say
            return None
        return str(self.recipe.get("teacher") or self.recipe.get("model", "a model"))

    @property
    def notes(self) -> tuple[str, ...]:
        """The remarks of all stages, each with the name of its stage."""
        return tuple(f"{stage.name}: {note}" for stage in self.stages for note in stage.notes)

    @property
    def compared(self) -> list[tuple[Stage, DeploymentRow]]:
        """Every deployment of the baseline and, where it is another stage, of the last one."""
        alone = self.last.name == self.verdict.baseline
        stages = [self.last] if alone else [self.reference, self.last]
        return [(stage, row) for stage in stages for row in stage.deployments]
