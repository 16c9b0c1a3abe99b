"""Write what follows from the table of methods: the table in `docs/methods.md`, the public names.

Adding a method is one file, one test and one line of `METHODS`; these pages follow it.
"""

from __future__ import annotations

import re
from pathlib import Path

from bertcompress.method import Method
from bertcompress.methods import METHODS, method_class

FOLDER = Path(__file__).parent
FACE = FOLDER.parent / "bertcompress" / "__init__.pyi"
VERBS = {"prune_structured": ("prune_heads", "prune_layers", "prune_neurons")}
"""Public names of a method's file besides its class and the function of its key."""
_PAPER = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


def documents() -> dict[Path, str]:
    """Return the content that both files ought to have."""
    page = FOLDER / "methods.md"
    before, _, rest = page.read_text(encoding="utf-8").partition("## Here\n")
    after = rest[rest.index("\n## ") :]
    return {page: f"{before}## Here\n\n{table()}{after}", FACE: face()}


def table() -> str:
    """Return a row for each method."""
    head = ["| key | paper | family | speeds up |", "|---|---|---|---|"]
    return "\n".join([*head, *(_row(key) for key in METHODS)]) + "\n"


def _row(key: str) -> str:
    cls = method_class(key)
    paper = _PAPER.sub(r"[\1](https://arxiv.org/abs/\1)", cls.paper)
    family = METHODS[key][0].split(".")[2]
    return f"| `{key}` | {paper} | {family} | {speed(cls)} |"


def speed(cls: type[Method]) -> str:
    """Return where a method makes a model faster, in words."""
    if cls.leaves == "measurement":
        return "nothing: a measurement"
    if not cls.speeds_up:
        return "nothing by itself" if cls.leaves == "weights" else "nothing: smaller files"
    if cls.leaves == "files":
        return "processors with int8 instructions"
    return "where timing shows it" if cls.speed_needs_timing else "every device"


def face() -> str:
    """Return `__init__.pyi`: the names that are written there by hand, and those of the methods."""
    old = FACE.read_text(encoding="utf-8")
    groups = {
        place: [name.strip() for name in names.strip("()\n ,").split(",")]
        for place, names in re.findall(r"^from \.(\S+) import (\([^)]*\)|.*)$", old, re.MULTILINE)
        if not place.startswith("methods.")
    }
    for key, (place, _) in METHODS.items():
        module, _, cls = place.partition(":")
        # Several methods may be rows of one file.
        groups.setdefault(module.partition(".")[2], []).extend([cls, key, *VERBS.get(key, ())])
    lines = [_imported(place, names) for place, names in sorted(groups.items())]
    every = sorted(
        {"__version__", *(name for names in groups.values() for name in names)}, key=_sort
    )
    listed = "".join(f'    "{name}",\n' for name in every)
    return (
        '"""The public names, and where each one lives."""\n\n'
        + "\n".join(lines)
        + f"\n\n__version__: str\n\n__all__ = [\n{listed}]\n"
    )


def _imported(place: str, names: list[str]) -> str:
    ordered = sorted(names, key=_sort)
    line = f"from .{place} import {', '.join(ordered)}"
    if len(line) <= 100:
        return line
    return f"from .{place} import (\n" + "".join(f"    {name},\n" for name in ordered) + ")"


def _sort(name: str) -> tuple[bool, str]:
    """Classes first, as isort does."""
    return (not name[:1].isupper(), name)
