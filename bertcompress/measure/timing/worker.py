"""One candidate of a timing run, in a process of its own.

Started as `python -m bertcompress.measure.timing.worker`.

Speaks JSON, one object a line: a request on standard input, its answer on standard output.

    {"do": "open", "path", "runtime", "precision", "threads", "device", "serving",
     "max_length", "longest"}
        -> {"runtime", "precision", "device", "serving", "load_s", "memory_mb"}
    {"do": "time", "batch", "length", "repeats", "warmup", "vocab_size"}   random tokens
    {"do": "time", "batches": FILE.npz, "repeats", "warmup"}               real ones
        -> {"ms": [repeats x batches]}     one repeat without warm-up, at first: the first pass;
                                           fewer where "seconds" are over
    {"do": "memory"} -> {"peak_memory_mb"}
    {"do": "close"} -> {}

A request that fails answers {"error": text}, and the traceback goes to standard error; a model
that is refused answers {"refused": text}.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import math
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil

from bertcompress.errors import BertCompressError
from bertcompress.runtimes import (
    DYNAMIC,
    Batch,
    Predictor,
    locate,
    open_predictor,
    runtime_named,
)
from bertcompress.runtimes.hardware import peak_memory_mb

__all__ = ["load_batches", "main", "random_batch", "save_batches"]


def random_batch(batch: int, length: int, vocab_size: int) -> dict[str, Any]:
    """Return rows of random tokens without padding; speed depends on the shape alone."""
    ids = np.random.default_rng(0).integers(0, vocab_size, (batch, length), dtype=np.int64)
    return {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
    }


def save_batches(batches: Sequence[Batch], file: Path) -> None:
    """Write batches to an `.npz` file."""
    arrays = {f"{i}.{name}": array for i, b in enumerate(batches) for name, array in b.items()}
    np.savez(file, **arrays)  # type: ignore[arg-type]


def load_batches(file: str | Path) -> list[Batch]:
    """Return the batches of an `.npz` file in order."""
    batches: dict[int, dict[str, Any]] = {}
    with np.load(file, allow_pickle=False) as arrays:
        for key in arrays.files:
            number, _, name = key.partition(".")
            batches.setdefault(int(number), {})[name] = arrays[key]
    return [batches[i] for i in sorted(batches)]


class Worker:
    """Answers requests about one predictor."""

    def __init__(self) -> None:
        self._predictor: Predictor | None = None
        self._wait: Callable[[], None] = lambda: None
        self._batches: dict[str, list[Batch]] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to one request."""
        verbs: dict[str, Callable[..., dict[str, Any]]] = {
            "open": self.open,
            "time": self.time,
            "memory": self.memory,
            "close": dict,
        }
        return verbs[request.pop("do")](**request)

    def open(
        self,
        path: str,
        runtime: str | None = None,
        vocab_size: int = 100,
        longest: int | None = None,
        device: str = "cpu",
        **options: Any,
    ) -> dict[str, Any]:
        """Load the artefact and let it answer once: some runtimes compile only then."""
        chosen = runtime_named(locate(path, runtime, options.get("precision"))[0])
        # What every process of this runtime carries is no part of the model.
        chosen.load_libraries()
        self._wait = partial(chosen.synchronise, device)
        if "serving" in options:
            # Known here, so that nothing is loaded to find it out, which would be measured.
            options["limit"] = longest or options.get("max_length")
        before, start = psutil.Process().memory_info().rss, time.perf_counter()
        self._predictor = open_predictor(path, chosen.name, device=device, **options)
        self._predictor(random_batch(1, min(16, longest or 16), vocab_size))
        self._wait()
        load_s = time.perf_counter() - start
        return {
            "runtime": self._predictor.runtime,
            "precision": self._predictor.precision,
            "device": device,
            "serving": getattr(self._predictor, "serving", DYNAMIC),
            "load_s": load_s,
            "memory_mb": max(psutil.Process().memory_info().rss - before, 0) / 1e6,
        }

    def time(
        self,
        repeats: int,
        warmup: int = 1,
        batches: str | None = None,
        batch: int = 1,
        length: int = 128,
        vocab_size: int = 100,
        seconds: float = math.inf,
    ) -> dict[str, Any]:
        """Time each call; the warm-up also waits out what another process left running.

        No further call begins once `seconds` are over.
        """
        assert self._predictor is not None
        if batches is None:
            given: list[Batch] = [random_batch(batch, length, vocab_size)]
        else:
            given = self._batches.setdefault(batches, []) or self._read(batches)
        for _ in range(warmup):
            for one in given[:_WARM]:
                self._predictor(one)
        self._wait()
        return {"ms": _timed(self._predictor, self._wait, given, repeats, seconds)}

    def _read(self, file: str) -> list[Batch]:
        self._batches[file] = load_batches(file)
        return self._batches[file]

    def memory(self) -> dict[str, Any]:
        """Return the largest memory that this process has held."""
        return {"peak_memory_mb": peak_memory_mb()}


_WARM = 8
"""Real batches that a warm-up goes through at most."""


def _timed(
    predictor: Predictor,
    wait: Callable[[], None],
    batches: Sequence[Batch],
    repeats: int,
    seconds: float,
) -> list[float]:
    """Return the milliseconds of each call; `wait` returns when the device is done."""
    gc.collect()
    gc.disable()  # as timeit does: a collection would be charged to whoever is running
    took: list[float] = []
    end = time.perf_counter() + seconds
    try:
        for _ in range(repeats):
            for batch in batches:
                start = time.perf_counter()
                if start > end:
                    return took
                predictor(batch)
                wait()
                took.append((time.perf_counter() - start) * 1e3)
    finally:
        gc.enable()
    return took


def _claim_stdout() -> IO[str]:
    """Return standard output for the protocol alone; prints go to standard error from now on."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return channel


def _requests() -> Iterator[dict[str, Any]]:
    """Yield requests as they come; the process ends with its parent, whatever it is doing."""
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        rest = b""
        # Not through sys.stdin, whose lock the interpreter wants at its end.
        while chunk := os.read(0, 65_536):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                lines.put(line)
        os._exit(0)  # the other end is closed: nobody waits for what is being timed

    # It sleeps in the read, so that nothing of it shows in a time.
    threading.Thread(target=read, daemon=True).start()
    while True:
        yield json.loads(lines.get())


def main() -> int:
    """Answer requests until `close` or the end of standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: it is the parent who ends this
    channel, worker = _claim_stdout(), Worker()
    faulthandler.enable()  # a crash in native code would otherwise leave no word
    for request in _requests():
        last = request["do"] == "close"
        try:
            answer = worker.answer(request)
        except BertCompressError as error:
            answer = {"refused": str(error)}
        except Exception as error:  # whatever it is, the parent reports it
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        channel.write(json.dumps(answer) + "\n")
        channel.flush()
        if last:
            break
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
