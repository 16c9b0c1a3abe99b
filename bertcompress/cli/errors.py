"""How the command line ends: one line on standard error, and the status that a shell expects.

130 after Ctrl-C, 143 after SIGTERM, 129 where the terminal went away, 141 where nobody reads what
is printed, 2 for what the user or the machine has to mend, 1 for other failures that are known.
What is a fault of this program keeps its traceback.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

import typer

from bertcompress.errors import BertCompressError
from bertcompress.support.machine import machine_words
from bertcompress.support.terminal import err

__all__ = ["exit_with"]

PIPE_CLOSED = 128 + signal.SIGPIPE if hasattr(signal, "SIGPIPE") else 1
GRACE_S = 2.0
"""Seconds in which a second signal changes nothing: the end in order is on its way."""
STOPPED = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "the terminal went away"}


def exit_with(call: Callable[[], Any], verbose: Callable[[], bool] = lambda: False) -> NoReturn:
    """Call, and end the process with what came of it; an error is one line.

    `verbose`: asked, once an error is there, whether its traceback comes before that line.
    """
    _open_streams()
    stop = _Stop()
    with stop:
        try:
            status = call()
            _flush()
            words = None
            # typer answers an interrupt with the status instead of raising.
            if stop.number is not None or status == 128 + signal.SIGINT:
                status, words = stop.status, stop.words
        except BaseException as error:
            status, words = _judged(error, stop)
            if words is not None and verbose():
                traceback.print_exc()
        if words is not None:
            _tell(f"error: {words}")
    sys.exit(status or 0)


def _judged(error: BaseException, stop: _Stop) -> tuple[Any, str | None]:
    """Return status and words for an error; raises it again where it is a fault of this program."""
    if _nobody_reads(error):
        _forget(1)
        return PIPE_CLOSED, None
    # Whatever a library made of it: the signal is why it ended.
    if stop.number is not None or isinstance(error, KeyboardInterrupt | typer.Abort):
        return stop.status, stop.words
    if isinstance(error, SystemExit):
        return error.code, None
    if isinstance(error, BertCompressError):
        return error.exit_code, str(error)
    words = _known(error)
    if words is None:
        raise error
    return 2, words


def _known(error: BaseException) -> str | None:
    """Return the words for errors of libraries that are the user's to mend, else None."""
    usage: Any = getattr(error, "format_message", None)
    if callable(usage):  # a ClickException: of click, or of the copy that newer typer brings along
        return str(usage())
    if type(error).__name__ == "ShapeError":
        return str(error)
    words = machine_words(error)
    return None if words is None else words + _go_on()


def _go_on() -> str:
    return "; --resume goes on from there" if sys.argv[1:2] == ["run"] else ""


def _nobody_reads(error: BaseException) -> bool:
    """Return whether standard output was closed; rich and click end the process themselves."""
    ended = isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError)
    return ended or isinstance(error, BrokenPipeError)


class _Stop:
    """Signals that ask for the end: the first ends the command in order, a later one at once."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._first = 0.0
        self._before: dict[int, Any] = {}

    @property
    def status(self) -> int:
        """The status of a process that a signal ended, as shells number it."""
        return 128 + (self.number or signal.SIGINT)

    @property
    def words(self) -> str:
        """What ended the command, and how to go on."""
        what = STOPPED[signal.Signals(self.number or signal.SIGINT).name]
        return what + ("; add --resume to go on" if sys.argv[1:2] == ["run"] else "")

    def __enter__(self) -> _Stop:
        for name in STOPPED:
            number = getattr(signal, name, None)
            # `nohup` ignores one, and only the main thread may set any.
            with contextlib.suppress(ValueError):
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # Once the process ends for one, nothing is to disturb its last steps.
            signal.signal(number, handler if self.number is None else signal.SIG_IGN)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            if time.monotonic() - self._first < GRACE_S:
                return
            with contextlib.suppress(OSError):
                os.write(2, f"error: {self.words}\n".encode())
            os._exit(self.status)
        self.number, self._first = number, time.monotonic()
        raise KeyboardInterrupt


def _open_streams() -> None:
    """Give the process three open streams that take every character."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed by the shell: a file opened next would get what is printed
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for good
        elif hasattr(stream, "reconfigure"):
            with contextlib.suppress(OSError):
                stream.reconfigure(errors="backslashreplace")


def _flush() -> None:
    """Flush standard output now, where an error still has a line and a status."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _forget(1)
        raise OSError(error.errno, error.strerror, "standard output") from None


def _forget(number: int) -> None:
    """Let what is still to be printed go nowhere, or the interpreter would fail at its end."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def _tell(line: str) -> None:
    try:
        err.print(line, soft_wrap=True)
    except (OSError, SystemExit, MemoryError):  # nobody reads it, or there is no room to format it
        with contextlib.suppress(OSError):
            os.write(2, f"{line}\n".encode(errors="backslashreplace"))
        _forget(2)
