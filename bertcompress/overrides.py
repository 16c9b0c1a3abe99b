"""`--set methods.finetune.epochs=1`: one value of a recipe replaced, in its plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from bertcompress.errors import RecipeError, few, nearest

__all__ = ["override"]


def override(raw: dict[str, Any], text: str) -> None:
    """Set one value in plain recipe data, in place: `methods.finetune.epochs=1`, or `methods.0.`.

    A method is named by its key or by its place; the key below the place is understood. Raises
    RecipeError for what leads nowhere, and for a key that is there more than once.
    """
    path, separator, value = text.partition("=")
    if not separator or not path:
        raise RecipeError(
            f"--set {text}: must look like methods.1.keep=0.5, methods.finetune.epochs=1 or seed=3"
        )
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise RecipeError(f"--set {text}: '{value}' is not a YAML value") from None
    target: Any = raw
    *parents, last = path.split(".")
    for part in parents:
        target = _inside(target, part, text)
    if isinstance(target, list):
        target[_index(target, last, text)] = parsed
    else:
        target[last] = parsed


def _inside(target: Any, part: str, text: str) -> Any:
    if isinstance(target, list):
        return _settings(target, _index(target, part, text), text)
    if part in target and not isinstance(target[part], list | dict):
        raise RecipeError(f"--set {text}: '{part}' is a single value, nothing is below it")
    return target.setdefault(part, {})


def _settings(methods: list[Any], i: int, text: str) -> dict[str, Any]:
    """Return the settings of a method in plain recipe data, which get their place if need be."""
    key = _key(methods[i])
    if key is None:
        raise RecipeError(f"--set {text}: entry {i} is no method with settings: {methods[i]!r}")
    if isinstance(methods[i], str):
        methods[i] = {key: {}}
    if methods[i][key] is None:
        methods[i][key] = {}
    if not isinstance(methods[i][key], dict):
        raise RecipeError(f"--set {text}: '{key}' is a single value, nothing is below it")
    found: dict[str, Any] = methods[i][key]
    return found


def _key(item: Any) -> str | None:
    if isinstance(item, Mapping) and len(item) == 1:
        return str(next(iter(item)))
    return item if isinstance(item, str) else None


def _index(target: list[Any], part: str, text: str) -> int:
    """Return the place of an entry that is named by its number, or by the key of its method."""
    if part.isdecimal() and int(part) < len(target):
        return int(part)
    keys = [_key(item) for item in target]
    places = [i for i, key in enumerate(keys) if key == part]
    if len(places) > 1:
        choices = " or ".join(f"methods.{i}" for i in places)
        raise RecipeError(f"--set {text}: {part} is there {len(places)} times; say {choices}")
    if places:
        return places[0]
    numbers = f"allowed: 0 to {len(target) - 1}"
    if part.isdecimal():
        raise RecipeError(f"--set {text}: no entry '{part}'; {numbers}")
    names = list(dict.fromkeys(key for key in keys if key is not None))
    raise RecipeError(
        f"--set {text}: no entry '{part}'; {nearest(part, names)}{numbers}, or by name: "
        f"{few(names) or 'none'}"
    )
