"""The parent's side of a worker process: starts it in a clean environment and talks to it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from bertcompress.errors import ModelError, WorkerError

__all__ = ["WorkerProcess"]

PATIENCE_S = 600.0
"""Seconds after which a worker that does not answer is ended."""

_KILLED = -9
"""The status of a process that somebody else ended for good: most often the system, for memory."""

_UNCLEAN = ("OMP_", "GOMP_", "KMP_", "MKL_")
"""Settings that slow one runtime and not the other: passive waiting costs torch 40 % at batch 1."""


class WorkerProcess:
    """`measure.timing.worker` as a child; a context manager that ends it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._hung = threading.Event()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._process = start_worker(self._errors)

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def __enter__(self) -> WorkerProcess:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        if kind is None and self._process.poll() is None:
            self.ask("close")
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(BrokenPipeError):
                stream.close()  # type: ignore[union-attr]
        self._process.wait()

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """Return the answer to one request.

        Raises:
            WorkerError with what the process said last, where it died, failed or hangs; ModelError
            for a model that cannot be used.
        """
        line = self._exchange(json.dumps({"do": do, **fields}))
        try:
            answer: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            answer = {"error": f"not an answer: {line[:80]!r}" if line else self._end()}
        if "refused" in answer:
            raise ModelError(f"timing {self._name}: {answer['refused']}")
        if "error" in answer:
            raise WorkerError(f"timing {self._name}: {answer['error']}{self._last_words()}")
        return answer

    def _exchange(self, request: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        hung = threading.Timer(PATIENCE_S, self._give_up)
        hung.start()
        try:
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
            return self._process.stdout.readline()
        except BrokenPipeError:
            return ""
        finally:
            hung.cancel()

    def _give_up(self) -> None:
        self._hung.set()
        self._process.kill()

    def _end(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        status = self._process.poll()
        if self._hung.is_set():
            return f"the process ended: it did not answer for {PATIENCE_S:.0f} s"
        if status == _KILLED:
            return "the process ended: it was killed, most likely since memory ran out"
        return f"the process ended (status {status})"

    def _last_words(self) -> str:
        self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        tail = self._errors.read().decode(errors="replace").strip().splitlines()[-8:]
        return "".join(f"\n  {line}" for line in tail)


def start_worker(errors: IO[bytes]) -> subprocess.Popen[str]:
    """Return a worker that waits for its first request; what goes wrong is told to `errors`."""
    return subprocess.Popen(
        [sys.executable, "-m", "bertcompress.measure.timing.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        encoding="utf-8",
        env=clean_environment(),
    )


def clean_environment() -> dict[str, str]:
    """Return this process's environment without thread settings, this package on its path."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(_UNCLEAN)}
    # A checkout that is not installed must be found by its workers too.
    here = str(Path(__file__).parents[3])
    clean["PYTHONPATH"] = os.pathsep.join(filter(None, [here, clean.get("PYTHONPATH")]))
    return clean
