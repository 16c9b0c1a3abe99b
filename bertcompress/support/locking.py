"""One process at a time works on a run's folder, on whichever machine that shares it.

The lock is a file `.NAME.lock` beside the folder that names its holder's machine and process. Its
holder touches it every few seconds, so whoever finds it can tell a living holder from a dead one
without comparing clocks: a dead process of this machine at once, one of another machine by watching
the file for a minute.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import SoftFileLease, Timeout

from bertcompress.errors import OutputError

__all__ = ["BEAT_S", "LEASE_S", "Hold", "locked"]

LEASE_S = 60.0
"""A holder that did not touch its lock for so long is dead. Far longer than native code keeps the
interpreter from running the thread that touches it; all versions must agree on it."""

BEAT_S = 2.0
"""Seconds between two touches."""


class Hold:
    """The lock on a folder, held."""

    def __init__(self, folder: Path, lease: SoftFileLease) -> None:
        self._folder = folder
        self._lease = lease

    @property
    def lost(self) -> bool:
        """Whether another process took over: this one was stopped for too long."""
        return self._lease.compromise is not None

    def check(self) -> None:
        """Raise OutputError where another process took over."""
        if self.lost:
            raise OutputError(
                f"{self._folder}: another process took over while this one was stopped; "
                "nothing more is written here"
            )


@contextlib.contextmanager
def locked(folder: Path, say: Callable[[str], None] = lambda _: None) -> Iterator[Hold]:
    """Hold the lock on a folder, which need not exist; its parent folder is made.

    Raises OutputError at once or within seconds where a living process holds it, and where the
    place cannot be written to.
    """
    file = folder.with_name(f".{folder.name}.lock")
    lease = SoftFileLease(
        file, lease_duration=LEASE_S, heartbeat_interval=BEAT_S, thread_local=False
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _take(lease, file, folder, say)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}") from error
    try:
        yield Hold(folder, lease)
    finally:
        with contextlib.suppress(OSError, RuntimeError):  # lost, or on a disk that went away
            lease.release()


def _take(lease: SoftFileLease, file: Path, folder: Path, say: Callable[[str], None]) -> None:
    """Acquire the lease, taking over from a holder that is seen to be dead."""
    first, told = _beat(file), False
    end = time.monotonic() + 2 * LEASE_S
    while True:
        try:
            lease.acquire(timeout=0)
            return
        except Timeout:
            owner, now = lease.owner, _beat(file)
        first = first or now
        if now not in (None, first) or time.monotonic() > end:
            who = f"process {owner.pid} on {owner.hostname}" if owner else "another process"
            raise OutputError(
                f"{folder}: {who} is working on it; wait for its end, or stop it: then "
                "--resume goes on"
            )
        if owner is not None and not told:
            told = True
            say(f"{folder}: is process {owner.pid} on {owner.hostname} alive? watching its lock")
        time.sleep(min(BEAT_S / 4, 0.5))


def _beat(file: Path) -> tuple[int, int] | None:
    """Return what changes when the holder touches its lock, or another one takes it."""
    try:
        # Opened, since a network folder may answer for the name alone from its memory.
        with file.open("rb") as stream:
            status = os.fstat(stream.fileno())
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns
