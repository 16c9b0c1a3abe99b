"""What goes wrong with a server, switched on by a test."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass

__all__ = ["Fault", "Faults"]


@dataclass
class Fault:
    """Happens to the next `times` requests whose `METHOD /path` a pattern finds."""

    pattern: str
    times: int = 1
    status: int | None = None
    """To answer with; None drops the connection after half of the body."""
    message: str = "a fault of the test"
    after: bool = False
    """Do what was asked first: the client hears of a failure, and the change is made."""
    body: str | None = None
    """To answer with 200, instead of what would be right."""
    corrupt: bool = False
    """Answer as asked, of the same length, with another last byte."""
    drip_s: float = 0.0
    """Answer as asked, byte by byte, with so many seconds between."""

    @property
    def answers(self) -> bool:
        """Whether the answer looks like a good one."""
        return self.body is not None or self.corrupt or bool(self.drip_s)


class Faults:
    """The faults that are still to come."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, pattern: str, **fields: object) -> None:
        self._waiting.append(Fault(pattern, **fields))  # type: ignore[arg-type]

    def clear(self) -> None:
        self._waiting.clear()

    def take(self, request: str) -> Fault | None:
        """Return the fault of this request, if it has one, and count it down."""
        with self._lock:
            for fault in self._waiting:
                if fault.times and re.search(fault.pattern, request):
                    fault.times -= 1
                    return fault
        return None
