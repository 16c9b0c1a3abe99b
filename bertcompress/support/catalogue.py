"""Finds `recipes/` and `tasks/`, in a checkout or an installed wheel, and reads YAML strictly."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from bertcompress.errors import InputError, NotFound, few, nearest

__all__ = [
    "Kind",
    "beside",
    "folder",
    "list_names",
    "read_yaml",
    "resolve",
    "schema_file",
]

Kind = Literal["recipes", "tasks"]

_SUFFIXES = (".yaml", ".yml")


@cache
def folder(kind: Kind) -> Path:
    """Return the folder of the shipped files; raises NotFound where the installation lacks it."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "_catalogue" / kind, package.parent / kind):
        if candidate.is_dir():
            return candidate
    raise NotFound(f"the shipped {kind} are missing beside {package}; reinstall bertcompress")


def list_names(kind: Kind) -> list[str]:
    """Return the names of the shipped files, sorted: `glue/mrpc` for `tasks/glue/mrpc.yaml`."""
    root = folder(kind)
    return sorted(p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.yaml"))


def resolve(kind: Kind, name_or_path: str | Path) -> Path:
    """Return the file behind a shipped name or a path; raises NotFound with the nearest name."""
    given = os.fspath(name_or_path)
    path = Path(given).expanduser()
    if given.endswith(_SUFFIXES) or (path.is_file() and given not in list_names(kind)):
        if path.is_file():
            return path
        what = "is a folder, not a file" if path.is_dir() else "no such file"
        raise NotFound(f"{given}: {what}")
    names = list_names(kind)
    if given in names:
        return folder(kind) / f"{given}.yaml"
    raise NotFound(
        f"unknown {kind[:-1]} '{given}'; {nearest(given, names)}Shipped: {few(names)}. "
        f"A file of your own ends in .yaml"
    )


def beside(kind: Kind, given: str, file: Path) -> str:
    """Return the path of a file that another file names, where it lies beside that one.

    Anything else stays as it was given: a shipped name, an absolute path, one from the working
    folder.
    """
    path = Path(given).expanduser()
    if given in list_names(kind) or path.is_absolute():
        return given
    there = (file.parent / path).absolute()
    return str(there) if there.is_file() else given


def schema_file(kind: Kind) -> Path:
    """Return the JSON schema of a recipe or a task, in a checkout or an installed wheel."""
    place = folder(kind).parent
    inside = place / "schemas" if place.name == "_catalogue" else place / "docs"
    return inside / f"{kind.removesuffix('s')}.schema.json"


MOST_BYTES = 10_000_000
MOST_VALUES = 1_000_000
"""Of a recipe or task; one that lists 100,000 classes has a tenth of that."""


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key = self.construct_object(key_node, deep=True)
            try:
                repeated = key in seen
            except TypeError:  # an unhashable key: the parent reports it with its line
                continue
            if repeated:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key}' is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; raises InputError with file and line or NotFound."""
    path = Path(path)
    text = _decode(path)
    try:
        # A subclass of SafeLoader: it builds plain data only.
        content = yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: {_problem(error, text)}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise InputError(f"{path}: nested too deep") from None
    if _more_than(content, MOST_VALUES):
        raise InputError(f"{path}: more than {MOST_VALUES:,} values, aliases written out")
    if not isinstance(content, dict):
        kind = "empty" if content is None else f"a {type(content).__name__}"
        raise InputError(f"{path}: expected 'key: value' lines, the file is {kind}")
    for key in content:
        if not isinstance(key, str):
            raise InputError(f"{path}: the key {key!r} is a {type(key).__name__}; quote it")
    return content


def _more_than(content: Any, most: int) -> bool:
    """Return whether plain data has more values than that, an alias written out."""
    waiting, seen = [content], 1
    while waiting and seen <= most:
        value = waiting.pop()
        if isinstance(value, dict | list | tuple):
            seen += len(value)
            waiting.extend(value.values() if isinstance(value, dict) else value)
    return seen > most


def _decode(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            raw = stream.read(MOST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"{path}: no such file") from None
    except IsADirectoryError:
        raise NotFound(f"{path}: is a folder, not a file") from None
    except PermissionError:
        raise InputError(f"{path}: may not be read (permission denied)") from None
    if len(raw) > MOST_BYTES:
        raise InputError(f"{path}: more than {MOST_BYTES / 1e6:.0f} MB, which is no YAML of ours")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}:{line}: not UTF-8 (byte 0x{raw[error.start]:02x} at position {error.start}); "
            "save the file as UTF-8"
        ) from None


def _problem(error: yaml.MarkedYAMLError, text: str) -> str:
    mark = error.problem_mark
    if mark is not None and "\\t" in repr(text.splitlines()[mark.line : mark.line + 1]):
        return "a tab where YAML wants spaces; indent with spaces"
    return error.problem or str(error)
