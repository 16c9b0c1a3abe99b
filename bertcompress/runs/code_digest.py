"""What code a stage ran, as a hash: a method that was mended is not answered from the store."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from bertcompress.heads import HEADS
from bertcompress.runtimes.table import runtime_sources

__all__ = ["code_digest"]

_PACKAGE = Path(__file__).parents[1]
_ROOMS = (
    *("data", "methods", "engines", "runtimes", "shapes", "training"),
    *("heads", "metrics", "measure.scores"),
)
"""Where the code lies that decides what a method makes, scores that it chooses by included; the
rest measures and reports. What writes and reads a stage folder has `stage.FORMAT` instead."""


_MODULE = re.compile(rf"{_PACKAGE.name}(\.\w+)+")
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
    files += [Path(inspect.getfile(type(head))) for head in HEADS.values()]
    if edited:
        files += (_PACKAGE / "shapes").rglob("*.py")
    if makes_files:
        files += runtime_sources()
    seen: dict[Path, str] = {}
    while files:
        file = files.pop()
        if file not in seen:
            seen[file], imported = _read(file, file.stat().st_mtime_ns)
            files += imported
    digest = hashlib.sha256()
    for file in sorted(seen):
        digest.update(f"{file.parent.name}/{file.name}\0{seen[file]}\n".encode())
    return digest.hexdigest()


@functools.cache
def _read(file: Path, _changed: int) -> tuple[str, tuple[Path, ...]]:
    """Return what a module says without its comments, and the files that it imports.

    Methods share most of theirs: a file is read once in a process unless it changes.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imported = tuple(_imported(tree, file))
    return ast.dump(_without_docstrings(tree)), imported


def _imported(tree: ast.Module, file: Path) -> Iterator[Path]:
    """Yield the files of the rooms that compute that a module imports, anywhere in it.

    A "module:class" in a table is an import as well.
    """
    for node in ast.walk(tree):
        for name in _names(node, file):
            top, _, rest = name.partition(".")
            if top != _PACKAGE.name or not f"{rest}.".startswith(_PREFIXES):
                continue
            path = _PACKAGE.joinpath(*rest.split("."))
            # The stub of a lazy room says what its names stand for.
            for each in (path.with_suffix(".py"), path / "__init__.py", path / "__init__.pyi"):
                if each.is_file():
                    yield each


def _names(node: ast.AST, file: Path) -> Iterator[str]:
    """Yield the modules that a node of a file imports, and its names, which may be modules too."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        module, colon, _ = node.value.partition(":")
        if colon and _MODULE.fullmatch(module):
            yield module
    if not isinstance(node, ast.ImportFrom) or node.module is None:
        return
    module = node.module
    if node.level == 1 and file.suffix == ".pyi":
        module = ".".join((*file.parent.relative_to(_PACKAGE.parent).parts, module))
    yield module
    yield from (f"{module}.{alias.name}" for alias in node.names)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            node.body[0] = ast.Pass()
    return tree
