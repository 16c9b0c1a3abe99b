"""Timing workers that are forked from one process that has imported everything already.

A worker of its own takes three seconds to import torch, transformers and the runtimes, and a run
starts two or more: a quarter of the suite. The requests, the pipes and the measuring are those of
a real one; tests/test_latency.py starts real ones.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import threading
from multiprocessing.connection import Connection

from bertcompress.measure.timing.process import clean_environment, start_worker

REAL = start_worker
"""What the suite's fixture puts a forked one in the place of."""

CARRIED = ["torch", "transformers", "onnxruntime", "openvino", "bertcompress.models.io"]
"""What the template imports, where it is there; then the worker itself."""


def work(requests: Connection, answers: Connection, errors: Connection, environment: dict) -> None:
    """Be a worker: its standard streams are these pipes."""
    for number, pipe in enumerate((requests, answers, errors)):
        os.dup2(pipe.fileno(), number)
    os.environ.clear()
    os.environ.update(environment)
    from bertcompress.measure.timing import worker

    worker.main()


class ForkedWorker:
    """As much of a `subprocess.Popen` as the parent's side of a worker asks for."""

    def __init__(self, errors) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*CARRIED, "bertcompress.measure.timing.worker", __name__])
        requests, self._requests = context.Pipe(duplex=False)
        self._answers, answers = context.Pipe(duplex=False)
        self._errors, said = context.Pipe(duplex=False)
        self._process = context.Process(
            target=work, args=(requests, answers, said, clean_environment()), daemon=True
        )
        self._process.start()
        for pipe in (requests, answers, said):
            pipe.close()  # so that the end of the worker is the end of the pipe
        self.stdin = os.fdopen(os.dup(self._requests.fileno()), "w", encoding="utf-8")
        self.stdout = os.fdopen(os.dup(self._answers.fileno()), "r", encoding="utf-8")
        self._requests.close()
        self._answers.close()
        self._copy = threading.Thread(target=self._keep, args=(errors,), daemon=True)
        self._copy.start()

    def _keep(self, errors) -> None:
        while chunk := os.read(self._errors.fileno(), 65_536):
            errors.write(chunk)
            errors.flush()

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return how it ended; None while it lives."""
        return self._process.exitcode

    def kill(self) -> None:
        """End it."""
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        """Return how it ended, once it has."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("worker", timeout or 0)
        self._copy.join()
        return self._process.exitcode
