"""The table of runtimes, and questions that all of them answer together.

Adding a runtime adds a line. Nothing of a runtime is imported before somebody asks for it, and its
facts never import what computes.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from bertcompress.errors import MissingExtra, ModelError, unknown
from bertcompress.runtimes.runtime import Runtime

__all__ = [
    "INTERCHANGE",
    "REFERENCE",
    "RUNTIMES",
    "all_runtimes",
    "available_runtimes",
    "exporter",
    "in_words",
    "installed_runtimes",
    "int8_runtimes",
    "known_runtime",
    "missing_packages",
    "missing_runtimes",
    "runtime_named",
    "runtime_packages",
    "runtime_sources",
    "shipped_folders",
]

RUNTIMES: dict[str, str] = {
    "torch": "bertcompress.runtimes.torch_runtime:TorchRuntime",
    "onnxruntime": "bertcompress.runtimes.onnxruntime:OnnxRuntime",
    "openvino": "bertcompress.runtimes.openvino:OpenVino",
}
"""Name of a runtime to where its class is."""

REFERENCE = "torch"
"""The runtime that models are trained in; its fp32 model is what every deployment is compared
with."""
INTERCHANGE = "onnxruntime"
"""The runtime whose fp32 file all others that make files start from."""


def runtime_named(name: str, where: str = "runtime") -> Runtime:
    """Return a runtime of the table; raises ModelError with the nearest name."""
    if name not in RUNTIMES:
        raise ModelError(unknown(where, "runtime", name, RUNTIMES))
    return _loaded(RUNTIMES[name])


def known_runtime(name: str) -> Runtime | None:
    """Return the runtime that a stored report names; None where this release has no such one."""
    return runtime_named(name) if name in RUNTIMES else None


@cache
def _loaded(place: str) -> Runtime:
    module, _, name = place.partition(":")
    found: Any = getattr(importlib.import_module(module), name)
    runtime: Runtime = found()
    return runtime


def all_runtimes() -> Iterator[Runtime]:
    """Yield the runtimes in the order of the table."""
    for name in RUNTIMES:
        yield runtime_named(name)


def exporter() -> Runtime:
    """Return the runtime that writes the fp32 ONNX file, which all others start from."""
    return runtime_named(INTERCHANGE)


def available_runtimes() -> list[str]:
    """Return the int8 runtimes that are installed; raises MissingExtra where there is none."""
    found = [each.name for each in int8_runtimes() if not missing_packages(each)]
    if not found:
        first = exporter()
        raise MissingExtra(first.engine, str(first.extra))
    return found


def installed_runtimes() -> list[Runtime]:
    """Return the runtimes whose files can be made here; raises MissingExtra where there is none."""
    return [runtime_named(name) for name in available_runtimes()]


def missing_runtimes(names: Sequence[str]) -> tuple[str, ...]:
    """Return a line for each int8 runtime that is not among `names` for want of a package."""
    return tuple(
        f"no file for {each.name}: {MissingExtra(lacking[0], str(each.extra))}"
        for each in int8_runtimes()
        if each.name not in names and (lacking := missing_packages(each))
    )


def missing_packages(runtime: Runtime) -> list[str]:
    """Return the packages that a runtime needs to make its files and that are not installed."""
    return [name for name in runtime.packages if not importlib.util.find_spec(name)]


def int8_runtimes() -> list[Runtime]:
    """Return the runtimes that make int8 files, installed or not."""
    return [each for each in all_runtimes() if "int8" in each.files]


def runtime_packages() -> tuple[str, ...]:
    """Return the optional Python packages of all runtimes, each once."""
    return tuple(dict.fromkeys(name for each in all_runtimes() for name in each.packages))


def runtime_sources() -> list[Path]:
    """Return the source files of the classes in the table."""
    specs = [importlib.util.find_spec(place.partition(":")[0]) for place in RUNTIMES.values()]
    return [Path(spec.origin) for spec in specs if spec is not None and spec.origin]


def shipped_folders() -> tuple[str, ...]:
    """Return the folders in which runs ship files of runtimes, relative to the run, each once."""
    files = [file for each in all_runtimes() for file in each.files.values()]
    return tuple(dict.fromkeys(file.path.parts[0] for file in files))


def in_words() -> str:
    """Return the names of all runtimes as a sentence lists them.

    >>> in_words()
    'torch, onnxruntime or openvino'
    """
    *names, last = RUNTIMES
    return f"{', '.join(names)} or {last}"
