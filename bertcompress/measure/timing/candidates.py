"""What timing is about and what comes out of it: `Candidate`, `Latency`, `Timing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from bertcompress.measure.timing.claims import Claim, ratio_claim
from bertcompress.measure.timing.rounds import BUSY
from bertcompress.runtimes import Batch

if TYPE_CHECKING:  # reports are read without torch
    from transformers import PreTrainedTokenizerBase

    from bertcompress.deployment import Deployment, Product

__all__ = [
    "Baseline",
    "Candidate",
    "Latency",
    "Timing",
    "busy_words",
    "cut_words",
    "machine_load",
    "within",
]

Baseline = Literal["torch", "dense_int8"]


class Latency(BaseModel):
    """How long one batch takes, on this machine, beside the other candidates of the same run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch: int = Field(ge=1, description="Texts at a time")
    length: int | Literal["task"] = Field(
        description="Tokens per text; `task`: the task's texts, padded to the longest of a batch"
    )
    texts: str = Field(
        "texts",
        description="What the task's texts are: `texts`; of a search `queries`, one by one, and "
        "`passages`, in batches",
    )
    threads: int = Field(ge=1, description="Threads of the process")
    serving: str = Field(
        "dynamic",
        description="How it was opened: `dynamic` for any batch as it comes; `warmed`: one model, "
        "single texts padded to 16, 32, 64 ... tokens; `buckets`: a static model for each of these",
    )
    device: str = Field("cpu", description="Where it computed: `cpu`, or `cuda` for a GPU")
    p50_ms: float = Field(ge=0, description="Median time of a batch, over all rounds")
    p95_ms: float = Field(ge=0, description="95 % of the batches took at most this")
    throughput_per_s: float = Field(gt=0, description="Texts per second; ratios are of these")
    spread: float = Field(
        ge=0, description="Interquartile range of the rounds' medians divided by their median"
    )
    first_pass_ms: float | None = Field(
        None,
        ge=0,
        description="Milliseconds a text in the first pass over the task's texts after opening, "
        "nothing warmed up; null on fixed lengths",
    )
    disturbed: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of the rounds that count in which other processes used 0.3 cores or "
        "more, disturbed ones repeated; null: not watched",
    )
    speedup_vs_torch: float | None = Field(
        None, description="Times faster than the baseline in torch fp32, in the same run"
    )
    spread_vs_torch: float | None = Field(
        None, ge=0, description="Spread of that ratio, from the rounds of both sides"
    )
    speedup_vs_dense_int8: float | None = Field(
        None, description="Times faster than dense int8 of the same runtime, in the same run"
    )
    spread_vs_dense_int8: float | None = Field(
        None, ge=0, description="Spread of that ratio, from the rounds of both sides"
    )

    @property
    def batch_ms(self) -> float:
        """Milliseconds that the ratios are of: `p50_ms`, but on own lengths every batch counts.

        There it is the mean over the batches of each one's median: the median alone would leave
        out what long texts cost.
        """
        return self.batch / self.throughput_per_s * 1e3

    @property
    def text_ms(self) -> float:
        """Milliseconds a text, beside which `first_pass_ms` stands."""
        return 1e3 / self.throughput_per_s

    @property
    def first_batch_ms(self) -> float | None:
        """Milliseconds a batch in the first pass, beside which `batch_ms` stands."""
        return None if self.first_pass_ms is None else self.first_pass_ms * self.batch

    @property
    def over_torch(self) -> Claim | None:
        """The speed-up over the baseline in torch fp32."""
        return self._claim(self.speedup_vs_torch, self.spread_vs_torch)

    @property
    def over_dense_int8(self) -> Claim | None:
        """The speed-up over dense int8 of the same runtime."""
        return self._claim(self.speedup_vs_dense_int8, self.spread_vs_dense_int8)

    def _claim(self, ratio: float | None, spread: float | None) -> Claim | None:
        if ratio is None:
            return None
        # Reports of older releases hold the spread of the one side only.
        both = self.spread if spread is None else spread
        return ratio_claim(ratio, both, disturbed=self.disturbed)


@dataclass(frozen=True)
class Candidate:
    """One artefact to be timed."""

    path: str | Path
    runtime: str | None = None
    precision: str | None = None
    baseline: Baseline | None = None
    """What others are compared with: `torch` (one), `dense_int8` (one per runtime)."""
    vocab_size: int = 100
    """Random tokens are drawn below this number; the artefact must know them."""
    longest: int | None = None
    """Tokens of the longest text that it takes; None: any."""
    task_batches: Mapping[int, Sequence[Batch]] | None = None
    """The task's texts in this artefact's tokens, where its tokenizer differs from the others'."""
    texts: Mapping[int, str] = field(default_factory=dict)
    """What they are, for each batch size; left out: texts."""
    device: str = "cpu"
    """Where it computes; one of its runtime's devices."""
    tokenizer: PreTrainedTokenizerBase | None = None
    """Whose tokens `task_batches` are to be, until they are there."""

    @classmethod
    def of(
        cls, deployment: Deployment, product: Product, baseline: Baseline | None = None
    ) -> Candidate:
        """Return a deployment of a model, whose weights are not held."""
        from bertcompress.models.io import max_tokens

        return cls(
            path=deployment.path,
            runtime=deployment.runtime,
            precision=deployment.precision,
            baseline=baseline,
            vocab_size=int(product.model.config.vocab_size),
            longest=max_tokens(product.model, product.tokenizer),
            device=deployment.device,
            tokenizer=product.tokenizer,
        )


@dataclass(frozen=True)
class Timing:
    """What the worker processes found out about one candidate."""

    runtime: str
    precision: str
    load_s: float
    """Seconds from opening the artefact to its first answer, without importing the runtime."""
    memory_mb: float
    """Megabytes by which the process grew over the same."""
    peak_memory_mb: float
    """The most that the process ever held, runtime and Python included."""
    latency: list[Latency] = field(default_factory=list)
    busy_cores: float = 0.0
    """Cores that others used in the rounds that count, from the first to the last."""
    disturbed: float = 0.0
    """Share of these rounds in which that was `BUSY` or more."""


def within(
    shapes: Sequence[tuple[int, int]], candidates: Sequence[Candidate]
) -> list[tuple[int, int]]:
    """Return the shapes, each once, no longer than the shortest limit of the candidates."""
    limit = min((c.longest for c in candidates if c.longest), default=None)
    cut = ((batch, min(tokens, limit or tokens)) for batch, tokens in shapes)
    return list(dict.fromkeys(cut))


def cut_words(shapes: Sequence[tuple[int, int]], candidates: Sequence[Candidate]) -> list[str]:
    """Return a line where a shape is longer than a candidate takes, and so is timed shorter."""
    limited = [c for c in candidates if c.longest and any(t > c.longest for _, t in shapes)]
    if not limited:
        return []
    least = min(limited, key=lambda c: c.longest or 0)
    return [
        f"{least.path} takes texts of at most {least.longest} tokens: longer ones are timed at "
        "that length"
    ]


def machine_load(timings: Sequence[Timing]) -> dict[str, float]:
    """Return what others did while the candidates were timed, as `environment.json` tells it."""
    return {
        "busy_cores": round(max((t.busy_cores for t in timings), default=0.0), 2),
        "disturbed_rounds": round(max((t.disturbed for t in timings), default=0.0), 2),
    }


def busy_words(cores: float | None, disturbed: float | None = None) -> list[str]:
    """Return a warning where something else used the machine in the rounds that count.

    `cores`, `disturbed`: the two figures of `machine_load`.
    """
    if (cores is None or cores < BUSY) and not disturbed:
        return []
    share = ""
    if disturbed:
        share = f", and {100 * disturbed:.0f} % of the rounds stayed disturbed after repeating them"
    return [
        f"Something else kept {cores or 0.0:.1f} cores busy during the timing{share}: times and "
        "ratios may be far off. Time again on a quiet machine, with `bertcompress bench RUN`."
    ]
