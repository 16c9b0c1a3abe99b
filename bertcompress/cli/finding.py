"""The part of the command line for finding one's way: list, show, check, copy, store."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from bertcompress.cli.common import Json, command, out, print_json
from bertcompress.errors import InputError, NotFound, OutputError, unknown
from bertcompress.support.catalogue import Kind, list_names, read_yaml, resolve, schema_file

__all__ = ["check", "copy", "list_", "show", "store_app"]

LISTS = ("methods", "recipes", "tasks", "families")


def list_(
    kind: Annotated[str, typer.Argument(help=" | ".join(LISTS))] = "recipes",
    all_: Annotated[bool, typer.Option("--all", help="Research methods too")] = False,
    json_: Json = False,
) -> None:
    """List methods, recipes, tasks or model families."""
    if kind not in LISTS:
        raise InputError(unknown("list", "kind", kind, LISTS))
    if json_:
        print_json([{"name": name, "description": line} for name, line in _lines(kind, all_)])
        return
    table = Table(show_header=False, box=None)
    for name, line in _lines(kind, all_):
        table.add_row(name, line)
    out.print(table)


def _lines(kind: str, all_: bool) -> list[tuple[str, str]]:
    if kind == "methods":
        from bertcompress.methods import METHODS, RESEARCH

        return [(k, line) for k, (_, line) in METHODS.items() if all_ or k not in RESEARCH]
    if kind == "families":
        from bertcompress.shapes.families import FAMILIES

        return [(name, line) for name, (_, line) in FAMILIES.items()]
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
    from bertcompress.methods.settings import settings_class, source_of

    tree = source_of(METHODS[name][0].partition(":")[0])
    # Docstrings have their own line breaks; wrapped once more they would be ragged.
    out.print(ast.get_docstring(tree), markup=False, highlight=False, soft_wrap=True)
    head = f"\nSettings and their defaults, as --set methods.{name}.SETTING=VALUE or in a file"
    out.print(f"{head} (`check FILE` knows their ranges):", highlight=False, soft_wrap=True)
    for field, info in _own_first(settings_class(name)).items():
        line = f"  {field}: {info.description} [{_default(info)}]"
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def _own_first(cls: Any) -> dict[str, Any]:
    """Return the fields of a method, those that it shares with others last."""
    fields: dict[str, Any] = cls.model_fields
    return {name: fields[name] for name in cls.__annotations__ if name in fields} | fields


def _default(info: Any) -> str:
    if info.is_required():
        return "needed"
    default = info.get_default(call_default_factory=True)
    return "null" if default is None else json.dumps(default, ensure_ascii=False)


def check(
    file: Annotated[str, typer.Argument(help="A recipe or task, by name or file")],
    json_: Json = False,
) -> None:
    """Check a recipe or task file without running anything."""
    from bertcompress.data.local import check_local
    from bertcompress.draft import Draft
    from bertcompress.task import Task

    kind = "recipe"
    if file in list_names("tasks"):
        kind = "task"
    elif file not in list_names("recipes"):
        kind = "recipe" if "methods" in read_yaml(resolve("recipes", file)) else "task"
    found: Draft | Task
    if kind == "task":
        found = Task.load(file)
        check_local(found)
    else:
        found = Draft.load(file)
        check_local(found.resolved_task())
    if json_:
        print_json({"file": file, "kind": kind, kind: found})
        return
    out.print(f"{file}: a good {kind}", markup=False, highlight=False)


def copy(
    name: Annotated[str, typer.Argument(help="A recipe or task of the catalogue")],
    target: Annotated[Path, typer.Argument(help="File to write")],
) -> None:
    """Copy a recipe or task of the catalogue to a file of your own."""
    kind: Kind = "tasks" if name in list_names("tasks") else "recipes"
    source = resolve(kind, name)
    target = target.expanduser()
    if target.is_dir():
        target = target / source.name
    if target.exists():
        raise OutputError(f"{target}: exists already")
    if not target.parent.is_dir():
        raise OutputError(f"{target.parent}: no such folder")
    text = source.read_text(encoding="utf-8")
    # The schema that it names is beside the catalogue: from elsewhere only its whole path leads on.
    body = re.sub(r"^# yaml-language-server:.*\n", "", text)
    line = f"# yaml-language-server: $schema={schema_file(kind).as_posix()}\n"
    target.write_text(line + body, encoding="utf-8")
    out.print(f"{target}", highlight=False)


store_app = typer.Typer(help="The store of finished stages.")


@store_app.command("list")
@command
def store_list() -> None:
    """List finished stages that later runs can take."""
    from bertcompress.runs.store import StageStore

    table = Table("stage", "task", "MB", "last used", "key")
    for each in StageStore().list():
        task = str(each.info.get("task", ""))
        used = f"{each.last_used:%Y-%m-%d %H:%M}"
        table.add_row(each.name, task, f"{each.size_mb:.1f}", used, each.key[:12])
    out.print(table)


@store_app.command("clear")
@command
def store_clear(
    older_than_days: Annotated[float | None, typer.Option(help="Only those unused so long")] = None,
) -> None:
    """Remove finished stages from the store."""
    from bertcompress.runs.store import StageStore

    out.print(f"{StageStore().clear(older_than_days)} stages removed", highlight=False)
