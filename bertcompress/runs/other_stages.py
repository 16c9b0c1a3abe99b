"""Stages of the models beside a result: trained where they need it, and the files of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bertcompress.deployment import Deployment, Product
from bertcompress.errors import MissingExtra, ModelError
from bertcompress.method import Context, Method, Models
from bertcompress.runs.other_models import OtherModel
from bertcompress.runs.results import StageResult
from bertcompress.runs.stage import Stages
from bertcompress.support.display import Display

if TYPE_CHECKING:
    import torch

__all__ = ["OtherResult", "OtherStages", "files_step", "stage_name"]


def files_step(methods: Sequence[Method]) -> Method | None:
    """Return the step that makes the same files of another model as a recipe ships; None: none.

    As of the uncompressed model: without a gate that would tell what it may lose.
    """
    made = [plain for each in methods if (plain := each.dense_opponent()) is not None]
    return made[-1] if made else None


def stage_name(number: int, what: str) -> str:
    """Return the folder of a stage of a model beside the result, counted from 1."""
    return f"against-{number}-{what}"


@dataclass(frozen=True)
class OtherResult:
    """A model beside the result, with its answers."""

    model: OtherModel
    made: StageResult
    """The model as it came, or fine-tuned."""
    files: StageResult | None
    """The files of runtimes; None where the recipe ships none, or none could be made."""
    notes: tuple[str, ...] = ()

    @property
    def stages(self) -> list[StageResult]:
        """Its stages in order."""
        return [self.made, *([self.files] if self.files else [])]

    @property
    def product(self) -> Product:
        """Model and tokenizer."""
        return self.made.product

    @property
    def deployments(self) -> list[tuple[Deployment, StageResult]]:
        """What can be run, each with the stage that holds its answers."""
        return [(each, stage) for stage in self.stages for each in stage.deployments]

    @property
    def timed(self) -> list[Deployment]:
        """What is worth timing: the files in few bits, else all."""
        every = [each for each, _ in self.deployments]
        return [each for each in every if each.precision != "fp32"] or every


@dataclass(frozen=True)
class OtherStages:
    """Makes the stages of models beside the result, in the folder of the run."""

    stages: Stages
    """Of the run; rows are read as each model does."""
    device: torch.device
    seed: int
    settled: Callable[[Method], Method]
    """Gives a training the precision of the run's other trainings."""
    display: Display

    def result(self, number: int, other: OtherModel, files: Method | None) -> OtherResult:
        """Return the stages of one model. Raises ModelError and MissingExtra."""
        stages, notes = self.stages.reading(other.data), list(other.notes)
        if other.finetune is None:
            name = stage_name(number, "original")
            with self.display.working(name):
                made = stages.original(other.open(), other.source, name)
        else:
            made = self._apply(stages, number, self.settled(other.finetune), other.open(),
                               other.source)  # fmt: skip
        if files is None:
            return OtherResult(other, made, None, tuple(notes))
        try:
            quantized = self._apply(stages, number, files, made, stages.digest(made))
        except (MissingExtra, ModelError) as error:
            notes.append(f"compared in torch alone: {error}")
            return OtherResult(other, made, None, tuple(notes))
        notes += quantized.record.findings.notes
        return OtherResult(other, made, quantized, tuple(notes))

    def _apply(
        self,
        stages: Stages,
        number: int,
        method: Method,
        before: StageResult | Product,
        source: str,
    ) -> StageResult:
        data, name = stages.data.without_validation(), stage_name(number, method.key)
        context = Context(data.task, data, Models(), self.device, self.seed, stages.folder)
        with self.display.working(name):
            return stages.apply(name, method, before, context, {"before": source})
