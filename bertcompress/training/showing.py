"""What a training shows while it runs: a progress bar, or a line on the display of the run."""

from __future__ import annotations

import time
from typing import Any, Protocol

from transformers import (
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from bertcompress.support.display import Display, words_of

__all__ = ["Bar", "DisplayLine", "Standing"]

_SHOWN_S = 0.3


class Standing(Protocol):
    """Where a training stands."""

    @property
    def last_step(self) -> int:
        """The step at which the training ends, as far as that is known."""
        ...

    @property
    def loss_so_far(self) -> float | None:
        """The mean loss since the last evaluation; waits for the device."""
        ...

    @property
    def last_score(self) -> float | None:
        """The score of the last evaluation."""
        ...


class Bar(ProgressCallback):
    """The progress bar with the time left, without a dictionary printed at each log."""

    def __init__(self, training: Standing) -> None:
        super().__init__()
        self.training = training
        self._next = 0.0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count the step, of as many as there will be now."""
        bar: Any = self.training_bar
        training = self.training
        if bar is not None and bar.total != training.last_step:
            bar.total = training.last_step
        if bar is not None and time.monotonic() >= self._next:
            self._next = time.monotonic() + _SHOWN_S
            bar.set_postfix_str(words_of(training.loss_so_far, training.last_score), False)
        super().on_step_end(args, state, control, **kwargs)  # type: ignore[no-untyped-call]

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Print nothing."""


class DisplayLine(TrainerCallback):
    """Tells the display of the run where the training stands."""

    def __init__(self, training: Standing, display: Display) -> None:
        self.training = training
        self.display = display
        self._next = 0.0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show step, loss and score, a few times a second at most."""
        if self.display.silent or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _SHOWN_S
        now, last = state.global_step, self.training.last_step
        self.display.step(now, last, self.training.loss_so_far, self.training.last_score)
