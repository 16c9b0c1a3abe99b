"""The settings of each method, with their types and rules, before torch is there.

A method is one file that holds its settings and what computes, and what computes imports torch:
seconds that nobody should wait for only to read that a setting is misspelt. So the class is built
from the source of that file: its fields, validators and properties, and of the names that they use
those alone. What the class computes is not there. Types, bounds and words of an error are those of
the class itself; a test compares every one of them.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from bertcompress.errors import RecipeError, unknown
from bertcompress.methods import METHODS

__all__ = ["settings_class", "settings_named", "source_of"]

_PACKAGE = __name__.partition(".")[0]
_IMPORTED = ("bertcompress.runtimes.int8_field",)
"""Modules of types of settings that are imported as they are: they need no torch."""


def settings_class(key: str, where: str = "recipe") -> Any:
    """Return a class with the fields and class variables of a method, which computes nothing.

    Raises RecipeError with the nearest key.
    """
    if key not in METHODS:
        raise RecipeError(unknown(where, "method", key, METHODS))
    module, _, name = METHODS[key][0].partition(":")
    return _value(module, name)


def settings_named(module: str, name: str) -> Any:
    """Return a class of settings that several methods share, which computes nothing."""
    return _value(module, name)


@cache
def source_of(module: str) -> ast.Module:
    """Return the source of a module, parsed, without importing it."""
    top, *rest = module.split(".")
    if top == _PACKAGE:  # by its place: a room's own `__init__` may import torch
        place = Path(__file__).parents[1].joinpath(*rest)
        files = (place.with_suffix(".py"), place / "__init__.py")
        return ast.parse(next(f for f in files if f.is_file()).read_text(encoding="utf-8"))
    found = importlib.util.find_spec(module)
    assert found is not None and found.origin is not None, module
    return ast.parse(Path(found.origin).read_text(encoding="utf-8"))


@cache
def _value(module: str, name: str) -> Any:
    """Return what a name means at the top of a module; only that is evaluated."""
    for node in source_of(module).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _imported(node, alias.name)
        elif isinstance(node, ast.ClassDef) and node.name == name:
            return _run(module, _bare(node), name)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and name in _bound(node):
            return _run(module, node, name)
    raise AttributeError(f"{module} has no '{name}'")


def _bound(node: ast.Assign | ast.AnnAssign) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [ast.unparse(target) for target in targets]


def _imported(node: ast.Import | ast.ImportFrom, name: str) -> Any:
    if isinstance(node, ast.Import):
        return importlib.import_module(name)
    module = str(node.module)
    if module.partition(".")[0] != _PACKAGE or module in _IMPORTED:
        return getattr(importlib.import_module(module), name)
    if (Path(__file__).parents[1].joinpath(*module.split(".")[1:], f"{name}.py")).is_file():
        return importlib.import_module(f"{module}.{name}")
    return _value(module, name)


def _bare(node: ast.ClassDef) -> ast.ClassDef:
    """Return a class without what computes: fields, validators and properties stay."""
    body: list[ast.stmt] = []
    for each in node.body:
        if isinstance(each, ast.FunctionDef):
            if not each.decorator_list:
                continue
            arguments = [argument.arg for argument in each.args.args]
            bare = [ast.arg(name) for name in arguments]
            each = ast.FunctionDef(
                name=each.name,
                args=ast.arguments([], bare, None, [], [], None, []),
                body=each.body,
                decorator_list=each.decorator_list,
            )
        body.append(each)
    return ast.ClassDef(node.name, node.bases, [], body, [])


def _run(module: str, node: ast.stmt, name: str) -> Any:
    """Return what a statement binds a name to, with the names of its module that it uses."""
    given = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    own = {each.id for each in ast.walk(node)
           if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}  # fmt: skip
    namespace: dict[str, Any] = {"__name__": module}
    for used in given - own:
        try:
            namespace[used] = _value(module, used)
        except AttributeError:  # a builtin, or a local of a function
            continue
    tree = ast.fix_missing_locations(ast.Module([node], []))
    # Our own source, as an import would run it.
    exec(compile(tree, f"<settings of {module}>", "exec", dont_inherit=True), namespace)
    return namespace[name]
