"""`Recipe` <-> YAML: what to do, refused before any download where it cannot work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from pydantic import Field, SerializeAsAny

from bertcompress.draft import Draft, Measuring
from bertcompress.method import Method
from bertcompress.methods import METHODS, method_class

__all__ = ["Measuring", "Recipe", "recipe_schema"]


class Recipe(Draft):
    """What to do: model, task, methods in order, seed."""

    method_class: ClassVar[Callable[[str, str], Any]] = staticmethod(method_class)

    methods: tuple[SerializeAsAny[Method], ...] = Field(description="Steps, in order")


def recipe_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe file, with every method's settings."""
    schema = Recipe.model_json_schema()
    choices: list[dict[str, Any]] = [{"enum": list(METHODS)}]
    for key, (_, line) in METHODS.items():
        cls = method_class(key)
        inner = cls.model_json_schema()
        schema.setdefault("$defs", {}).update(inner.pop("$defs", {}))
        plain = [{"type": "string"}] if cls.plain_setting else []
        body = {
            "type": "object",
            "properties": {key: {"anyOf": [inner, {"type": "null"}, *plain]}},
            "required": [key],
            "description": line,
        }
        choices.append({**body, "additionalProperties": False})
    schema["properties"]["methods"]["items"] = {"anyOf": choices}
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return schema
