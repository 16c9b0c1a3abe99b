"""`evaluate`, `bench`, `verify` and `inspect`: what is known of models that exist."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from bertcompress.cli.common import (
    DataDir,
    Json,
    Precision,
    Revision,
    Runtime,
    TaskName,
    Test,
    hush,
    out,
    print_json,
    say,
)
from bertcompress.cli.task import Label, Separator, Text, Train, Validation, check_task, judged_on
from bertcompress.errors import InputError, unknown

__all__ = ["bench", "evaluate", "inspect", "verify"]


def evaluate(
    model: Annotated[str, typer.Argument(help="Folder, run, .onnx file, or Hub id")],
    task: TaskName = None,
    test: Test = None,
    train: Train = None,
    validation: Validation = None,
    text: Text = None,
    label: Label = None,
    label_separator: Separator = None,
    runtime: Runtime = None,
    precision: Precision = None,
    limit: Annotated[int | None, typer.Option(help="At most so many rows")] = None,
    data_dir: DataDir = None,
    revision: Revision = None,
    json_: Json = False,
) -> None:
    """Score a model on a task, with 95 % intervals.

    A run knows its task, and stands for the deployment that its verdict is about, unless --runtime
    or --precision choose another. --test judges on a file of rows: of a run with its columns, of
    another model with --text and --label.
    """
    _check_runtime(runtime)
    chosen = judged_on(model, task, test, train, validation, text, label, label_separator)
    hush()
    from bertcompress.verbs.evaluate import evaluate as go

    rows = go(
        model,
        chosen,
        test=test if chosen is None else None,
        runtime=runtime,
        precision=precision,
        data_dir=data_dir,
        limit=limit,
        revision=revision,
        say=say,
    )
    if json_:
        print_json(rows)
        return
    for row in filter(lambda row: row.alarm, rows):
        out.print(f"{row.split}: {row.alarm}", style="bold red", markup=False, highlight=False)
    table = Table("split", "metric", "score", "95 % interval", "rows", title=model)
    for row in rows:
        mark = " *" if row.headline else ""
        span = "-" if row.ci_low is None else f"{row.ci_low:.4f} to {row.ci_high:.4f}"
        table.add_row(row.split, row.metric + mark, f"{row.value:.4f}", span, str(row.n))
    out.print(table)


def bench(
    models: Annotated[list[str], typer.Argument(help="Folders, runs, .onnx files or Hub ids")],
    batch: Annotated[list[int] | None, typer.Option(help="Texts at a time")] = None,
    length: Annotated[list[int] | None, typer.Option(help="Tokens per text")] = None,
    task: TaskName = None,
    runtime: Runtime = None,
    precision: Precision = None,
    threads: Annotated[int | None, typer.Option(help="Default: the physical cores")] = None,
    seconds: Annotated[float, typer.Option(help="Time spent on each shape")] = 20.0,
    data_dir: DataDir = None,
    revision: Revision = None,
    json_: Json = False,
) -> None:
    """Time models in turn, each in its own process; ratios are to the first.

    A run alone stands for all that it ships; beside other models, for the deployment that its
    verdict is about. --runtime and --precision choose for every model.
    """
    _check_runtime(runtime)
    if task is not None:
        check_task(task)
    hush()
    from bertcompress.verbs.bench import bench as go
    from bertcompress.verbs.bench import search_words

    rows = go(
        models,
        runtime=runtime,
        precision=precision,
        shapes=[(b, t) for b in batch or [1, 8] for t in length or [128]],
        task=task,
        data_dir=data_dir,
        threads=threads,
        seconds=seconds,
        revision=revision,
        say=say,
    )
    if json_:
        print_json(rows)
        return
    # Paths are longer than a column is wide.
    numbers = {name: str(i) for i, name in enumerate(dict.fromkeys(row.model for row in rows), 1)}
    for name, number in numbers.items():
        out.print(f"{number}  {name}", markup=False, highlight=False, soft_wrap=True)
    table = Table("model", *rows[0].cells)
    for row in rows:
        table.add_row(numbers[row.model], *row.cells.values())
    out.print(table)
    for words in search_words(rows):
        out.print(words, markup=False, highlight=False, soft_wrap=True)


def _check_runtime(name: str | None) -> None:
    """Raise InputError for a runtime that there is not."""
    from bertcompress.runtimes import RUNTIMES

    if name is not None and name not in RUNTIMES:
        raise InputError(unknown("--runtime", "runtime", name, RUNTIMES))


def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run, or a folder that it ships")],
    seconds: Annotated[float, typer.Option(min=0, help="Timing per file; 0: none")] = 5.0,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each process")] = None,
    json_: Json = False,
) -> None:
    """Check that an artefact computes here what it did where it was made, and how fast.

    Replays 64 recorded inputs on every file; exits with an error where one answers differently.
    """
    hush()
    from bertcompress.verbs.verify import checked
    from bertcompress.verbs.verify import verify as go

    rows, warnings = go(folder, seconds=seconds, threads=threads)
    if json_:
        print_json({"files": rows, "warnings": warnings})
    else:
        _print_verified(folder, rows, warnings)
    checked(rows)


def _print_verified(folder: Path, rows: list[Any], warnings: list[str]) -> None:
    table = Table("file", "runtime", "computes the same", "ms here", "ms there", title=str(folder))
    table.columns[0].overflow = "fold"
    for row in rows:
        verdict = {True: "yes", False: "NO", None: "not run"}[row.passes]
        speeds = (row.latency_ms, row.latency_there_ms)
        cells = ("-" if ms is None else f"{ms:.2f}" for ms in speeds)
        table.add_row(row.file, f"{row.runtime} {row.precision}", f"{verdict}: {row.words}", *cells)
    out.print(table)
    tokens = {row.tokens for row in rows if row.tokens}
    if tokens:
        out.print(f"One text of {tokens.pop()} tokens, median.", highlight=False)
    for line in warnings:
        out.print(f"note: {line}", highlight=False)


def inspect(
    model: Annotated[str, typer.Argument(help="Folder, run, or Hub id")],
    length: Annotated[int, typer.Option(help="Tokens per text for counting operations")] = 128,
    revision: Revision = None,
    json_: Json = False,
) -> None:
    """Show where a model's parameters, bytes and operations are, layer by layer."""
    hush()
    from bertcompress.verbs.inspect import inspect as go

    seen = go(model, length=length, revision=revision)
    if json_:
        fields = ("parameters", "rows", "loads_in")
        print_json({"model": model, **{name: getattr(seen, name) for name in fields}})
        return
    table = Table("part", "heads", "neurons", "parameters", "MB", "million MACs", title=model)
    for row in seen.rows:
        table.add_row(
            row.name,
            "" if row.heads is None else str(row.heads),
            "" if row.neurons is None else str(row.neurons),
            f"{row.params:,}",
            f"{row.bytes / 1e6:.2f}",
            "" if row.macs is None else f"{row.macs / 1e6:,.1f}",
        )
    table.add_section()
    total = sum(row.macs or 0 for row in seen.rows) / 1e6
    size = sum(row.bytes for row in seen.rows) / 1e6
    table.add_row("all", "", "", f"{seen.parameters.total:,}", f"{size:.2f}", f"{total:,.1f}")
    out.print(table)
    out.print(seen.loads_in, highlight=False)
