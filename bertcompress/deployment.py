"""What a stage hands on: `Product` with its `Findings`, `Deployment`, or a `Measurement`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "Curve",
    "Deployment",
    "Findings",
    "Measurement",
    "Product",
    "Trained",
    "precision_name",
]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Trained(_Frozen):
    """How a training went."""

    steps: int | None = Field(None, description="Optimizer steps")
    samples: int | None = Field(None, description="Rows trained on, repetitions counted")
    best_step: int | None = Field(None, description="Step whose weights were kept")
    selection_score: float | None = Field(
        None, description="Headline of the best step on the selection split; without labels a loss"
    )
    precision: str | None = Field(None, description="fp32 or bf16, as `auto` was resolved")
    learning_rate: float | None = Field(None, description="Peak rate, as `auto` was resolved")
    collapsed_at: tuple[float, ...] = Field(
        (), description="Peak rates at which every row was answered alike, before this one"
    )
    ended: dict[str, Any] | None = Field(
        None, description="reason, improving, setting, value, learned"
    )
    evaluation_steps: int | None = Field(None, description="Steps between two evaluations")
    earlier_seconds: float = Field(0.0, description="Seconds of attempts that were interrupted")
    history: tuple[dict[str, Any], ...] = Field(
        (), description="One entry per evaluation: step, loss, eval_loss, eval_selection"
    )


class Findings(_Frozen):
    """What a method found out and decided, for the report."""

    training: Trained | None = None
    samples: int | None = Field(None, description="Rows that were read, beside a training")
    notes: tuple[str, ...] = Field((), description="Remarks that the report prints")
    tried: dict[str, list[dict[str, Any]]] = Field(
        default_factory=dict, description="Ways that a gate tried, in order, for each runtime"
    )
    free: dict[str, Any] = Field(default_factory=dict, description="Anything else, JSON-plain")

    @property
    def steps(self) -> int | None:
        """Optimizer steps of the training, if any."""
        return self.training.steps if self.training else None

    @property
    def selection_score(self) -> float | None:
        """The score that a training chose its best step by."""
        return self.training.selection_score if self.training else None

    @property
    def ended(self) -> Mapping[str, Any] | None:
        """Why the training ended, if there was one."""
        return self.training.ended if self.training else None

    @property
    def history(self) -> tuple[dict[str, Any], ...]:
        """The evaluations of the training, if there was one."""
        return self.training.history if self.training else ()

    @property
    def chosen_on_selection(self) -> bool:
        """Whether something was chosen on the selection split, whose score is then no estimate."""
        return self.selection_score is not None or bool(self.tried)

    @property
    def facts(self) -> dict[str, Any]:
        """The flat, JSON-plain form that `report.json` keeps."""
        own = {name: getattr(self, name) for name in ("samples", "tried", "notes")}
        filled = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in own.items()
            if value or (name == "samples" and value is not None)
        }
        trained = self.training.model_dump(mode="json") if self.training else {}
        return {**trained, **filled, **self.free}

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> Findings:
        """Return findings from their flat form; a form that nobody knows is free of format."""
        trained = {name: facts[name] for name in Trained.model_fields if name in facts}
        own = {name: facts[name] for name in ("notes", "tried") if name in facts}
        if "ended" not in trained and "history" not in trained:
            own |= {name: trained.pop(name) for name in ("samples",) if name in trained}
        free = {n: v for n, v in facts.items() if n not in (*Trained.model_fields, *own)}
        try:
            return cls(training=Trained(**trained) if trained else None, free=free, **own)
        except ValidationError:
            return cls(free=dict(facts))


class Curve(_Frozen):
    """One line of a probe's picture."""

    name: str = Field(description="What the legend says")
    x: tuple[float, ...] = Field(description="Places along `x_label`")
    y: tuple[float, ...] = Field(description="A value for each of them")


class Measurement(_Frozen):
    """What a probe found out: figures, words, a picture's data. The model stays as it is."""

    title: str = Field(description="What was measured")
    words: tuple[str, ...] = Field(description="Sentences for the report, the most important first")
    figures: dict[str, float] = Field(description="Name, with its unit, to value")
    curves: tuple[Curve, ...] = Field((), description="Lines of its picture")
    x_label: str = Field("", description="Of the picture")
    y_label: str = Field("", description="Of the picture")
    samples: int | None = Field(None, description="Rows that were answered")
    training: Trained | None = Field(None, description="What was trained for it")

    @property
    def findings(self) -> Findings:
        """The findings of a stage that measured."""
        return Findings(training=self.training, samples=self.samples, free=dict(self.figures))


@dataclass(frozen=True)
class Deployment:
    """One file or folder that runs somewhere."""

    runtime: Literal["torch", "onnxruntime", "openvino"]
    precision: str
    """`fp32`, `bf16`, `int8`, or as `precision_of` says."""
    path: Path
    """A folder for torch, the `.onnx` file otherwise."""
    simulated: bool = False
    """True where the stated precision is only imitated in fp32 (fake quantisation, masks)."""


@dataclass(frozen=True)
class Product:
    """What a stage hands on."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    deployments: tuple[Deployment, ...] = ()
    findings: Findings = field(default_factory=Findings)
    """What the step found and decided; the stage's record and the report keep it."""


def precision_name(bits: Iterable[int]) -> str:
    """Return `int8`, `int4-8` where weights differ, or `fp32` for a model that stores none so.

    >>> precision_name([8, 4, 8]), precision_name([8]), precision_name([])
    ('int4-8', 'int8', 'fp32')
    """
    found = sorted(set(bits))
    if not found:
        return "fp32"
    return f"int{found[0]}" if len(found) == 1 else f"int{found[0]}-{found[-1]}"
