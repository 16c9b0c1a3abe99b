"""Write `docs/reference/`: what a method is and takes, and the public names of the package.

Methods and their settings come from `METHODS` and the classes it names. The pages of public names
hold directives; `make docs` puts the docstrings there. Run it after adding either:
`python docs/generate.py`.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

from method_rows import face, speed
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

import bertcompress
from bertcompress.methods import METHODS, method_class
from bertcompress.methods.settings import source_of
from bertcompress.training import TrainSettings

FOLDER = Path(__file__).parent / "reference"
GROUPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("running", "Recipes and runs", ("recipe", "task", "data", "runs")),
    ("reports", "Reports", ("report",)),
    ("verbs", "Models that exist", ("verbs", "publish", "models", "shapes", "runtimes")),
    ("functions", "Methods as functions", ("methods",)),
    ("training", "Your own training", ("engines", "training")),
)
"""A page, its title, and the rooms of which it shows public names."""
BAR = "\\|"
FIELDS = ("Recipe", "Task")
"""Classes that are files, too: a table of their fields stands below their docstring."""
METHODS_HEAD = """# Methods and their settings

From `METHODS` and the classes that it names; `bertcompress show KEY` prints the same, and the card
of the method. What is planned, and the whole reading list: [methods.md](../methods.md).
"""
INDEX_HEAD = """# Reference

The public names of `bertcompress`, from their docstrings, which `make docs` puts here. Methods by
key, with all settings: [methods.md](methods.md). Fields of files: [report.md](../report.md), and
the schemas of [recipes](../recipe.schema.json), [tasks](../task.schema.json) and
[reports](../report.schema.json).
"""


def public_names() -> dict[str, str]:
    """Return the module of each public name, relative to the package, in order."""
    tree = ast.parse(face())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def name_pages() -> dict[Path, str]:
    """Return a page for each group of public names; raises ValueError for a room without one."""
    rooms = {room for _, _, rooms in GROUPS for room in rooms}
    names = public_names()
    if missing := {module.partition(".")[0] for module in names.values()} - rooms:
        raise ValueError(f"add to GROUPS: {sorted(missing)}")
    pages, index = {}, [INDEX_HEAD]
    for page, title, rooms_here in GROUPS:
        mine = {n: m for n, m in names.items() if m.partition(".")[0] in rooms_here}
        parts = [f"# {title}"]
        for name, module in mine.items():
            parts.append(f"::: bertcompress.{module}.{name}")
            if page == "functions" and name[0].isupper():
                parts[-1] += "\n    options: {members: false}"
            if name in FIELDS:
                cls = getattr(bertcompress, name)
                parts.append(settings(cls, tuple(cls.model_fields)))
        pages[FOLDER / f"{page}.md"] = "\n\n".join(parts) + "\n"
        index.append(f"- [{title}]({page}.md): {', '.join(f'`{name}`' for name in mine)}")
    pages[FOLDER / "index.md"] = "\n".join(index) + "\n"
    return pages


def methods_page() -> str:
    """Return the page of all methods."""
    lines = ["| key | what it does | tier | speeds up |", "|---|---|---|---|"]
    for key, (_, what) in METHODS.items():
        cls = method_class(key)
        lines.append(f"| [`{key}`](#{key}) | {what} | {cls.tier} | {speed(cls)} |")
    parts = [METHODS_HEAD.rstrip(), "\n".join(lines), *map(method_section, METHODS)]
    shared = settings(TrainSettings, tuple(TrainSettings.model_fields))
    parts += ["## Settings of every training", "For what trains, beside its own.", shared]
    return "\n\n".join(parts) + "\n"


def method_section(key: str) -> str:
    """Return what a method is, its sources, and its settings."""
    cls = method_class(key)
    card = ast.get_docstring(source_of(METHODS[key][0].partition(":")[0])) or ""
    own = [name for name in cls.model_fields if not _shared(cls, name)]
    own.sort(key=lambda name: name not in cls.__annotations__)
    parts = [f"## {key}", card, f"Source: {cls.paper}.", settings(cls, tuple(own)) if own else ""]
    if len(own) < len(cls.model_fields):
        also = "It also takes" if own else "It takes"
        parts.append(f"{also} [the settings of every training](#settings-of-every-training).")
    return "\n\n".join(part for part in parts if part)


def _shared(cls: Any, name: str) -> bool:
    """Whether a setting is that of every training, at the same default."""
    field, of_all = cls.model_fields[name], TrainSettings.model_fields.get(name)
    return of_all is not None and (field.description, field.default) == (
        of_all.description,
        of_all.default,
    )


def settings(cls: Any, names: tuple[str, ...]) -> str:
    """Return a table of settings: name, values, default, meaning."""
    shapes = cls.model_json_schema()["properties"]
    lines = ["| setting | values | default | meaning |", "|---|---|---|---|"]
    for name in names:
        field, shape = cls.model_fields[name], shapes[name]
        shown = "needed" if field.is_required() else f"`{_default(field)}`"
        cells = [f"`{name}`", values(shape), shown, str(field.description)]
        lines.append(f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |")
    return "\n".join(lines)


def _default(field: FieldInfo) -> str:
    default = to_jsonable_python(field.get_default(call_default_factory=True))
    return json.dumps(default, ensure_ascii=False)


def values(shape: dict[str, Any]) -> str:
    """Return what a setting may be, in words, from its JSON schema."""
    if "anyOf" in shape:
        return " or ".join(values(option) for option in shape["anyOf"])
    if "$ref" in shape:
        return f"`{shape['$ref'].rpartition('/')[2]}`"
    if "enum" in shape:
        return ", ".join(f"`{value}`" for value in shape["enum"])
    if "const" in shape:
        return f"`{shape['const']}`"
    if shape.get("type") == "array":
        return f"list of {values(shape.get('items', {}))}"
    bounds = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    limits = [f"{sign} {shape[key]}" for key, sign in bounds.items() if key in shape]
    return " ".join([str(shape.get("type", "any")), ", ".join(limits)]).strip()


def documents() -> dict[Path, str]:
    """Return the content that every page of reference ought to have."""
    return {**name_pages(), FOLDER / "methods.md": methods_page()}
