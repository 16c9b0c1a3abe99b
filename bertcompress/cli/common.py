"""What the commands share: consoles, `-q` and `-v`, `--json`, options that mean the same."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from bertcompress.support.display import Display, above_the_bar, shown
from bertcompress.support.terminal import err, out

__all__ = [
    "DataDir",
    "Json",
    "Precision",
    "Revision",
    "Runtime",
    "TaskName",
    "Test",
    "Volume",
    "command",
    "err",
    "hush",
    "out",
    "print_json",
    "say",
    "volume",
]

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Local copy of the data set", envvar="BERTCOMPRESS_DATA_DIR"),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub")]
TaskName = Annotated[str | None, typer.Option("--task", help="Name in the catalogue, or a file")]
Test = Annotated[str | None, typer.Option("--test", help="A file of rows to judge on, alone")]
Runtime = Annotated[str | None, typer.Option(help="torch, onnxruntime, openvino")]
Precision = Annotated[str | None, typer.Option(help="fp32, bf16, int8")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout")]


class Volume:
    """How much is said on standard error."""

    quiet = False
    """Warnings and errors alone."""
    verbose = False
    """Log records of the libraries too, and where an error comes from."""


volume = Volume()


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Warnings and errors alone")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Log records too, and where an error comes from")
]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Return a command that takes `-q` and `-v` besides its own options."""

    @functools.wraps(function)
    def loud_or_not(*args: Any, quiet: bool = False, verbose: bool = False, **options: Any) -> None:
        volume.quiet, volume.verbose = quiet, verbose
        function(*args, **options)

    hints = get_type_hints(function, include_extras=True)
    given = inspect.signature(function).parameters.values()
    own = [each.replace(annotation=hints[each.name]) for each in given]
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in (("quiet", Quiet), ("verbose", Verbose))
    ]
    shown: Any = loud_or_not
    shown.__signature__ = inspect.Signature([*own, *more])
    shown.__annotations__ = {**hints, "quiet": Quiet, "verbose": Verbose}
    del shown.__wrapped__
    return loud_or_not


def say(line: str) -> None:
    """Print one line about what is going on."""
    if not volume.quiet:
        with above_the_bar():
            err.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)


def hush() -> None:
    """Silence the libraries; what we warn of ourselves becomes a line of ours."""
    from bertcompress.support.quiet import silence

    if volume.quiet:
        shown.set(Display(progress=False))
    if volume.verbose:
        handler = logging.StreamHandler(sys.stderr)
        handler.addFilter(lambda record: record.name != "bertcompress")  # those are said already
        shape = "%(asctime)s %(name)s: %(message)s"
        logging.basicConfig(level=logging.INFO, format=shape, handlers=[handler])
    else:
        silence()
    warnings.showwarning = _note


def _note(message: Any, *_: Any, **__: Any) -> None:
    with above_the_bar():
        err.print(f"note: {message}", markup=False, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output: models and paths as their fields, NaN as null."""
    from pydantic_core import to_json

    text = to_json(value, indent=2, inf_nan_mode="null", serialize_unknown=True).decode()
    sys.stdout.write(f"{text}\n")
