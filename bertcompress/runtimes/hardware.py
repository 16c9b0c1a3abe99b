"""What machine a figure was obtained on, what else it did, and how much memory a process took."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from bertcompress.runtimes.table import runtime_packages

__all__ = [
    "Look",
    "Others",
    "compute_device",
    "environment",
    "forget_peak_memory",
    "host_kind",
    "overflows_int8",
    "peak_memory_mb",
    "physical_cores",
]

_INSTRUCTIONS = (
    *("sse4_2", "avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16"),
    *("avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "bf16", "i8mm", "sve"),
)
"""Those that decide how fast fp32, bf16 and int8 are on x86 and ARM."""

_PACKAGES = (
    *("bertcompress", "torch", "transformers", "datasets", "accelerate", "optimum", "numpy"),
)
"""Of every installation; those of runtimes are named by them."""


def compute_device() -> str:
    """Return where a model is trained and scored: `cuda` where there is a GPU, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def environment(threads: int | None = None) -> dict[str, Any]:
    """Return processor, instruction sets, cores, threads, memory and versions, JSON-plain.

    Args:
        threads: What the figures were measured with; None states the physical cores.
    """
    model, flags = _processor()
    return {
        "processor": model,
        "architecture": platform.machine(),
        "instruction_sets": [name for name in _INSTRUCTIONS if name in flags],
        "cores": physical_cores(),
        "threads": threads or physical_cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": _versions(),
    }


def host_kind() -> str:
    """Return what decides which precision and runtime is fast: architecture, instruction sets."""
    _, flags = _processor()
    return " ".join([platform.machine(), *(name for name in _INSTRUCTIONS if name in flags)])


def overflows_int8() -> bool:
    """Return whether 8-bit products may overflow: x86 without VNNI adds pairs in 16 bits."""
    kind = host_kind().split()
    return kind[0] in ("x86_64", "AMD64") and not {"avx512_vnni", "avx_vnni"} & {*kind}


def physical_cores() -> int:
    """Return the physical cores that this process may use."""
    return min(psutil.cpu_count(logical=False) or 1, len(_allowed_cores()))


Look = tuple[float, float, float]
"""Seconds: of a clock, that the cores were in use or stolen, of these our own processes' ones."""

_GRAIN_S = 0.01
"""Systems count time in ticks of about this; each counter may be off by one."""


class Others:
    """What others use of the cores that this process may use, from one call to the next."""

    def __init__(
        self, ours: Sequence[int] = (), look: Callable[[Sequence[int]], Look] | None = None
    ) -> None:
        """Begin to watch. `ours`: process ids that are no others, beside this process.

        `look` reads the counters; None reads those of the system.
        """
        self._ours = (os.getpid(), *ours)
        self._look = look or _look
        self._grain = _GRAIN_S * (len(_allowed_cores()) + len(self._ours))
        self._before = self._look(self._ours)

    def __call__(self) -> float:
        """Return the cores that others kept busy since the last call.

        What a host gives to other guests (steal time) counts as theirs.
        """
        now = self._look(self._ours)
        passed, used, own = (b - a for a, b in zip(self._before, now, strict=True))
        self._before = now
        return max(used - own - self._grain, 0.0) / passed if passed > 0 else 0.0


def _look(ours: Sequence[int]) -> Look:
    cores = _allowed_cores()
    used = 0.0
    for core, times in enumerate(psutil.cpu_times(percpu=True)):
        if core in cores:
            parts = times._asdict()
            # What runs in a guest is within `user` already.
            idle = ("idle", "iowait", "guest", "guest_nice")
            used += sum(parts.values()) - sum(parts.get(name, 0.0) for name in idle)
    own = 0.0
    for pid in ours:
        with contextlib.suppress(psutil.Error):  # it may have ended
            spent = psutil.Process(pid).cpu_times()
            own += spent.user + spent.system
    return time.monotonic(), used, own


def _allowed_cores() -> set[int]:
    """Return the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def peak_memory_mb() -> float:
    """Return the most resident memory that this process has held so far, in megabytes (10^6)."""
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / 1e6
    status = Path("/proc/self/status")
    if status.is_file():
        # Linux hands `ru_maxrss` down from parent to child; the high-water mark is our own.
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def forget_peak_memory() -> None:
    """Let the high-water mark start again from what is held now; on Linux, elsewhere nothing."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _processor() -> tuple[str, set[str]]:
    """Return model name and flags; the flags are known on Linux only."""
    info = Path("/proc/cpuinfo")
    fields: dict[str, str] = {}
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip().lower(), value.strip())
    name = fields.get("model name") or platform.processor() or platform.machine()
    # Clouds hide the exact name; family and model number still tell the generation.
    details = [f"{key} {fields[key]}" for key in ("cpu family", "model") if key in fields]
    flags = fields.get("flags") or fields.get("features") or ""
    return f"{name} ({', '.join(details)})" if details else name, set(flags.split())


def _versions() -> dict[str, str]:
    found = {}
    for package in (*_PACKAGES, *runtime_packages()):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
