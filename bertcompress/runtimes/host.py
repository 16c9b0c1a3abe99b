"""What machine a figure was obtained on, and how much memory a process took."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

import psutil

__all__ = [
    "busy_cores",
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
    *("onnx", "onnxruntime", "openvino", "nncf"),
)


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
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(psutil.cpu_count(logical=False) or 1, allowed or 1)


def busy_cores(seconds: float = 0.5) -> float:
    """Return how many of the cores that this process may use others keep busy while it sleeps."""
    shares = psutil.cpu_percent(interval=seconds, percpu=True)
    if hasattr(os, "sched_getaffinity"):
        allowed = os.sched_getaffinity(0)
        shares = [share for core, share in enumerate(shares) if core in allowed]
    return float(sum(shares)) / 100


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
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
