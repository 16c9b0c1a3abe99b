"""Whether a cheaper version of a model is as good as the model, and what to do where it is not.

A difference on a thousand rows is noise and loss together. It is taken for a loss when it is
significant by itself (the paired interval excludes 0), or passes the limit and comes with answers
that moved far: a model whose probabilities hardly moved has not lost three points. A significant
loss within the limit is allowed where nothing that can be tried removes it.
Without labels the original is right by definition, so that any flip of a near tie is "significant":
there only answers that moved far count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bertcompress.data import TaskData, calibration_batches
from bertcompress.deployment import Answered, Deployment
from bertcompress.heads import Head
from bertcompress.measure.scores import compare, predict
from bertcompress.runtimes import Logits, Predictor

__all__ = ["LARGE_DIVERGENCE", "AccuracyGate", "Attempt", "search"]

SENSITIVITY_ROWS = 128

LARGE_DIVERGENCE = 0.05
"""Beyond this, by `Head.movement`, answers have moved far; int8 that loses nothing: 0.01."""


@dataclass(frozen=True)
class Attempt:
    """One version that was tried, and how it stands to the original on the selection split."""

    options: Mapping[str, Any]
    """Settings of the quantiser; empty: its defaults."""
    kept: tuple[str, ...]
    """Modules left in higher precision."""
    drop: float
    """Headline score of the original minus this one's."""
    drop_low: float
    """Lower end of its paired 95 % interval."""
    moved: float
    """See `Head.movement`."""
    passes: bool
    """Whether nothing is lost that could be told from noise."""
    allowed: bool = False
    """Whether what is lost is within the limit; true of all that pass."""
    significant: bool = False
    """Whether labels show a loss by themselves: `drop_low` is above 0."""
    told: str | None = None
    """What is lost, in words; None: points of the score."""
    error: str | None = None
    """Why there is nothing to judge; the figures are infinite then."""
    logits: Logits | None = field(default=None, repr=False, compare=False)
    """What it answered to the selection split, if that was asked. Shape: (N, K)."""
    digest: str = ""
    """Of the files that were judged, where there were any."""

    @classmethod
    def failed(cls, options: Mapping[str, Any], kept: Sequence[str], error: str) -> Attempt:
        """Return an attempt that made no file, or one that does not answer in numbers."""
        lost = math.inf
        return cls(dict(options), tuple(kept), lost, lost, lost, passes=False, error=error)

    @property
    def words(self) -> str:
        """Settings and figures in one line."""
        how = ", ".join(f"{name} {value}" for name, value in self.options.items()) or "defaults"
        left = f"; {len(self.kept)} modules in higher precision" if self.kept else ""
        if self.error is not None:
            return f"{how}{left}: {self.error}"
        sure = f" (significant: {100 * self.drop_low:.2f} at least)" if self.significant else ""
        lost = f"loses {100 * self.drop:.2f} points{sure}" if self.told is None else self.told
        return f"{how}{left}: {lost}, answers moved by {self.moved:.3f}"

    def answered_by(self, deployment: Deployment) -> tuple[Answered, ...]:
        """Return what a deployment answered to the selection split, if this was of it."""
        if self.logits is None:
            return ()
        return (Answered(deployment, self.digest, "selection", self.logits),)

    @property
    def facts(self) -> dict[str, Any]:
        """JSON-plain."""
        fields = {"drop": self.drop, "drop_low": self.drop_low, "moved": self.moved}
        return {
            "options": dict(self.options),
            "kept": list(self.kept),
            **{n: round(v, 5) if math.isfinite(v) else None for n, v in fields.items()},
            "passes": self.passes,
            "allowed": self.allowed,
            "error": self.error,
        }


@dataclass(frozen=True)
class AccuracyGate:
    """Compares versions with the original on the selection split; the validation split is not read.

    `max_drop`: loss of the headline score that is allowed, 0 to 1.
    """

    data: TaskData
    tokenizer: Any
    original: Logits
    max_drop: float
    config: Any = None
    """Of the original, as in `predict`."""

    def judge(
        self, predictor: Predictor, options: Mapping[str, Any], kept: Sequence[str] = ()
    ) -> Attempt:
        """Return how a version stands to the original, and what it answered."""
        logits = predict(predictor, self.data, "selection", self.tokenizer, config=self.config)
        return replace(self.judge_logits(logits, options, kept), logits=logits)

    @property
    def head(self) -> Head:
        """The task's, by which answers are compared."""
        return self.data.task.head

    def rows(self) -> list[dict[str, Any]]:
        """Return what modules can be rounded on one at a time."""
        return calibration_batches(self.data, self.tokenizer, SENSITIVITY_ROWS)

    def judge_logits(
        self, logits: Logits, options: Mapping[str, Any], kept: Sequence[str] = ()
    ) -> Attempt:
        """Return the same of answers that are there. Shape: (N, K)."""
        if not self.head.all_finite(logits):
            return Attempt.failed(options, kept, "it answers with infinities or NaN")
        task = self.data.task
        labelled = task.head.has_labels
        references = self.data.references("selection") if labelled else self.original
        against = compare(task, logits, self.original, references)
        far = task.head.movement(logits, self.original)
        drop, low = -against.difference, -against.difference_high
        significant = labelled and low > 0
        allowed = drop <= self.max_drop or not (significant or far > LARGE_DIVERGENCE)
        return Attempt(
            dict(options),
            tuple(kept),
            drop,
            low,
            far,
            passes=allowed and not significant,
            allowed=allowed,
            significant=significant,
        )


def search(
    attempt: Callable[[Mapping[str, Any], Sequence[str]], Attempt],
    switches: Sequence[Mapping[str, Any]],
    suspects: Callable[[], Sequence[str]],
) -> tuple[list[Attempt], Attempt]:
    """Return what was tried, in order, and the best: it passes, unless nothing does.

    The first switches are the defaults: if they pass, nothing else is tried. Else every switch is,
    and of those that pass the one whose answers moved least is best. If none does, modules are left
    in higher precision, 1, 2, 4 ... of the `suspects` (the worst first), up to half of them. Where
    nothing passes, the smallest loss is best, within the limit if anything is.
    """
    tried: list[Attempt] = []
    for options in switches:
        tried.append(attempt(options, ()))
        if tried[0].passes:
            return tried, tried[0]
    passing = [each for each in tried if each.passes]
    if passing:
        return tried, min(passing, key=lambda each: each.moved)
    nearest = min(tried, key=lambda each: each.moved)
    for kept in _doubling(suspects()):
        tried.append(attempt(nearest.options, kept))
        if tried[-1].passes:
            return tried, tried[-1]
    return tried, min(tried, key=lambda each: (not each.allowed, each.drop, each.moved))


def _doubling(names: Sequence[str]) -> Iterator[Sequence[str]]:
    count = 1
    while count <= max(len(names) // 2, 1) and names:
        yield names[:count]
        count *= 2
