"""Commands as processes that start in a moment: forks of one that has imported everything."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

GIB = 1 << 30


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    """As a shell counts it: 128 and the number of the signal that killed it."""
    out: str
    err: str
    seconds: float
    """By the clock on the wall."""
    cpu_seconds: float
    peak_mb: float
    """Largest memory that it held, in 10^6 bytes; what it shares with its parent counts."""
    late: bool = False
    """Whether it was killed since its time was over."""


def warm() -> None:
    """Import what every command needs, so that forks need not."""
    import bertcompress.runs.run
    import bertcompress.verbs.evaluate
    import bertcompress.verbs.verify  # noqa: F401
    from bertcompress.training import trainer  # noqa: F401

    gc.collect()
    gc.freeze()  # else each fork would touch, and so copy, all that was imported


def become(
    arguments: Sequence[str],
    folder: Path,
    files: Sequence[Path],
    environment: dict[str, str],
    before: Callable[[], Any],
    memory: int | None = None,
    cpu_seconds: int | None = None,
) -> NoReturn:
    """Turn this process, a fork of its parent, into a command; see `Command`."""
    status = 70
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        for number, file in enumerate(files, 1):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
        os.environ.update(environment)
        before()
        sys.stdout, sys.stderr = _stream(1), _stream(2)
        if memory is not None:
            _limit_memory(memory)
        if cpu_seconds is not None:
            resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
        status = _command(list(arguments))
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(status)


class Command:
    """A `bertcompress` command in a process of its own, started by forking this one."""

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        *,
        environment: dict[str, str] | None = None,
        before: Callable[[], Any] = lambda: None,
        memory: int | None = None,
        cpu_seconds: int | None = None,
    ) -> None:
        """`before` runs in the new process; `memory`: bytes that it may take more than this one."""
        self._files = [folder / f".out-{os.getpid()}-{time.monotonic_ns()}-{n}" for n in (1, 2)]
        self._start = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of threads; none holds a lock here
            self.pid = os.fork()
        if self.pid:
            return
        become(arguments, folder, self._files, environment or {}, before, memory, cpu_seconds)

    def signal(self, number: int) -> None:
        """Send a signal to the process alone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, seconds: float = 600.0) -> Ended:
        """Return how it ended; it and its children are killed once `seconds` are over."""
        late, end = False, self._start + seconds
        while True:
            pid, status, used = os.wait4(self.pid, 0 if late else os.WNOHANG)
            if pid:
                break
            if time.monotonic() > end:
                late = True
                os.killpg(self.pid, signal.SIGKILL)
            time.sleep(0.01)
        took = time.monotonic() - self._start
        code = os.waitstatus_to_exitcode(status)
        texts = [text_of(file) for file in self._files]
        peak = used.ru_maxrss * 1024 / 1e6
        cpu = used.ru_utime + used.ru_stime
        return Ended(code if code >= 0 else 128 - code, *texts, took, cpu, peak, late)


def _stream(number: int) -> Any:
    """Return what Python makes of a descriptor when it starts: nothing of a closed one."""
    try:
        return open(number, "w", encoding="utf-8", closefd=False)
    except OSError:
        return None


def text_of(file: Path) -> str:
    """Return what was written to a file, and remove it."""
    if not file.exists():
        return ""
    text = file.read_bytes()[-200_000:].decode(errors="replace")
    file.unlink()
    return text


def _limit_memory(more: int) -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    bound = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))


def _command(arguments: list[str]) -> int:
    from bertcompress.cli.main import main

    sys.argv = ["bertcompress", *arguments]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        return 1
    return 0
