"""The rows of a verdict: what `report.json` says came out, computed from the stages."""

from __future__ import annotations

from pydantic import Field

from bertcompress.measure.row import Row

__all__ = ["SpeedUp", "Use", "Verdict"]


class SpeedUp(Row):
    """How much faster one deployment is, at one batch size and length; below 1 it is slower."""

    batch: int = Field(description="Texts at a time")
    length: int | str = Field(description="Tokens per text, or `task` for its own lengths")
    threads: int = Field(description="Threads of the process")
    over_dense_int8: float | None = Field(
        None, description="Times faster than dense int8 of the same runtime, in the same run"
    )
    over_best_dense: float | None = Field(
        None,
        description="Times faster than the fastest dense deployment of any runtime at this batch "
        "and length, in the same run",
    )
    best_dense: str | None = Field(None, description="Runtime and precision of that one")
    stands: bool | None = Field(
        None, description="Whether that ratio exceeds the spread of both sides; if not, it is none"
    )
    over_torch: float | None = Field(
        None, description="Times faster than the baseline in torch fp32, in the same run"
    )
    spread: float = Field(
        ge=0, description="Interquartile range of its own rounds' medians over their median"
    )


class Use(Row):
    """Which file to deploy for one way of serving."""

    batch: int = Field(description="Texts at a time")
    length: int | str = Field(description="Tokens per text, or `task` for its own lengths")
    texts: str = Field("texts", description="What the texts are, as in `latency[]`")
    runtime: str = Field(description="Runtime of the fastest shipped deployment there")
    precision: str = Field(description="Its precision")
    path: str = Field(description="Its file or folder, relative to the run folder")
    serving: str = Field("dynamic", description="How it is opened, as in `latency[]`")
    metric: str | None = Field(None, description="Metric of its headline score")
    score: float | None = Field(None, description="Its headline score on the validation split")
    batch_ms: float = Field(ge=0, description="Milliseconds that a batch takes it")
    first_batch_ms: float | None = Field(
        None, ge=0, description="The same in the first pass after opening, nothing warmed up"
    )
    as_fast: tuple[str, ...] = Field(
        (), description="Other shipped deployments that are not measurably slower there"
    )
    best_dense: str | None = Field(
        None, description="Runtime and precision of the fastest dense deployment there"
    )
    best_dense_ms: float | None = Field(None, ge=0, description="What a batch takes that one")
    over_best_dense: float | None = Field(None, description="Times faster than that one")
    stands: bool | None = Field(
        None, description="Whether that ratio exceeds the spread of both sides; if not, it is none"
    )


class Verdict(Row):
    """What came out, computed from the rows. All figures are of one deployment, never a mixture."""

    stage: str = Field(description="Name of the stage that is judged: the last one")
    baseline: str = Field(description="Name of the stage it is compared with")
    runtime: str | None = Field(None, description="Runtime of the deployment that is judged")
    precision: str | None = Field(None, description="Its precision")
    retention: float | None = Field(None, description="Headline score divided by the baseline's")
    retention_low: float | None = Field(None, description="Lower end of its 95 % interval")
    retention_high: float | None = Field(None, description="Upper end of its 95 % interval")
    significant: bool | None = Field(
        None, description="Whether the score differs from the baseline's (p < 0.05)"
    )
    smaller_by: float | None = Field(
        None, description="Bytes of the baseline in torch fp32, divided by bytes shipped"
    )
    encoder_smaller_by: float | None = Field(
        None, description="The same without the embedding tables"
    )
    smallest_dense: str | None = Field(
        None, description="Runtime and precision of the smallest dense deployment"
    )
    smaller_than_dense: float | None = Field(
        None, description="Bytes of the smallest dense deployment, divided by bytes shipped"
    )
    encoder_smaller_than_dense: float | None = Field(
        None, description="The same without the embedding tables"
    )
    speed: tuple[SpeedUp, ...] = Field((), description="One per batch size and length")
    uses: tuple[Use, ...] = Field(
        (), description="One per batch size, on the task's own lengths where those were timed"
    )
    red: tuple[str, ...] = Field(
        (), description="What is wrong with the result, before anything else is read"
    )
    deploy: tuple[str, ...] = Field(
        (), description="Which file to deploy for which way of serving, in words"
    )
    sentences: tuple[str, ...] = Field((), description="Score and size in plain words")
    warnings: tuple[str, ...] = Field(
        (), description="What a reader must know beside it, one line a kind"
    )
