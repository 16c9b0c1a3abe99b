"""`Plan`: what a training is given besides its model; `Progress`: where it stands."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from bertcompress.training.selection import Judged

__all__ = ["Plan", "Progress"]

_ALIKE = 0.1
"""Standard deviation of the answers over the rows, of logits or of standardised targets: below it
a model answers every row alike. One that has begun to learn is far above."""
_FALLS = 0.98
"""Share of the loss before, below which a model learns, even if what it learns yet is how rare the
classes are: of many labels that is the first thing."""
_LUCK = 0.5
"""Standard errors that a score must rise by to be a gain: of many evaluations some are lucky."""


@dataclass(frozen=True)
class Plan:
    """What is trained on and judged by, and where checkpoints go."""

    loader: Callable[[TrainingArguments], DataLoader[Any]]
    workdir: Path
    judge: Callable[[nn.Module], Judged] | None = None
    """Score and loss on the selection split; None: nothing is judged, no checkpoint written."""
    judged_rows: int = 0
    """Rows that `judge` looks at."""
    fingerprint: str = ""
    """Of everything that a resumed training must have in common with the killed one."""
    keep_last: bool = False
    """Whether the last step is what is wanted, whatever the scores."""
    restarts: int = 0
    """How often a training that learns nothing may begin again at half the rate."""


@dataclass
class Progress:
    """Where a training stands; JSON-plain, part of each checkpoint."""

    best_score: float | None = None
    """Of the step that is kept so far."""
    best_step: int = 0
    top_score: float | None = None
    """The highest so far."""
    stale: int = 0
    """Evaluations since the best one."""
    best_loss: float | None = None
    gain_step: int = 0
    """Of the last gain: a score above the last gain's by more than chance now and then brings, or
    a loss while the score cannot move yet."""
    gain_score: float | None = None
    return_step: int = 0
    """Of the last gain, or of the last evaluation of the beginning: what came later is taken back
    where the score has stalled."""
    decay_from: int = 0
    """Step after which the rate falls because the score stalled or a cap is near; 0: not yet."""
    decay_steps: int = 0
    interval: int = 0
    """Steps from one evaluation to the next."""
    alike: int = 0
    """Evaluations in a row, up to the last one, at which all rows were answered alike and the loss
    did not fall."""
    collapsed_at: list[float] = field(default_factory=list)
    """Higher peak rates at which this training learned nothing before it began again."""
    reason: str = "fixed"
    """Why the training ends: `stalled`, `fixed`, `max_epochs` or `max_minutes`; `collapsed`, where
    it learned nothing and begins again."""
    finished: bool = False
    rows: int = 0
    """Rows trained on, over all processes."""
    seconds: float = 0.0
    collapsed_seconds: float = 0.0
    """Of `seconds`, those before it began again."""
    loss_sum: float = 0.0
    loss_count: int = 0
    """Batches in `loss_sum`: those since the last evaluation."""
    history: list[dict[str, Any]] = field(default_factory=list)

    def judge(
        self, judged: Judged, step: int, *, falls: bool = False, begins: bool = False
    ) -> None:
        """Take in score and loss of the selection split.

        `falls`: whether the rate does by now; `begins`: whether the training has only begun.
        """
        before = self.history[-1].get("selection_loss", math.nan) if self.history else math.nan
        learns = judged.spread >= _ALIKE or judged.loss < _FALLS * before
        self.alike = 0 if learns else self.alike + 1
        score, loss, best = judged.score, judged.loss, self.top_score
        better = not math.isnan(score) and (best is None or score > best)
        if not math.isnan(loss) and (self.best_loss is None or loss < self.best_loss):
            self.best_loss = loss
            if self._stands_still:
                self.gain_step = step
        if better and (self.gain_score is None or score > self.gain_score + _LUCK * judged.error):
            self.gain_step, self.gain_score = step, score
        if self.gain_step == step or (begins and not math.isnan(score)):
            self.return_step = step
        if better:
            self.top_score = score
        self.stale = 0 if better else self.stale + 1
        # With a falling rate a later step about as good as the best is the better one: of many
        # evaluations at a held rate the best one was lucky.
        top = self.top_score
        as_good = falls and top is not None and score >= top - _LUCK * judged.error
        if better or as_good:
            self.best_score, self.best_step = score, step

    def again(self, rate: float) -> Progress:
        """Return where the training stands that begins again: what was spent remains spent."""
        tried = [*self.collapsed_at, rate]
        return Progress(
            rows=self.rows,
            seconds=self.seconds,
            collapsed_seconds=self.seconds,
            collapsed_at=tried,
        )

    @property
    def learned(self) -> bool:
        """Whether some evaluation found that not all rows are answered alike, or there was none."""
        return self.alike < len(self.history) or not self.history

    @property
    def _stands_still(self) -> bool:
        """Whether the score has not risen since it was first taken, and could."""
        first = self.history[0]["score"] if self.history else None
        return self.top_score is None or (self.top_score == first and self.top_score < 1)
