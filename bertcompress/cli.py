"""The command line: parses, calls one function per command, prints. No logic."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from bertcompress import cli_compare, cli_finding
from bertcompress.cli_errors import exit_with
from bertcompress.cli_task import Label, Separator, Text, Train, Validation, own_task
from bertcompress.errors import InputError
from bertcompress.noise import silence
from bertcompress.terminal import err, out

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Makes BERT-family encoders smaller and faster, and says what that cost.",
)

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Local copy of the data set", envvar="BERTCOMPRESS_DATA_DIR"),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub")]
TaskName = Annotated[str | None, typer.Option("--task", help="Name in the catalogue, or a file")]
Runtime = Annotated[str | None, typer.Option(help="torch, onnxruntime, openvino")]
Precision = Annotated[str | None, typer.Option(help="fp32, bf16, int8")]


def main() -> None:
    """Run the command line; an error is one line on standard error and a non-zero status."""
    exit_with(lambda: app(sys.argv[1:] or ["--help"], standalone_mode=False))


def _hush() -> None:
    """Silence the libraries; what we warn of ourselves becomes a line of ours."""
    silence()
    warnings.showwarning = lambda message, *_, **__: err.print(
        f"note: {message}", markup=False, highlight=False, soft_wrap=True
    )


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="Name in the catalogue, or a YAML file")],
    out_folder: Annotated[Path, typer.Option("--out", help="Run folder; must not exist yet")],
    model: Annotated[str | None, typer.Option(help="Instead of the recipe's model")] = None,
    task: TaskName = None,
    train: Train = None,
    validation: Validation = None,
    text: Text = None,
    label: Label = None,
    label_separator: Separator = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's seed")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override, such as methods.1.keep=0.5")
    ] = None,
    data_dir: DataDir = None,
    revision: Revision = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Take nothing from the store")] = False,
) -> None:
    """Compress a model as a recipe says, and leave a run folder with everything."""
    from bertcompress.recipe import Recipe

    chosen = Recipe.load(
        recipe,
        set_ or (),
        model=model,
        task=own_task(task, train, validation, text, label, label_separator),
        seed=seed,
        revision=revision,
    )
    _hush()
    from bertcompress.report import print_report
    from bertcompress.runs import run as go

    main_rank = os.environ.get("RANK", "0") == "0"
    done = go(
        chosen,
        out_folder,
        resume=resume,
        fresh=fresh,
        data_dir=data_dir,
        say=_say if main_rank else _silent,
    )
    if main_rank:
        print_report(done.report, out)
        out.print(f"\n{done.folder}/report.html  the report with its figures", highlight=False)
        out.print(f"{done.folder}/model        loads as its card says", highlight=False)


def _say(line: str) -> None:
    err.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)


def _silent(_: str) -> None:
    return None


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Folder, run, .onnx file, or Hub id")],
    task: TaskName = None,
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
) -> None:
    """Score a model on a task, with 95 % intervals.

    A run stands for the deployment that its verdict is about, unless --runtime or --precision
    choose another.
    """
    chosen = own_task(task, train, validation, text, label, label_separator)
    if chosen is None:
        raise InputError("--task: on which task? `bertcompress list tasks` shows them")
    _hush()
    from bertcompress.evaluation import evaluate as go

    rows = go(
        model,
        chosen,
        runtime=runtime,
        precision=precision,
        data_dir=data_dir,
        limit=limit,
        revision=revision,
        say=_say,
    )
    for row in filter(lambda row: row.alarm, rows):
        out.print(f"{row.split}: {row.alarm}", style="bold red", markup=False, highlight=False)
    table = Table("split", "metric", "score", "95 % interval", "rows", title=model)
    for row in rows:
        mark = " *" if row.headline else ""
        span = "-" if row.ci_low is None else f"{row.ci_low:.4f} to {row.ci_high:.4f}"
        table.add_row(row.split, row.metric + mark, f"{row.value:.4f}", span, str(row.n))
    out.print(table)


@app.command()
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
) -> None:
    """Time models in turn, each in its own process; ratios are to the first.

    A run alone stands for all that it ships; beside other models, for the deployment that its
    verdict is about. --runtime and --precision choose for every model.
    """
    _hush()
    from bertcompress.evaluation import bench as go

    shapes = [(b, t) for b in batch or [1, 8] for t in length or [128]]
    rows = go(
        models,
        runtime=runtime,
        precision=precision,
        shapes=shapes,
        task=task,
        data_dir=data_dir,
        threads=threads,
        seconds=seconds,
        revision=revision,
        say=_say,
    )
    # Paths are longer than a column is wide.
    numbers = {name: str(i) for i, name in enumerate(dict.fromkeys(row.model for row in rows), 1)}
    for name, number in numbers.items():
        out.print(f"{number}  {name}", markup=False, highlight=False, soft_wrap=True)
    table = Table("model", *rows[0].cells)
    for row in rows:
        table.add_row(numbers[row.model], *row.cells.values())
    out.print(table)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Folder, run, or Hub id")],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder to write onnx/ into")],
    revision: Revision = None,
) -> None:
    """Write fp32 and dynamic int8 ONNX files of a model.

    Exits with an error, and without an int8 file, where int8 answers otherwise than fp32.
    """
    _hush()
    from bertcompress.evaluation import export as go

    for each in go(model, out_folder, revision=revision, say=_say):
        size = each.path.stat().st_size / 1e6
        out.print(f"{each.path}  {each.runtime} {each.precision}  {size:.1f} MB", highlight=False)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run, or a folder that it ships")],
    seconds: Annotated[float, typer.Option(min=0, help="Timing per file; 0: none")] = 5.0,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each process")] = None,
) -> None:
    """Check that an artefact computes here what it did where it was made, and how fast.

    Replays 64 recorded inputs on every file; exits with an error where one answers differently.
    """
    _hush()
    from bertcompress.verification import checked
    from bertcompress.verification import verify as go

    rows, warnings = go(folder, seconds=seconds, threads=threads)
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
    checked(rows)


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="Folder, run, or Hub id")],
    length: Annotated[int, typer.Option(help="Tokens per text for counting operations")] = 128,
    revision: Revision = None,
) -> None:
    """Show where a model's parameters, bytes and operations are, layer by layer."""
    _hush()
    from bertcompress.evaluation import inspect as go

    seen = go(model, length=length, revision=revision)
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


app.command("list")(cli_finding.list_)
app.command()(cli_finding.show)
app.command()(cli_compare.compare)
app.command()(cli_finding.check)
app.command()(cli_finding.copy)
app.add_typer(cli_finding.store_app, name="store")


@app.command()
def push(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run")],
    repository: Annotated[str, typer.Argument(help="owner/name on the Hub")],
    private: Annotated[bool, typer.Option("--private", help="Only you see it")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; made where it is missing")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="As a pull request")] = False,
) -> None:
    """Upload a finished run to the Hub in one commit; what is there already is not sent again."""
    _hush()
    from bertcompress.publish.hub import push as go

    url = go(
        run_folder, repository, private=private, revision=revision, create_pr=create_pr, say=_say
    )
    out.print(url, markup=False, highlight=False, soft_wrap=True)


@app.command()
def pull(
    repository: Annotated[str, typer.Argument(help="owner/name on the Hub")],
    folder: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to write it into")],
    revision: Revision = None,
) -> None:
    """Download a repository of the Hub into a new folder, whole or not at all."""
    _hush()
    from bertcompress.publish.hub import pull as go

    out.print(
        f"{go(repository, folder, revision=revision, say=_say)}", highlight=False, soft_wrap=True
    )


@app.command()
def plot(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run")],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder to write the figures into")],
) -> None:
    """Draw the figures of a finished run, as SVG and PNG."""
    from bertcompress.report import plot as go

    for path in go(run_folder, out_folder):
        out.print(f"{path}", highlight=False)
