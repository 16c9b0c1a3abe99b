"""Every error this package raises on purpose.

    BertCompressError
    |-- InputError                what the user gave cannot be used; the CLI exits with status 2
    |   |-- RecipeError           an unknown key, an order that cannot work, an impossible shape
    |   |-- TaskError             a task description that does not hold together
    |   |-- DataError             rows, columns, labels or files of a data set
    |   |-- ModelError            a model that cannot be used for this
    |   |   |-- UnsupportedFamily not one of the encoder families known here
    |   |   `-- CheckpointError   missing, unexpected, truncated or pickled weights
    |   |-- NotFound              a name, path or repository that does not exist
    |   `-- OutputError           the place to write to exists already, is read-only or full
    |-- MissingExtra              an optional dependency; the message names the pip command
    `-- WorkerError               a helper process died or answered nonsense

`shapes/` travels with the model and raises its own `ShapeError(ValueError)`; the CLI treats it as
an `InputError`. Messages say where, what, what is allowed, and the nearest allowed value.
`Notice(UserWarning)` is what this package warns of.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from bertcompress.wording import NAME, plain

__all__ = [
    "BertCompressError",
    "CheckpointError",
    "DataError",
    "InputError",
    "MissingExtra",
    "ModelError",
    "NotFound",
    "Notice",
    "OutputError",
    "RecipeError",
    "TaskError",
    "UnsupportedFamily",
    "WorkerError",
    "few",
    "nearest",
    "unknown",
]

SHOWN = 10
"""Values that a list of what is allowed shows at most."""


class BertCompressError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1

    def __init__(self, *words: object) -> None:
        super().__init__(*(plain(each, lines=True) for each in words))


class Notice(UserWarning):
    """Something that the user should know, and that nobody can decide for them."""

    def __init__(self, *words: object) -> None:
        super().__init__(*(plain(each, lines=True) for each in words))


class InputError(BertCompressError):
    """What the user gave cannot be used."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe that cannot run."""


class TaskError(InputError):
    """A task description that does not hold together."""


class DataError(InputError):
    """Rows, columns, labels or files of a data set."""


class ModelError(InputError):
    """A model that cannot be used for what was asked."""


class UnsupportedFamily(ModelError):
    """Not one of the encoder families known here."""


class CheckpointError(ModelError):
    """Weights that are missing, unexpected, truncated or pickled."""


class NotFound(InputError):
    """A name, path or repository that does not exist."""


class OutputError(InputError):
    """The place to write to exists already, is read-only or full."""


class WorkerError(BertCompressError):
    """A helper process died or answered nonsense."""


class MissingExtra(BertCompressError):
    """An optional dependency is not installed."""

    exit_code = 2

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed; it comes with: pip install 'bertcompress[{extra}]'"
        )


def few(names: Iterable[str], shown: int = SHOWN) -> str:
    """Return names in one line: the first ten, and how many there are in all.

    >>> few(["a", "b", "c"], shown=2)
    'a, b, ... (3 in all)'
    """
    listed = list(names)
    if len(listed) <= shown:
        return ", ".join(listed)
    return f"{', '.join(listed[:shown])}, ... ({len(listed)} in all)"


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return the words that propose the nearest allowed name; empty where none is near."""
    near = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'? " if near else ""


def unknown(where: str, kind: str, name: str, allowed: Iterable[str]) -> str:
    """Return the one sentence for a name that is not known: where, what, nearest, allowed.

    >>> unknown("recipes/x.yaml", "field", "kep", ["keep", "seed"])
    "recipes/x.yaml: unknown field 'kep'; did you mean 'keep'? Allowed: keep, seed."
    """
    options, name = list(allowed), plain(name, NAME)
    hint = nearest(name, options)
    return f"{where}: unknown {kind} '{name}'; {hint}Allowed: {few(options) or 'none'}."
