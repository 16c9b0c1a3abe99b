"""The part of the command line for finding one's way: list, show, check, copy, store."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bertcompress.catalogue import Kind, list_names, read_yaml, resolve
from bertcompress.errors import InputError, NotFound, OutputError, unknown

__all__ = ["check", "copy", "list_", "show", "store_app"]

out = Console()

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
            out.print(resolve(kind, name).read_text(encoding="utf-8"), markup=False, end="")
            return
    known = [*METHODS, *list_names("recipes"), *list_names("tasks")]
    raise NotFound(unknown("show", "name", name, known))


def _show_method(name: str) -> None:
    import ast
    import importlib.util

    from bertcompress.methods import METHODS

    spec = importlib.util.find_spec(METHODS[name][0].partition(":")[0])
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    out.print(ast.get_docstring(ast.parse(source)), markup=False)
    out.print("\nSettings (bertcompress check FILE knows their ranges):", markup=False)
    for field, line in _settings(ast.parse(source)):
        out.print(f"  {field}: {line}", markup=False, highlight=False)


def _settings(tree: Any) -> list[tuple[str, str]]:
    """Return a method's fields and their descriptions, read from the source, not imported."""
    import ast

    return [
        (node.target.id, str(keyword.value.value))
        for cls in tree.body
        if isinstance(cls, ast.ClassDef)
        for node in cls.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and isinstance(node.value, ast.Call)
        for keyword in node.value.keywords
        if keyword.arg == "description" and isinstance(keyword.value, ast.Constant)
    ]


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
