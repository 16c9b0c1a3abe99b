"""The part of the command line for finding one's way: list, show, check, copy, store."""

from __future__ import annotations

import ast
import importlib.util
import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from bertcompress.catalogue import Kind, list_names, read_yaml, resolve
from bertcompress.errors import InputError, NotFound, OutputError, unknown
from bertcompress.terminal import out

__all__ = ["check", "copy", "list_", "show", "store_app"]

LISTS = ("methods", "recipes", "tasks", "families")


def list_(
    kind: Annotated[str, typer.Argument(help=" | ".join(LISTS))] = "recipes",
    all_: Annotated[bool, typer.Option("--all", help="Research methods too")] = False,
) -> None:
    """List methods, recipes, tasks or model families."""
    if kind not in LISTS:
        raise InputError(unknown("list", "kind", kind, LISTS))
    table = Table(show_header=False, box=None)
    for name, line in _lines(kind, all_):
        table.add_row(name, line)
    out.print(table)


def _lines(kind: str, all_: bool) -> list[tuple[str, str]]:
    if kind == "methods":
        from bertcompress.methods import METHODS, RESEARCH

        return [(k, line) for k, (_, line) in METHODS.items() if all_ or k not in RESEARCH]
    if kind == "families":
        from bertcompress.catalogue import FAMILIES

        return [(name, line) for name, line in FAMILIES.items()]
    place: Kind = "recipes" if kind == "recipes" else "tasks"
    key = "description" if place == "recipes" else "dataset"
    return [(name, str(read_yaml(resolve(place, name)).get(key, ""))) for name in list_names(place)]


def show(name: Annotated[str, typer.Argument(help="A method, recipe or task")]) -> None:
    """Show a recipe or task as YAML, or a method's card and settings."""
    from bertcompress.methods import METHODS

    if name in METHODS:
        _show_method(name)
        return
    kinds: tuple[Kind, ...] = ("recipes", "tasks")
    for kind in kinds:
        if name in list_names(kind) or name.endswith((".yaml", ".yml")):
            text = resolve(kind, name).read_text(encoding="utf-8")
            out.print(text, markup=False, end="", soft_wrap=True)
            return
    known = [*METHODS, *list_names("recipes"), *list_names("tasks")]
    raise NotFound(unknown("show", "name", name, known))


def _show_method(name: str) -> None:
    from bertcompress.methods import METHODS

    tree = _tree(METHODS[name][0].partition(":")[0])
    # Docstrings have their own line breaks; wrapped once more they would be ragged.
    out.print(ast.get_docstring(tree), markup=False, highlight=False, soft_wrap=True)
    head = "\nSettings and their defaults (bertcompress check FILE knows their ranges):"
    out.print(head, highlight=False, soft_wrap=True)
    for field, (default, line) in _settings(tree).items():
        out.print(f"  {field}: {line} [{default}]", markup=False, highlight=False, soft_wrap=True)


def _tree(module: str) -> ast.Module:
    """Return a module's source, parsed, without importing it: that would import torch."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def _settings(tree: ast.Module) -> dict[str, tuple[str, str]]:
    """Return a method's fields with default and description; those it inherits come last."""
    found: dict[str, tuple[str, str]] = {}
    trains = False
    for cls in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        trains |= any(ast.unparse(base) == "TrainSettings" for base in cls.bases)
        for node in cls.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call):
                keywords = {each.arg: each.value for each in node.value.keywords}
                text = keywords.get("description")
                if isinstance(text, ast.Constant):
                    default = node.value.args[0] if node.value.args else keywords.get("default")
                    shown = ast.unparse(default) if default else "needed"
                    found[ast.unparse(node.target)] = (shown, str(text.value))
    inherited = _settings(_tree("bertcompress.training.settings")) if trains else {}
    return found | {field: row for field, row in inherited.items() if field not in found}


def check(file: Annotated[str, typer.Argument(help="A recipe or task, by name or file")]) -> None:
    """Check a recipe or task file without running anything."""
    from bertcompress.recipe import Recipe
    from bertcompress.task import Task

    kind = "recipes"
    if file in list_names("tasks"):
        kind = "tasks"
    elif file not in list_names("recipes"):
        kind = "recipes" if "methods" in read_yaml(resolve("recipes", file)) else "tasks"
    if kind == "tasks":
        Task.load(file)
    else:
        Recipe.load(file).resolved_task()
    out.print(f"{file}: a good {kind.removesuffix('s')}", highlight=False)


def copy(
    name: Annotated[str, typer.Argument(help="A recipe or task of the catalogue")],
    target: Annotated[Path, typer.Argument(help="File to write")],
) -> None:
    """Copy a recipe or task of the catalogue to a file of your own."""
    kind: Kind = "tasks" if name in list_names("tasks") else "recipes"
    source = resolve(kind, name)
    if target.is_dir():
        target = target / source.name
    if target.exists():
        raise OutputError(f"{target}: exists already")
    if not target.parent.is_dir():
        raise OutputError(f"{target.parent}: no such folder")
    shutil.copyfile(source, target)
    out.print(f"{target}", highlight=False)


store_app = typer.Typer(help="The store of finished stages.")


@store_app.command("list")
def store_list() -> None:
    """List finished stages that later runs can take."""
    from bertcompress.store import StageStore

    table = Table("stage", "task", "MB", "last used", "key")
    for each in StageStore().list():
        task = str(each.info.get("task", ""))
        used = f"{each.last_used:%Y-%m-%d %H:%M}"
        table.add_row(each.name, task, f"{each.size_mb:.1f}", used, each.key[:12])
    out.print(table)


@store_app.command("clear")
def store_clear(
    older_than_days: Annotated[float | None, typer.Option(help="Only those unused so long")] = None,
) -> None:
    """Remove finished stages from the store."""
    from bertcompress.store import StageStore

    out.print(f"{StageStore().clear(older_than_days)} stages removed", highlight=False)
