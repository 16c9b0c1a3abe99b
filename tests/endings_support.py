"""Commands in clean processes, and what goes wrong in them before they begin.

A fork of the test process would carry along threads and runtimes of other tests, and may crash on
a signal: a server that has imported what commands need, and done nothing, forks instead.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from torture_process import Ended, become, text_of

WARM = [
    "bertcompress.verbs.evaluate",
    "bertcompress.runs",
    "bertcompress.verbs.verify",
    "bertcompress.training.trainer",
]
"""What the server imports before it forks."""


def nothing() -> None:
    """Go wrong in no way."""


def limited_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def few_open_files() -> None:
    here = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 16
    resource.setrlimit(resource.RLIMIT_NOFILE, (here + 1, here + 1))


def no_temporary_folder() -> None:
    tempfile.tempdir = None
    tempfile._candidate_tempdir_list = lambda: ["/nowhere"]


def closed_pipe() -> None:
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    os.close(reader)
    os.close(writer)


def full_output() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def closed_output() -> None:
    os.close(1)


def stubborn() -> None:
    """Stand for a library that takes the interrupt for itself."""
    import bertcompress.cli.errors
    import bertcompress.runs.run

    def run(*_: Any, **__: Any) -> None:
        while True:
            try:
                Path("out-busy").touch()  # inside: the interrupt may come as soon as it is there
                time.sleep(0.01)
            except KeyboardInterrupt:
                continue

    bertcompress.runs.run.run = run
    bertcompress.cli.errors.GRACE_S = 0.05


class Command:
    """A `bertcompress` command in a process of its own; `before` runs there first."""

    def __init__(
        self, arguments: Sequence[str], folder: Path, *, before: Callable[[], None] = nothing
    ) -> None:
        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload(WARM)
        self._files = [folder / f".out-{time.monotonic_ns()}-{n}" for n in (1, 2)]
        given = (list(arguments), folder, self._files, dict(os.environ), before)
        self._process = server.Process(target=become, args=given)
        self._start = time.monotonic()
        self._process.start()

    def signal(self, number: int) -> None:
        """Send a signal to the process alone."""
        os.kill(self._process.pid or 0, number)

    def wait(self, seconds: float) -> Ended:
        """Return how it ended; it is killed once `seconds` are over."""
        self._process.join(seconds)
        late = self._process.exitcode is None
        if late:
            self.signal(signal.SIGKILL)
            self._process.join()
        code, took = self._process.exitcode or 0, time.monotonic() - self._start
        status = code if code >= 0 else 128 - code
        return Ended(status, *map(text_of, self._files), took, 0.0, 0.0, late)
