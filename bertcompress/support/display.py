"""What a run shows while it works: lines, the stage it is at, and the time that the whole takes.

On a terminal that is a bar with loss and score; into a pipe or a log plain lines, of a training at
most one a minute. Every line is also a record of the logger `bertcompress`.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from tqdm import tqdm

from bertcompress.wording import plain

__all__ = [
    "Display",
    "Work",
    "above_the_bar",
    "duration",
    "logged",
    "showing",
    "shown",
    "span",
    "words_of",
]

EVERY_S = 60.0
"""Seconds from one plain line of a training to the next."""

_ABOUT = 1.2
"""What is at most so many times its least is told as one time, not as a span."""

logger = logging.getLogger("bertcompress")


@dataclass(frozen=True)
class Work:
    """One piece of a run: a stage, a control, the baseline's int8, or the timing."""

    name: str
    """The folder of its stage, or `timing`."""
    title: str
    """Number and method, in words."""
    low_s: float = 0.0
    """Seconds at least."""
    high_s: float = 0.0
    """Seconds at most."""
    steps: int = 0
    """Steps of a training at most; 0: none."""
    open_ended: bool = False
    """Whether it may end long before: once its score stalls."""
    follows: str = ""
    """The work whose steps it repeats."""


class Display:
    """Says what a run does, to a function or on standard error."""

    def __init__(
        self, say: Callable[[str], None] | None = None, progress: bool | None = None
    ) -> None:
        """Make a display that is silent where `progress` is false.

        `say` takes each line; None: standard error, unless the caller's own logging shows them.
        """
        self.silent = progress is False
        own = logger.isEnabledFor(logging.INFO) and logger.hasHandlers()
        self._say = say or (_nothing if self.silent or own else _to_stderr)
        self._bars = not self.silent and _can_draw()
        self._works: list[Work] = []
        self._at: Work | None = None
        self._begun = self._told = 0.0
        self._first: tuple[int, float] | None = None
        self._last: tuple[int, int] = (0, 0)
        self._pace = 1.0
        self._bar: Any = None

    def line(self, text: str) -> None:
        """Say one line."""
        logger.info(text)
        self._say(text)

    def plan(self, works: Sequence[Work]) -> None:
        """Take what is to be done, in order."""
        self._works = list(works)

    @contextmanager
    def working(self, name: str) -> Iterator[None]:
        """Show a piece of work that was planned, while it is done."""
        found = next((work for work in self._works if work.name == name), None)
        if found is None:
            yield
            return
        self._at, self._first, self._begun = found, None, time.monotonic()
        self._told = self._begun
        self.line(f"{found.title} ...")
        try:
            yield
            self._ended(found)
        finally:
            self._at = None
            self._close()

    def _ended(self, work: Work) -> None:
        took = time.monotonic() - self._begun
        trained = self._first is not None  # else its stage was there already
        self._works = [
            replace(each, low_s=took, high_s=took, open_ended=False)
            if trained and each.follows == work.name
            else each
            for each in self._works
            if each.name != work.name
        ]
        self._at = None
        rest = f"; {self.left}" if self._works else ""
        self.line(f"{work.title}: done in {duration(took)}{rest}")

    def step(self, step: int, last: int, loss: float | None, score: float | None) -> None:
        """Show where a training stands, of as many steps as it will have at most."""
        now = time.monotonic()
        if self._at is None or self.silent:
            return
        self._first = self._first or (step, now)
        self._last = (step, last)
        if self._bars:
            self._move(step, last, words_of(loss, score))
            return
        self.meanwhile(
            ", ".join(filter(None, (f"step {step:,} of {last:,}", words_of(loss, score))))
        )

    def meanwhile(self, words: str) -> None:
        """Say where the work at hand stands, now and then and where no bar shows it."""
        now = time.monotonic()
        if self._at is None or self.silent or self._bars or now - self._told < EVERY_S:
            return
        self._told = now
        self.line(f"{self._at.title}: {words}, {self.left}")

    @property
    def left(self) -> str:
        """The time that the whole still takes, in words."""
        here = self._left_here()
        later = [work for work in self._works if work is not self._at]
        seconds = here + sum(w.high_s * (self._pace if w.steps else 1.0) for w in later)
        bounds = any(w.open_ended or w.high_s > _ABOUT * w.low_s for w in later)
        bounds |= self._at is not None and self._at.open_ended
        return f"{'at most' if bounds else 'about'} {duration(seconds)} left of the whole"

    def _left_here(self) -> float:
        """Return the seconds that the work at hand still takes, by the steps that it has made."""
        if self._at is None:
            return 0.0
        now = time.monotonic()
        step, last = self._last
        if self._first is None or step <= self._first[0]:
            return max(self._at.high_s - (now - self._begun), 0.0)
        each = (now - self._first[1]) / (step - self._first[0])
        if self._at.steps and self._at.high_s:
            self._pace = each * self._at.steps / self._at.high_s
        return each * max(last - step, 0)

    def _move(self, step: int, last: int, words: str) -> None:
        assert self._at is not None
        if self._bar is None:
            # What matters first: a narrow terminal cuts the end off.
            form = "{desc}: {n_fmt}/{total_fmt} steps{postfix} |{bar}|"
            title = self._at.title.partition(" (")[0]
            self._bar = tqdm(desc=title, total=last, leave=False, bar_format=form)
        self._bar.total, self._bar.n = last, step
        self._bar.set_postfix_str(", ".join(filter(None, (self.left, words))), refresh=False)
        self._bar.update(0)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


shown: ContextVar[Display | None] = ContextVar("shown", default=None)
"""The display of the run at hand, for the training far below it."""


@contextmanager
def showing(display: Display) -> Iterator[None]:
    """Let what is done in a block be shown by a display."""
    token = shown.set(display)
    try:
        yield
    finally:
        shown.reset(token)


def _can_draw() -> bool:
    """Return whether standard error is a terminal, and one that knows how large it is."""
    if not sys.stderr.isatty():
        return False
    try:
        size = os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError):
        return True
    return size.lines > 0 and size.columns > 0


def logged(line: str) -> None:
    """Write one line as a record of the logger, and nowhere else."""
    logger.info(line)


def _nothing(_: str) -> None:
    return None


def _to_stderr(line: str) -> None:
    with above_the_bar():
        sys.stderr.write(f"{plain(line)}\n")
        sys.stderr.flush()


@contextmanager
def above_the_bar() -> Iterator[None]:
    """Take the bars away while something else is written to standard error."""
    with tqdm.external_write_mode(file=sys.stderr):
        yield


def words_of(loss: float | None, score: float | None) -> str:
    """Return loss and score in words, of what is known."""
    parts = (("loss", loss), ("score", score))
    return ", ".join(
        f"{name} {value:.3f}" for name, value in parts if value is not None and value == value
    )


def duration(seconds: float) -> str:
    """Return a time in words, to two figures.

    >>> [duration(s) for s in (0.2, 42, 95, 780, 5000, 200_000)]
    ['1 s', '42 s', '2 min', '13 min', '1 h 23 min', '2 d 8 h']
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def span(low_s: float, high_s: float, open_ended: bool) -> str:
    """Return from how long to how long something takes, in words."""
    low, high = duration(low_s), duration(high_s)
    if low == high or high_s <= _ABOUT * low_s:
        return f"about {high}"
    return f"{low} to {'at most ' if open_ended else ''}{high}"
