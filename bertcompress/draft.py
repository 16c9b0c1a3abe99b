"""`Draft`: a recipe as it is written, checked before torch is there.

Names, values, order and task of a recipe need no model. Here they are read and refused with the
settings of each method alone; `Recipe` adds the methods themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from bertcompress.errors import RecipeError, few, nearest, unknown
from bertcompress.method import Need
from bertcompress.methods import METHODS, as_written_now
from bertcompress.methods.settings import settings_class
from bertcompress.support.catalogue import beside, read_yaml, resolve
from bertcompress.support.notebook import pairs_html, short
from bertcompress.task import Task

__all__ = ["Draft", "Measuring", "check_order", "override"]


Logger = Literal["tensorboard", "wandb", "mlflow"]


class Measuring(BaseModel):
    """What is measured beside the score."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    latency: bool = Field(True, description="Time the deployments, interleaved with the baseline's")
    shapes: tuple[tuple[int, int], ...] = Field(
        ((1, 128), (8, 128)), description="Pairs of batch size and length in tokens"
    )
    task_lengths: bool = Field(True, description="Time the task's own texts too, batch 1 and 8")
    threads: int | None = Field(None, ge=1, description="Threads; empty: the physical cores")
    seconds: float = Field(20.0, gt=0, description="Time spent on each shape, seconds")
    controls: bool = Field(
        True,
        description="Repeat each method without what it adds, at equal data and steps; beside an "
        "embedder, static word vectors",
    )
    against: tuple[str, ...] = Field(
        (),
        description="Smaller models of others to hold beside the result, by Hub id or folder: "
        "scored, sized and timed on the same rows, never shipped",
    )

    @field_validator("against", mode="before")
    @classmethod
    def _one_model(cls, value: Any) -> Any:
        """Take one name as a list of one."""
        return [value] if isinstance(value, str) else value or ()

    @field_validator("against")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        twice = [name for i, name in enumerate(value) if name in value[:i]]
        if twice:
            raise ValueError(f"'{twice[0]}' stands there twice")
        if any(not name.strip() for name in value):
            raise ValueError("an empty name; give a Hub id or a folder")
        return value


class Draft(BaseModel):
    """What to do, as it is written: `methods` holds their settings alone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method_class: ClassVar[Callable[[str, str], Any]] = staticmethod(settings_class)
    """Returns the class that a method's settings are read into, by key and place."""

    description: str = Field("", description="One line for `bertcompress list recipes`")
    model: str = Field("embedded:minilm-l6", description="Hub id, folder, run, or embedded: id")
    revision: str | None = Field(None, description="Commit or tag of the model on the Hub")
    task: str | Task = Field("embedded", description="Name in the catalogue, a file, or a task")
    methods: tuple[Any, ...] = Field(description="Steps, in order")
    teacher: str | None = Field(
        None, description="Model to distil from; empty: the model before the first cut"
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="Of everything drawn")
    limit: int | None = Field(
        None, ge=8, description="At most so many rows of each split, for a quick look"
    )
    max_length: int | None = Field(None, ge=4, description="Tokens per text; empty: the task's")
    report_to: tuple[Logger, ...] = Field(
        (), description="Loggers of `transformers.Trainer` that each training reports to"
    )
    measure: Measuring = Field(default_factory=lambda: Measuring(), description="What is measured")

    @field_validator("report_to", mode="before")
    @classmethod
    def _one_logger(cls, value: Any) -> Any:
        """Take one name as a list of one, and `none` as the Trainer does."""
        names = [value] if isinstance(value, str) else value or ()
        return [] if list(names) == ["none"] else names

    @field_validator("methods", mode="before")
    @classmethod
    def _read_methods(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise ValueError("methods must be a list")
        return tuple(
            _method(item, f"methods[{i}]", cls.method_class) for i, item in enumerate(value)
        )

    @model_validator(mode="after")
    def _order(self) -> Self:
        check_order(self.methods, self.teacher)
        if self.model in self.measure.against:
            raise RecipeError(
                f"measure.against: '{self.model}' is the recipe's own model, which every result is "
                "compared with already; name other models"
            )
        return self

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Iterable[str] = (), **fields: Any) -> Self:
        """Return a recipe of the catalogue or a file, with overrides: `methods.finetune.epochs=1`.

        `fields` replace top-level fields where they are not None. A task that the file names is
        looked for beside that file first. Raises RecipeError that names the file, the place, what
        is wrong, and the nearest that is allowed.
        """
        path = resolve("recipes", str(name_or_path))
        raw = read_yaml(path)
        if isinstance(raw.get("task"), str):
            raw["task"] = beside("tasks", raw["task"], path)
        raw.update({key: value for key, value in fields.items() if value is not None})
        for text in overrides:
            override(raw, text)
        return cls.parse(raw, where=str(name_or_path))

    @classmethod
    def parse(cls, raw: Mapping[str, Any], where: str = "recipe") -> Self:
        """Return a recipe from plain data; raises RecipeError in the words of `load`."""
        _check_names(raw, cls.model_fields, where)
        if isinstance(raw.get("measure"), Mapping):
            _check_names(raw["measure"], Measuring.model_fields, f"{where}: measure")
        try:
            return cls(**raw)
        except ValidationError as error:
            raise RecipeError(f"{where}: {_first(error)}") from None
        except RecipeError as error:
            raise RecipeError(f"{where}: {error}") from None

    def resolved_task(self) -> Task:
        """Return the task itself; raises TaskError or NotFound."""
        task = self.task if isinstance(self.task, Task) else Task.load(self.task)
        return task.model_copy(update={"max_length": self.max_length}) if self.max_length else task

    def __repr__(self) -> str:
        methods = few([method.key for method in self.methods], 12)
        return f"<Recipe: {short(self.model)} on {self._task_name}; {methods}; seed {self.seed}>"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        methods = [
            (f"methods.{i} {method.key}", method.model_dump(exclude_defaults=True) or "defaults")
            for i, method in enumerate(self.methods)
        ]
        own = {"model", "task", "methods", "description", "measure"}
        plain = self.model_dump(mode="json", exclude_defaults=True, exclude=own)
        title = self.description or "Recipe"
        pairs = [("model", self.model), ("task", self._task_name), *methods, *plain.items()]
        return pairs_html(title, pairs)

    @property
    def _task_name(self) -> str:
        return short(self.task if isinstance(self.task, str) else self.task.name)

    def to_yaml(self) -> str:
        """Return the YAML that `load` reads back to an equal recipe."""
        plain = self.model_dump(mode="json", exclude_defaults=True, exclude={"methods"})
        plain["model"], plain["seed"] = self.model, self.seed
        if isinstance(self.task, str):
            plain["task"] = self.task
        plain["methods"] = [
            {method.key: knobs} if knobs else method.key
            for method in self.methods
            for knobs in [method.model_dump(mode="json", exclude_defaults=True)]
        ]
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def check_order(methods: Sequence[Any], teacher: str | None = None) -> None:
    """Raise RecipeError for an order of methods that cannot work."""
    if not methods:
        raise RecipeError(f"methods: empty; allowed: {few(METHODS)}")
    shaped = False
    for i, method in enumerate(methods):
        later = [k for k, each in enumerate(methods) if k > i and each.leaves != "measurement"]
        if method.leaves == "files" and later:
            raise RecipeError(
                f"methods[{later[0]}].{methods[later[0]].key}: comes after {method.key}, whose "
                f"files nothing can change any more; put {method.key} last"
            )
        if Need.CUT in method.requires and not shaped and not teacher:
            raise RecipeError(
                f"methods[{i}].{method.key}: nothing was cut before it, so the teacher would be "
                "the model itself; put a method that changes the shape before it, or name a teacher"
            )
        before = [each.key for each in methods[:i] if each.leaves_layers_uneven]
        if Need.EVEN_LAYERS in method.requires and before:
            raise RecipeError(
                f"methods[{i}].{method.key}: {before[0]} before it leaves layers of different "
                f"shapes, which cannot share weights; put {method.key} first"
            )
        sparse = [each.key for each in methods[:i] if each.leaves_zeros]
        if method.leaves == "shape" and sparse:
            raise RecipeError(
                f"methods[{i}].{method.key}: {sparse[0]} before it leaves weights at zero, which a "
                f"change of shape would lose; put {method.key} first"
            )
        _check_replaced(methods, i)
        shaped = shaped or method.leaves == "shape"


def _check_replaced(methods: Sequence[Any], i: int) -> None:
    """Raise RecipeError where step `i` and a step that goes on with another model do not go."""
    method = methods[i]
    if method.replaces_model:
        unused = [m.key for m in methods[:i] if not m.trains_head and m.leaves != "measurement"]
        if unused:
            raise RecipeError(
                f"methods[{i}].{method.key}: goes on with another model, so what {unused[0]} "
                f"before it made would be lost; put {method.key} before it"
            )
        return
    before = [each.key for each in methods[:i] if each.replaces_model]
    if before and method.requires & {Need.ORIGINAL, Need.BASELINE}:
        raise RecipeError(
            f"methods[{i}].{method.key}: looks at the model as it came, and {before[0]} before it "
            f"goes on with another one; put {method.key} before {before[0]}"
        )


def _method(item: Any, where: str, find: Callable[[str, str], Any]) -> Any:
    if isinstance(item, BaseModel):
        return item
    key: Any = item
    knobs: Any = {}
    if isinstance(item, Mapping):
        if len(item) != 1:
            raise RecipeError(f"{where}: one method per list item, got {sorted(map(str, item))}")
        key, knobs = next(iter(item.items()))
    if isinstance(knobs, str) and (named := find(str(key), where).plain_setting):
        knobs = {named: knobs}
    if knobs is not None and not isinstance(knobs, Mapping):
        raise RecipeError(f"{where}.{key}: settings must be a mapping, got {knobs!r}")
    key, knobs = as_written_now(str(key), knobs or {})
    cls = find(key, where)
    _check_names(knobs, cls.model_fields, f"{where}.{key}")
    for name, value in knobs.items():
        if isinstance(value, Mapping):
            _check_inside(cls, name, value, f"{where}.{key}")
    try:
        return cls(**knobs)
    except ValidationError as error:
        raise RecipeError(f"{where}.{key}: {_first(error, nested=False)}") from None


def _check_inside(cls: Any, name: str, given: Mapping[str, Any], where: str) -> None:
    """Raise RecipeError for a setting with fields of its own, one of which is wrong.

    Of a setting that may also be a word or a number pydantic would complain that it is neither.
    """
    kinds = [cls.model_fields[name].annotation, *get_args(cls.model_fields[name].annotation)]
    inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    if len(inner) != 1:
        return
    _check_names(given, inner[0].model_fields, f"{where}.{name}")
    try:
        inner[0](**given)
    except ValidationError as error:
        raise RecipeError(f"{where}.{name}: {_first(error, nested=False)}") from None


def _check_names(given: Mapping[str, Any], fields: Iterable[str], where: str) -> None:
    for name in given:
        if name not in fields:
            raise RecipeError(unknown(where, "field", str(name), fields))


def _first(error: ValidationError, nested: bool = True) -> str:
    """Return the first complaint of pydantic in one line: place, what was given, what is wrong.

    `nested`: whether fields have fields; else what follows a field names one of its types.
    """
    one = error.errors(include_url=False)[0]
    parts = [*one["loc"][:1], *(each for each in one["loc"][1:] if nested or isinstance(each, int))]
    place = ".".join(map(str, parts))
    message = one["msg"].removeprefix("Value error, ")
    given = one.get("input")
    shown = f" (got {given!r})" if isinstance(given, str | int | float | bool) else ""
    return f"{place}: {message}{shown}" if place else message


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
