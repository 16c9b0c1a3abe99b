"""A transfer that is watched: slow ones are said to be slow, dead ones are given up.

The client's own limits begin anew with each byte, so that a server that sends one now and then
holds it for ever; and its threads cannot be interrupted. Here the transfer runs beside the thread
that waits for it, which sees what arrives and hears Ctrl-C at once.
"""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psutil

__all__ = ["Say", "SlowServer", "by_xet", "traffic", "watched"]

_Result = TypeVar("_Result")
Say = Callable[[str], None]
"""Takes one line at a time."""

LOOK_S = 0.1
"""Between looks at what has arrived."""
SLOW_S = 20.0
"""A transfer is judged over so long, and a slow one is said to be so as often."""
SLOW_BYTES_PER_S = 20_000
"""What is slower is said to be slow."""
GIVE_UP_S = 300.0
"""A transfer that is all but dead for so long is given up."""
DEAD_BYTES_PER_S = 100


class SlowServer(OSError):
    """A server that answers too slowly to go on."""


def watched(
    call: Callable[[], _Result],
    arrived: Callable[[], int] = lambda: 0,
    *,
    what: str = "",
    say: Say = lambda _: None,
    moved: Callable[[int], Any] = lambda _: None,
) -> _Result:
    """Return what a call returns that runs in a thread of its own.

    Args:
        call: Does the transfer.
        arrived: How many bytes there are by now.
        what: Names it in what is said.
        say: Told where it is slow.
        moved: Told how many bytes came since it was told last.

    Raises:
        SlowServer for one that all but stopped; whatever the call raises. Ctrl-C is heard at once;
        what has arrived until then is kept by whoever keeps it.
    """
    ended: list[Any] = []

    def run() -> None:
        try:
            ended.append(("returned", call()))
        except BaseException as error:  # handed on to whoever waits
            ended.append(("raised", error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    pace = _Pace(arrived(), what, say)
    while thread.is_alive():
        thread.join(LOOK_S)
        moved(pace.look(arrived()))
    moved(pace.look(arrived()))
    how, value = ended[0]
    if how == "raised":
        raise value
    return value  # type: ignore[no-any-return]


def by_xet() -> bool:
    """Return whether large files go by Xet, which shows in no file how far it is."""
    from huggingface_hub import constants

    off = getattr(constants, "HF_HUB_DISABLE_XET", False)
    return importlib.util.find_spec("hf_xet") is not None and not off


def traffic() -> int:
    """Return how many bytes this machine received and sent: what is seen of a transfer by Xet."""
    counted = psutil.net_io_counters()
    return counted.bytes_recv + counted.bytes_sent if counted else 0


class _Pace:
    """How fast bytes arrive."""

    def __init__(self, arrived: int, what: str, say: Say) -> None:
        self.last, self.what, self.say = arrived, what, say
        self.since = self.alive = time.monotonic()
        self.then = arrived

    def look(self, arrived: int) -> int:
        """Return what came since the last look, and say so where that is too little."""
        new, self.last = max(0, arrived - self.last), arrived
        now = time.monotonic()
        if now - self.since >= SLOW_S:
            rate = max(0, arrived - self.then) / (now - self.since)
            if rate > DEAD_BYTES_PER_S:
                self.alive = now
            if now - self.alive > GIVE_UP_S:
                raise SlowServer(f"{rate:,.0f} bytes a second for {now - self.alive:.0f} s")
            if rate < SLOW_BYTES_PER_S:
                self.say(
                    f"{self.what}: slow, {rate / 1e3:,.1f} kB a second in the last "
                    f"{now - self.since:.0f} s; Ctrl-C stops it"
                )
            self.since, self.then = now, arrived
        return new
