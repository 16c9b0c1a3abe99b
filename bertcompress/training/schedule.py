"""When the learning rate rises, holds and falls, and when a training is over.

With a fixed number of steps the rate rises over the warm-up and falls linearly to zero (Devlin et
al. 2018, 1810.04805), unless `schedule` names another curve. Without one it is held until the
selection split says that holding it brings no more, then falls to zero over a share of the steps
taken so far: warm-up, stable, decay (Hu et al. 2024, "MiniCPM", 2404.06395; Hagele et al. 2024,
2405.18392: as good as a cosine whose length was known beforehand).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bertcompress.errors import InputError
from bertcompress.training.settings import ScheduleName, TrainSettings

__all__ = ["Ended", "Horizon", "rate_factor", "stalled"]

_APART = 250
"""Steps from one evaluation to the next at most, where the number of steps is not fixed: a rate
that is held for too long does its harm before it is seen..."""
_PER_EPOCH = 4
"""...with so many evaluations in an epoch at most, for what they cost..."""
_FAR_APART = 1_000
"""...unless even then more steps would lie between two."""
_SHORT_EPOCH = 50
"""Steps below which several epochs share an evaluation, where nothing fixes their number."""
_EVALUATIONS = 4
"""Evaluations of any training, so that what it still gained at its end can be seen."""
_BEGUN = 1_000
"""Steps that are no beginning any more, however long two epochs are."""
_STALE_SHARE = 0.25
"""Of the steps up to the last gain: a long training has long pauses between gains."""


@dataclass(frozen=True)
class Horizon:
    """How far a training may go, in optimizer steps."""

    epoch: int
    """Steps of one pass over the rows."""
    most: int
    """Steps that are not exceeded; the number of steps where that is fixed."""
    warmup: int
    times: int
    """Evaluations of the selection split in an epoch."""
    apart: int
    """Epochs from one evaluation to the next; above 1 only where `times` is 1."""
    fixed: bool
    steps: int | None = None
    """Steps between two evaluations where those are given."""
    schedule: ScheduleName = "auto"
    cycles: int = 1

    @classmethod
    def of(cls, settings: TrainSettings, epoch: int, most: int) -> Horizon:
        """Return the horizon of a training of at most so many steps."""
        times, apart = settings.evaluations_per_epoch, 1
        if times is None:
            often = 1 if settings.is_fixed else min(_PER_EPOCH, math.ceil(epoch / _APART))
            times = max(often, math.ceil(epoch / _FAR_APART))
            if most >= 2 * _EVALUATIONS:  # the first step of a warm-up changes nothing
                times = max(times, math.ceil(_EVALUATIONS * epoch / most))
            apart = 1 if settings.is_fixed else math.ceil(_SHORT_EPOCH / epoch)
            apart = max(1, min(apart, most // (_EVALUATIONS * epoch)))
        # The end is not known: a warm-up as long as that of three epochs.
        whole = most if settings.is_fixed else min(3 * epoch, most)
        warmup = min(math.ceil(settings.warmup * whole), most - 1)  # the first step is at rate 0
        given = settings.evaluation_steps
        fixed, cycles = settings.is_fixed, settings.cycles or 1
        times = min(times, epoch)
        if cycles > max(most - warmup, 1):
            raise InputError(
                f"cycles: {cycles} in {most - warmup} steps after the warm-up; a cycle has a step "
                "at least"
            )
        return cls(epoch, most, warmup, times, apart, fixed, given, settings.schedule, cycles)

    @property
    def restarts(self) -> tuple[int, ...]:
        """Steps after which a new cycle begins; empty where there is one."""
        whole = max(self.most - self.warmup, 1)
        inner = range(1, self.cycles if self.schedule == "cyclic" else 1)
        return tuple(self.warmup + math.ceil(i * whole / self.cycles) for i in inner)

    @property
    def interval(self) -> int:
        """Steps between two evaluations, rounded up."""
        return self.steps or math.ceil(self.epoch * self.apart / self.times)

    def evaluates_at(self, step: int, last: int) -> bool:
        """Return whether an evaluation is due after this step: evenly in each epoch, and last."""
        if self.steps:
            return step % self.steps == 0 or step >= last
        number, within = divmod(step - 1, self.epoch)
        planned = {math.ceil(self.epoch * k / self.times) for k in range(1, self.times + 1)}
        return (within + 1 in planned and (number + 1) % self.apart == 0) or step >= last

    def begins_at(self, step: int) -> bool:
        """Return whether a step is of the first two epochs, which are never taken back."""
        return step <= min(2 * self.epoch, _BEGUN)

    def falls_at(self, step: int) -> bool:
        """Return whether the rate falls after a step because the end was known from the start."""
        falling = self.schedule in ("auto", "linear", "cosine")
        return self.fixed and falling and step > self.warmup

    def decay_steps(self, step: int, cooldown: float, trained: int | None = None) -> int:
        """Return the steps over which the rate falls, where it begins to fall after `step`.

        `cooldown` is their share of the steps that make the model: these and the `trained` ones,
        which are fewer than `step` where some were taken back. At least one evaluation apart from
        the end, unless the training may not last so long.
        """
        share = math.ceil((step if trained is None else trained) * cooldown / (1 - cooldown))
        return max(1, min(max(share, min(self.interval, step)), self.most - step))

    def last_start(self, cooldown: float) -> int:
        """Return the step at which the rate has to begin to fall to be zero at `most`."""
        return max(1, math.floor(self.most * (1 - cooldown)))


def rate_factor(horizon: Horizon, step: int, decay_from: int, decay_steps: int) -> float:
    """Return the learning rate of the step after `step` as a share of its peak, 0 to 1.

    `decay_from`: the step after which the rate falls, 0 while it is held.
    """
    factor = 1.0
    if step < horizon.warmup:
        factor = step / max(horizon.warmup, 1)
    elif horizon.fixed:
        factor = _after_warmup(horizon, step)
    if decay_from:
        factor *= max(0.0, 1 - max(0, step - decay_from) / decay_steps)
    return factor


def _after_warmup(horizon: Horizon, step: int) -> float:
    """Return the rate of the step after `step` as a share of its peak, where the end is known.

    `cyclic` is equation 2 of Huang et al. 2017, "Snapshot Ensembles" (1704.00109): a cosine in each
    cycle. `cosine` is one cycle (Loshchilov & Hutter 2017, 1608.03983,
    equation 5, without restarts).
    """
    whole, done = max(horizon.most - horizon.warmup, 1), step - horizon.warmup
    if horizon.schedule == "constant":
        return 1.0
    if horizon.schedule in ("cosine", "cyclic"):
        return 0.5 * (1 + math.cos(math.pi * _share_of_cycle(done, whole, horizon.cycles)))
    return max(0.0, (horizon.most - step) / whole)


def _share_of_cycle(done: int, whole: int, cycles: int) -> float:
    """Return how much of its cycle is behind a step, 0 to 1; lengths differ by a step at most."""
    if done >= whole:
        return 1.0
    cycle = done * cycles // whole
    start, end = (math.ceil(number * whole / cycles) for number in (cycle, cycle + 1))
    return (done - start) / (end - start)


def stalled(horizon: Horizon, step: int, gain_step: int, patience: int) -> bool:
    """Return whether the last gain is so long ago that holding the rate brings no more.

    `gain_step` is the last evaluation at which the score was better than ever, or the loss on the
    same rows while the score has not moved yet: of many classes it starts late. Waiting begins
    with the second evaluation at the earliest: a lucky first one would end what has just begun.
    """
    pause = max(patience * horizon.interval, math.ceil(_STALE_SHARE * gain_step))
    waited = step - max(gain_step, 2 * horizon.interval)
    return step > horizon.warmup and waited >= pause


@dataclass(frozen=True)
class Ended:
    """Why a training ended, and whether more of it would probably have been better."""

    reason: str
    """`stalled`, `fixed`, `max_epochs` or `max_minutes`."""
    improving: bool
    setting: str
    """The setting to raise where it was improving; empty where there is none."""
    value: float | None
    learned: bool = True
    """False where every evaluation found all rows answered alike."""
    compared: bool = True
    """False where a limit ended it before there were two evaluations to compare."""

    @classmethod
    def of(
        cls,
        settings: TrainSettings,
        reason: str,
        history: list[dict[str, Any]],
        rows: int,
        learned: bool = True,
    ) -> Ended:
        """Return how a training ended. `history`: its evaluations, on so many rows each."""
        if reason == "stalled":
            return cls(reason, False, "", None, learned)
        setting = ("max_steps" if settings.max_steps else "epochs") if reason == "fixed" else reason
        rising = _still_rising(history, rows)
        compared = reason == "fixed" or not rows or len(history) > 1
        return cls(reason, rising, setting, getattr(settings, setting), learned, compared)

    @property
    def facts(self) -> Mapping[str, Any]:
        """JSON-plain."""
        return {
            "reason": self.reason,
            "improving": self.improving,
            "setting": self.setting,
            "value": self.value,
            "learned": self.learned,
            **({} if self.compared else {"compared": False}),
        }


def _still_rising(history: list[dict[str, Any]], rows: int) -> bool:
    """Return whether the last quarter of the steps brought more than the score's own error.

    That is taken to be half of one over the root of the rows: the standard error of an accuracy of
    one half. Of a loss, which has no such scale, a twentieth of all that was gained.
    """
    if len(history) < 2 or not rows:
        return False
    end, scores = history[-1]["step"], [row["score"] for row in history]
    early = [row["score"] for row in history if row["step"] <= 0.75 * end]
    late = [row["score"] for row in history if row["step"] > 0.75 * end]
    is_loss = all(row["score"] == -row.get("selection_loss", math.nan) for row in history)
    error = 0.05 * (max(scores) - min(scores)) if is_loss else 0.5 / math.sqrt(rows)
    return bool(early) and max(late) - max(early) > error
