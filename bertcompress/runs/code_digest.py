"""What code a stage ran, as a hash: a method that was mended is not answered from the store."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

from bertcompress.runtimes.table import runtime_sources

__all__ = ["code_digest"]

_PACKAGE = Path(__file__).parents[1]
_ROOMS = (
    *("data", "methods", "engines", "runtimes", "shapes", "training"),
    *("heads", "metrics", "measure.scores"),
)
"""Where the code lies that decides what a method makes, scores that it chooses by included; the
rest measures and reports. What writes and reads a stage folder has `stages.FORMAT` instead."""


_PREFIXES = tuple(f"{room}." for room in _ROOMS)


@functools.cache
def code_digest(module: str, edited: bool, makes_files: bool = False) -> str:
    """Return a hash of the code that a method of this module runs; comments do not count.

    That is the module's own file and what it imports from the rooms that compute, whatever the
    version says. An `edited` model computes by the code of `shapes/` as well; one that
    `makes_files` by that of every runtime, which are named in a table and imported by nobody.
    """
    source = inspect.getsourcefile(sys.modules[module])
    files = [Path(source)] if source else []
    if edited:
        files += (_PACKAGE / "shapes").glob("*.py")
    if makes_files:
        files += runtime_sources()
    seen: dict[Path, str] = {}
    while files:
        file = files.pop()
        if file not in seen:
            tree = ast.parse(file.read_text(encoding="utf-8"))
            files += _imported(tree)
            seen[file] = ast.dump(_without_docstrings(tree))
    digest = hashlib.sha256()
    for file in sorted(seen):
        digest.update(f"{file.parent.name}/{file.name}\0{seen[file]}\n".encode())
    return digest.hexdigest()


def _imported(tree: ast.Module) -> Iterator[Path]:
    """Yield the files of the rooms that compute that a module imports, anywhere in it."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
            top, _, rest = name.partition(".")
            if top != _PACKAGE.name or not f"{rest}.".startswith(_PREFIXES):
                continue
            path = _PACKAGE.joinpath(*rest.split("."))
            for file in (path.with_suffix(".py"), path / "__init__.py"):
                if file.is_file():
                    yield file


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            node.body[0] = ast.Pass()
    return tree
