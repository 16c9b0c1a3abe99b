"""The row of one file or folder that runs somewhere, and what was measured on it."""

from __future__ import annotations

from pydantic import Field

from bertcompress.measure.row import Row
from bertcompress.measure.scores import Score
from bertcompress.measure.timing.candidates import Latency
from bertcompress.runtimes.table import in_words

__all__ = ["DeploymentRow", "Part"]


class Part(Row):
    """The score of one part of the validation split, such as a type of entity."""

    name: str = Field(description="Of the part")
    value: float = Field(ge=0, le=1, description="Its score")
    n: int = Field(ge=0, description="How many of it the references have")


class DeploymentRow(Row):
    """One file or folder that runs somewhere, and what was measured on it."""

    runtime: str = Field(description=in_words())
    precision: str = Field(description="fp32, bf16 or int8")
    path: str = Field(description="File or folder, relative to the run folder")
    size_mb: float = Field(ge=0, description="Megabytes of what has to be shipped to run this")
    encoder_mb: float | None = Field(
        None, ge=0, description="Megabytes of all weights but the embedding tables"
    )
    loads_in: str = Field(description="What is needed to load it: the rung of the ladder")
    simulated: bool = Field(
        False,
        description="Precision or zeros are only imitated in fp32: their bytes are never counted",
    )
    allowed: bool | None = Field(
        None,
        description="Whether its loss on the selection split is within the `max_drop` of the "
        "method that made it; false: refused, and only recommended where nothing else is shipped; "
        "null: not judged there",
    )
    scores: tuple[Score, ...] = Field((), description="One per metric and validation split")
    parts: tuple[Part, ...] = Field(
        (), description="F1 of each type of entity on the validation split; of tags of words only"
    )
    retention: float | None = Field(None, description="Headline score divided by the baseline's")
    retention_low: float | None = Field(
        None, description="Lower end of its paired 95 % interval over examples"
    )
    retention_high: float | None = Field(
        None, description="Upper end of its paired 95 % interval over examples"
    )
    retention_chance_corrected: float | None = Field(
        None, description="(score - chance) / (baseline - chance); null without a chance level"
    )
    flipped: float | None = Field(
        None, ge=0, le=1, description="Share of predictions that differ from the baseline's"
    )
    batch_flips: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of predictions that change when texts of like length are answered in "
        "batches of 32, instead of one by one, as int8 is scored; null for numbers and elsewhere",
    )
    batch_score: float | None = Field(
        None, description="Headline score of those batches; null where they are not answered"
    )
    p_value: float | None = Field(
        None, ge=0, le=1, description="Paired test against the baseline (McNemar or bootstrap)"
    )
    difference: float | None = Field(None, description="Headline score minus the baseline's")
    difference_low: float | None = Field(
        None, description="Lower end of its paired 95 % interval over examples"
    )
    difference_high: float | None = Field(
        None, description="Upper end of its paired 95 % interval over examples"
    )
    memory_mb: float | None = Field(
        None,
        ge=0,
        description="Megabytes that a process serving it holds at most, runtime included",
    )
    load_s: float | None = Field(
        None, ge=0, description="Seconds from opening it to its first answer, runtime imported"
    )
    latency: tuple[Latency, ...] = Field((), description="One per batch size and length")

    @property
    def headline(self) -> Score | None:
        """The score that decides, or None where nothing was scored."""
        return next((score for score in self.scores if score.headline), None)

    @property
    def label(self) -> str:
        """Runtime and precision in words, and where it was timed if not on the processor."""
        devices = dict.fromkeys(time.device for time in self.latency if time.device != "cpu")
        where = f" on {', '.join(devices)}" if devices else ""
        return f"{self.runtime} {self.precision}{where}{' (simulated)' if self.simulated else ''}"
