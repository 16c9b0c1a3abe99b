"""The command line: parses, calls one function per command, prints. No logic."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bertcompress.catalogue import Kind, list_names, read_yaml, resolve
from bertcompress.errors import BertCompressError, InputError, NotFound, OutputError, unknown

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Makes BERT-family encoders smaller and faster, and says what that cost.",
)
out = Console()
err = Console(stderr=True)

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Local copy of the data set", envvar="BERTCOMPRESS_DATA_DIR"),
]
Revision = Annotated[str | None, typer.Option(help="Commit or tag of the model on the Hub")]
TaskName = Annotated[str | None, typer.Option("--task", help="Name in the catalogue, or a file")]
Train = Annotated[str | None, typer.Option(help="Your own training rows: file, folder, Hub id")]
Validation = Annotated[str | None, typer.Option(help="Your own validation rows")]
Text = Annotated[list[str] | None, typer.Option(help="Column of the text; twice for a pair")]
Label = Annotated[str | None, typer.Option(help="Column of the label; left out: unlabelled")]


def main() -> None:
    """Run the command line; an error is one line on standard error and a non-zero status."""
    try:
        app(standalone_mode=False)
    except BertCompressError as error:
        _fail(str(error), error.exit_code)
    except (typer.Exit, typer.Abort) as error:
        sys.exit(getattr(error, "exit_code", 130))
    except KeyboardInterrupt:
        _fail("interrupted; add --resume to go on", 130)
    except MemoryError:
        _fail("out of memory; try a smaller batch_size, or gradient_checkpointing", 2)
    except Exception as error:
        known = _known(error)
        if known is None:
            raise
        _fail(known, 2)


def _known(error: Exception) -> str | None:
    """Return the words for errors of libraries that are the user's to mend, else None."""
    import click

    if isinstance(error, click.ClickException):
        return error.format_message()
    if type(error).__name__ == "ShapeError":
        return str(error)
    if isinstance(error, RuntimeError) and "memory" in str(error).lower():
        return f"out of memory; try a smaller batch_size, or gradient_checkpointing ({error})"
    if isinstance(error, OSError) and error.errno in (28, 30, 122):
        return f"{error.filename or 'disk'}: {error.strerror}"
    return None


def _fail(message: str, status: int) -> None:
    err.print(f"error: {message}", markup=False, highlight=False, soft_wrap=True)
    sys.exit(status)


def quiet() -> None:
    """Keep libraries from talking over our own lines; what matters comes as errors."""
    import logging
    import warnings

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import datasets
    import transformers

    verbosity: Any = transformers.utils.logging

    verbosity.set_verbosity_error()
    verbosity.disable_progress_bar()
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    for name in ("nncf", "openvino", "onnxruntime", "torch.onnx", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)


def _task(
    task: str | None,
    train: str | None,
    validation: str | None,
    text: list[str] | None,
    label: str | None,
) -> Any:
    """Return a task name, or a task made of the user's own files, or None."""
    from bertcompress.task import Task

    if train is None:
        for flag, value in (("--validation", validation), ("--text", text), ("--label", label)):
            if value:
                raise InputError(f"{flag}: goes with --train, which is missing")
        return task
    if task is not None:
        raise InputError("--task and --train: give one of them")
    if not text:
        raise InputError("--text: which column holds the text? It goes with --train")
    return Task.from_files(train, validation, text=text, label=label)


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
        task=_task(task, train, validation, text, label),
        seed=seed,
        revision=revision,
    )
    quiet()
    from bertcompress.report import print_report
    from bertcompress.runs import run as go

    main_rank = os.environ.get("RANK", "0") == "0"
    done = go(
        chosen,
        out_folder,
        resume=resume,
        fresh=fresh,
        data_dir=data_dir,
        say=(lambda line: err.print(f"[dim]{line}[/]", highlight=False)) if main_rank else _silent,
    )
    if main_rank:
        print_report(done.report, out)
        out.print(f"\n{done.folder}/report.html  the report with its figures", highlight=False)
        out.print(f"{done.folder}/model        loads as its card says", highlight=False)


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
    runtime: Annotated[str | None, typer.Option(help="torch, onnxruntime, openvino")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many rows")] = None,
    data_dir: DataDir = None,
    revision: Revision = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code")] = False,
) -> None:
    """Score a model on a task, with 95 % intervals."""
    chosen = _task(task, train, validation, text, label)
    if chosen is None:
        raise InputError("--task: on which task? `bertcompress list tasks` shows them")
    quiet()
    from bertcompress.evaluation import evaluate as go

    rows = go(
        model,
        chosen,
        runtime=runtime,
        data_dir=data_dir,
        limit=limit,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    table = Table("split", "metric", "score", "95 % interval", "rows", title=model)
    for row in rows:
        mark = " *" if row.headline else ""
        span = f"{row.ci_low:.4f} to {row.ci_high:.4f}"
        table.add_row(row.split, row.metric + mark, f"{row.value:.4f}", span, str(row.n))
    out.print(table)


@app.command()
def bench(
    models: Annotated[list[str], typer.Argument(help="Folders, runs, .onnx files or Hub ids")],
    batch: Annotated[list[int] | None, typer.Option(help="Texts at a time")] = None,
    length: Annotated[list[int] | None, typer.Option(help="Tokens per text")] = None,
    task: TaskName = None,
    threads: Annotated[int | None, typer.Option(help="Default: the physical cores")] = None,
    seconds: Annotated[float, typer.Option(help="Time spent on each shape")] = 20.0,
    data_dir: DataDir = None,
) -> None:
    """Time models in turn, each in its own process; ratios are to the first."""
    quiet()
    from bertcompress.evaluation import bench as go

    shapes = [(b, t) for b in batch or [1, 8] for t in length or [128]]
    timings = go(
        models, shapes=shapes, task=task, data_dir=data_dir, threads=threads, seconds=seconds
    )
    table = Table("model", "runtime", "batch", "tokens", "p50 ms", "p95 ms", "per s", "speed-up")
    for model, timing in zip(models, timings, strict=True):
        for row in timing.latency:
            ratio = row.speedup_vs_torch
            table.add_row(
                model,
                f"{timing.runtime} {timing.precision}",
                str(row.batch),
                str(row.length),
                f"{row.p50_ms:.2f}",
                f"{row.p95_ms:.2f}",
                f"{row.throughput_per_s:.0f}",
                "-" if ratio is None else f"{ratio:.2f}x ± {row.spread:.0%}",
            )
    out.print(table)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Folder, run, or Hub id")],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder to write onnx/ into")],
    revision: Revision = None,
) -> None:
    """Write fp32 and dynamic int8 ONNX files of a model."""
    quiet()
    from bertcompress.evaluation import export as go

    for each in go(model, out_folder, revision=revision):
        size = each.path.stat().st_size / 1e6
        out.print(f"{each.path}  {each.runtime} {each.precision}  {size:.1f} MB", highlight=False)


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="Folder, run, or Hub id")],
    length: Annotated[int, typer.Option(help="Tokens per text for counting operations")] = 128,
    revision: Revision = None,
) -> None:
    """Show where a model's parameters, bytes and operations are, layer by layer."""
    quiet()
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


LISTS = ("methods", "recipes", "tasks", "families")


@app.command("list")
def list_(
    kind: Annotated[str, typer.Argument(help=" | ".join(LISTS))] = "recipes",
    all_: Annotated[bool, typer.Option("--all", help="Research methods too")] = False,
) -> None:
    """List methods, recipes, tasks or model families."""
    if kind not in LISTS:
        raise InputError(unknown("list", "kind", kind, LISTS))
    table = Table(show_header=False, box=None)
    for name, line in _lines(kind, all_):
        table.add_row(name, line)
    out.print(table)


def _lines(kind: str, all_: bool) -> list[tuple[str, str]]:
    if kind == "methods":
        from bertcompress.methods import METHODS, RESEARCH

        return [(k, line) for k, (_, line) in METHODS.items() if all_ or k not in RESEARCH]
    if kind == "families":
        from bertcompress.catalogue import FAMILIES

        return [(name, line) for name, line in FAMILIES.items()]
    place: Kind = "recipes" if kind == "recipes" else "tasks"
    key = "description" if place == "recipes" else "dataset"
    return [(name, str(read_yaml(resolve(place, name)).get(key, ""))) for name in list_names(place)]


@app.command()
def show(name: Annotated[str, typer.Argument(help="A method, recipe or task")]) -> None:
    """Show a recipe or task as YAML, or a method's card and settings."""
    from bertcompress.methods import METHODS

    if name in METHODS:
        _show_method(name)
        return
    kinds: tuple[Kind, ...] = ("recipes", "tasks")
    for kind in kinds:
        if name in list_names(kind) or name.endswith((".yaml", ".yml")):
            out.print(resolve(kind, name).read_text(encoding="utf-8"), markup=False, end="")
            return
    known = [*METHODS, *list_names("recipes"), *list_names("tasks")]
    raise NotFound(unknown("show", "name", name, known))


def _show_method(name: str) -> None:
    import ast
    import importlib.util

    from bertcompress.methods import METHODS

    spec = importlib.util.find_spec(METHODS[name][0].partition(":")[0])
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    out.print(ast.get_docstring(ast.parse(source)), markup=False)
    out.print("\nSettings (bertcompress check FILE knows their ranges):", markup=False)
    for field, line in _settings(ast.parse(source)):
        out.print(f"  {field}: {line}", markup=False, highlight=False)


def _settings(tree: Any) -> list[tuple[str, str]]:
    """Return a method's fields with their descriptions, read from its source without importing it."""
    import ast

    return [
        (node.target.id, str(keyword.value.value))
        for cls in tree.body
        if isinstance(cls, ast.ClassDef)
        for node in cls.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and isinstance(node.value, ast.Call)
        for keyword in node.value.keywords
        if keyword.arg == "description" and isinstance(keyword.value, ast.Constant)
    ]


@app.command()
def check(file: Annotated[str, typer.Argument(help="A recipe or task, by name or file")]) -> None:
    """Check a recipe or task file without running anything."""
    from bertcompress.recipe import Recipe
    from bertcompress.task import Task

    kind = "recipes"
    if file in list_names("tasks"):
        kind = "tasks"
    elif file not in list_names("recipes"):
        kind = "recipes" if "methods" in read_yaml(resolve("recipes", file)) else "tasks"
    if kind == "tasks":
        Task.load(file)
    else:
        Recipe.load(file).resolved_task()
    out.print(f"{file}: a good {kind.removesuffix('s')}", highlight=False)


@app.command()
def copy(
    name: Annotated[str, typer.Argument(help="A recipe or task of the catalogue")],
    target: Annotated[Path, typer.Argument(help="File to write")],
) -> None:
    """Copy a recipe or task of the catalogue to a file of your own."""
    kind: Kind = "tasks" if name in list_names("tasks") else "recipes"
    source = resolve(kind, name)
    if target.is_dir():
        target = target / source.name
    if target.exists():
        raise OutputError(f"{target}: exists already")
    if not target.parent.is_dir():
        raise OutputError(f"{target.parent}: no such folder")
    shutil.copyfile(source, target)
    out.print(f"{target}", highlight=False)


store_app = typer.Typer(no_args_is_help=True, help="The store of finished stages.")
app.add_typer(store_app, name="store")


@store_app.command("list")
def store_list() -> None:
    """List finished stages that later runs can take."""
    from bertcompress.store import StageStore

    table = Table("stage", "task", "MB", "last used", "key")
    for each in StageStore().list():
        task = str(each.info.get("task", ""))
        used = f"{each.last_used:%Y-%m-%d %H:%M}"
        table.add_row(each.name, task, f"{each.size_mb:.1f}", used, each.key[:12])
    out.print(table)


@store_app.command("clear")
def store_clear(
    older_than_days: Annotated[float | None, typer.Option(help="Only those unused so long")] = None,
) -> None:
    """Remove finished stages from the store."""
    from bertcompress.store import StageStore

    out.print(f"{StageStore().clear(older_than_days)} stages removed", highlight=False)
