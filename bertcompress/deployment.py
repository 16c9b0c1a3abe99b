"""What a stage hands on, what of it runs somewhere, and where a run keeps all of it.

`Product` with its `Findings`, `Deployment`, `Measurement` and `Layout`. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "KNOWN_ANSWERS_FILE",
    "SERVE_FILE",
    "Answered",
    "Curve",
    "Deployment",
    "Findings",
    "Layout",
    "Measurement",
    "Product",
    "StageLayout",
    "Trained",
    "precision_name",
]

KNOWN_ANSWERS_FILE = "probe.npz"
"""Beside each shipped file: recorded answers, which `verify` replays."""
SERVE_FILE = "serve.py"
"""Beside an ONNX file: answers texts without this package."""


@dataclass(frozen=True)
class Layout:
    """Where everything is in the folder of a run. No other module spells these names.

    >>> Layout(Path("runs/x")).report.as_posix(), Layout().model.as_posix()
    ('runs/x/report.json', 'model')
    """

    folder: Path = Path()
    """The run's folder; without it the paths are relative to it."""

    @property
    def model(self) -> Path:
        """The compressed model with its tokenizer and card; on the Hub, the repository itself."""
        return self.folder / "model"

    @property
    def bf16(self) -> Path:
        """The same in 16 bits, where a recipe asks for it and it is faster."""
        return self.folder / "bf16"

    @property
    def onnx(self) -> Path:
        """ONNX files that any runtime reads: fp32, dynamic int8, packed weights."""
        return self.folder / "onnx"

    @property
    def openvino(self) -> Path:
        """The static int8 file of OpenVINO."""
        return self.folder / "openvino"

    @property
    def baseline(self) -> Path:
        """The files of the uncompressed model, which speed is compared with; never published."""
        return self.folder / "baseline"

    @property
    def static(self) -> Path:
        """Static word vectors beside an embedder, to compare with; never published."""
        return self.folder / "static"

    @property
    def figures(self) -> Path:
        """The figures of the report."""
        return self.folder / "figures"

    @property
    def stages(self) -> Path:
        """A folder for each stage; never published."""
        return self.folder / "stages"

    @property
    def work(self) -> Path:
        """What stages write while they are computed; gone when the run is finished."""
        return self.folder / "work"

    @property
    def logs(self) -> Path:
        """What the loggers of trainings write."""
        return self.folder / "logs"

    @property
    def report(self) -> Path:
        """The report, for programs. A folder that holds it is the folder of a finished run."""
        return self.folder / "report.json"

    @property
    def report_markdown(self) -> Path:
        """The report as text."""
        return self.folder / "report.md"

    @property
    def report_page(self) -> Path:
        """The report as a page for a browser."""
        return self.folder / "report.html"

    @property
    def recipe(self) -> Path:
        """The recipe that was run."""
        return self.folder / "recipe.yaml"

    @property
    def environment(self) -> Path:
        """The machine, the versions, and what the run spent its time on."""
        return self.folder / "environment.json"

    @property
    def manifest(self) -> Path:
        """The names of the run's own files."""
        return self.folder / "manifest.json"

    @property
    def documents(self) -> tuple[Path, ...]:
        """The files at the top that a run writes for its reader."""
        pages = (self.report_page, self.report, self.report_markdown)
        return (self.environment, self.recipe, *pages)

    @property
    def kept_here(self) -> tuple[Path, ...]:
        """The folders that are never published."""
        return (self.stages, self.baseline, self.static, self.work)

    def stage(self, name: str) -> StageLayout:
        """Return where everything of one stage is."""
        return StageLayout(self.stages / name)

    @property
    def is_run(self) -> bool:
        """Whether a finished run, or a copy of one from the Hub, is there."""
        return self.report.is_file()


@dataclass(frozen=True)
class StageLayout:
    """Where everything is in the folder of a stage; the files of a runtime lie as in a run."""

    folder: Path = Path()

    @property
    def model(self) -> Path:
        """The model in its working form; absent where a stage only made files."""
        return self.folder / "model"

    @property
    def record(self) -> Path:
        """What the stage found, cost and made."""
        return self.folder / "stage.json"

    @property
    def answers(self) -> Path:
        """The answers of each deployment to the splits that are reported."""
        return self.folder / "logits.npz"


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
    head_rate: float | None = Field(
        None, description="Rate of pooler and head, as times that, as `auto` was resolved"
    )
    collapsed_at: tuple[float, ...] = Field(
        (), description="Peak rates at which every row was answered alike, before this one"
    )
    ended: dict[str, Any] | None = Field(
        None, description="reason, improving, setting, value, learned, compared"
    )
    ended_before: tuple[dict[str, Any], ...] = Field(
        (), description="As `ended`, of each training of the stage before this one, in order"
    )
    taught: bool = Field(False, description="Whether a teacher's answers were learned")
    evaluation_steps: int | None = Field(None, description="Steps between two evaluations")
    earlier_seconds: float = Field(0.0, description="Seconds of attempts that were interrupted")
    history: tuple[dict[str, Any], ...] = Field(
        (), description="One entry per evaluation: step, loss, eval_loss, eval_selection"
    )

    @property
    def auto(self) -> dict[str, Any]:
        """What `auto` settings came to, for a training that goes with this one.

        A rate by the model's size comes out the same again, and may still be halved; one that was
        halved here stays so.
        """
        rate = ("learning_rate",) if self.collapsed_at else ()
        return {name: getattr(self, name) for name in ("precision", "head_rate", *rate)}

    def after(self, earlier: Trained) -> Trained:
        """Return this training with what an earlier one cost that it went on from, or goes with."""
        total = {
            "steps": (earlier.steps or 0) + (self.steps or 0),
            "samples": (earlier.samples or 0) + (self.samples or 0),
            "earlier_seconds": earlier.earlier_seconds + self.earlier_seconds,
            "taught": self.taught or earlier.taught,
            "ended_before": (*earlier.ended_before, earlier.ended or {}, *self.ended_before),
        }
        return self.model_copy(update=total)


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
        scored = None if self.training else self.samples
        return Findings(training=self.training, samples=scored, free=dict(self.figures))


@dataclass(frozen=True)
class Deployment:
    """One file or folder that runs somewhere."""

    runtime: str
    """A key of `bertcompress.runtimes.RUNTIMES`."""
    precision: str
    """`fp32`, `bf16`, `int8`, or as `precision_of` says."""
    path: Path
    """The folder of a runtime that opens model folders, the file otherwise."""
    simulated: bool = False
    """True where the stated precision is only imitated in fp32 (fake quantisation, masks)."""
    device: str = "cpu"
    """Where it is served and timed; one of the runtime's devices."""
    built_for: str | None = None
    """The machine that an engine was built for, and runs on alone; None: it runs on others too."""


@dataclass(frozen=True)
class Product:
    """What a stage hands on."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    deployments: tuple[Deployment, ...] = ()
    findings: Findings = field(default_factory=Findings)
    """What the step found and decided; the stage's record and the report keep it."""
    answered: tuple[Answered, ...] = ()
    """What its deployments answered already, so that they are not asked again."""


@dataclass(frozen=True)
class Answered:
    """What a deployment answered to a split when a step judged it."""

    deployment: Deployment
    digest: str
    """Of its files then: others may lie there by now."""
    split: str
    logits: NDArray[np.float32]
    """Shape: (N, K)."""

    def is_of(self, deployment: Deployment, digest: str) -> bool:
        """Return whether these are the answers of a deployment, wherever it lies now."""
        now, then = (
            (each.runtime, each.precision, each.device) for each in (deployment, self.deployment)
        )
        return (now, digest) == (then, self.digest)


def precision_name(bits: Iterable[int]) -> str:
    """Return `int8`, `int4-8` where weights differ, or `fp32` for a model that stores none so.

    >>> precision_name([8, 4, 8]), precision_name([8]), precision_name([])
    ('int4-8', 'int8', 'fp32')
    """
    found = sorted(set(bits))
    if not found:
        return "fp32"
    return f"int{found[0]}" if len(found) == 1 else f"int{found[0]}-{found[-1]}"
