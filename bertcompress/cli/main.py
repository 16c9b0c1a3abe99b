"""The command line: assembles the commands, and turns an error into one line and a status."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bertcompress import __version__
from bertcompress.cli import compare as cli_compare
from bertcompress.cli import finding as cli_finding
from bertcompress.cli import models as cli_models
from bertcompress.cli.common import Revision, command, hush, out, say, volume
from bertcompress.cli.errors import exit_with
from bertcompress.cli.run import RunCommand, run
from bertcompress.runs.folder import check_into

__all__ = ["app", "main"]

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Makes BERT-family encoders smaller and faster, and says what that cost.",
)


def main() -> None:
    """Run the command line; an error is one line on standard error and a non-zero status."""
    volume.quiet = volume.verbose = False
    exit_with(
        lambda: app(sys.argv[1:] or ["--help"], standalone_mode=False), lambda: volume.verbose
    )


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"bertcompress {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _all(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version")
    ] = False,
) -> None:
    """Makes BERT-family encoders smaller and faster, and says what that cost."""


app.command(cls=RunCommand)(command(run))
for _each in ("evaluate", "bench", "verify", "inspect"):
    app.command()(command(getattr(cli_models, _each)))


@app.command()
@command
def export(
    model: Annotated[str, typer.Argument(help="Folder, run, or Hub id")],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder to write onnx/ into")],
    pooled: Annotated[
        bool, typer.Option("--pooled", help="Vectors of an embedder, pooled inside the graph")
    ] = False,
    revision: Revision = None,
) -> None:
    """Write fp32 and dynamic int8 ONNX files of a model.

    Exits with an error, and without an int8 file, where int8 answers otherwise than fp32.
    """
    check_into(out_folder)
    hush()
    from bertcompress.verbs.export import export as go

    for each in go(model, out_folder, pooled=pooled, revision=revision, say=say):
        size = each.path.stat().st_size / 1e6
        out.print(f"{each.path}  {each.runtime} {each.precision}  {size:.1f} MB", highlight=False)


app.command("list")(command(cli_finding.list_))
for _each in ("show", "check", "copy"):
    app.command()(command(getattr(cli_finding, _each)))
app.command()(command(cli_compare.compare))
app.add_typer(cli_finding.store_app, name="store")


@app.command()
@command
def push(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run")],
    repository: Annotated[str, typer.Argument(help="owner/name on the Hub")],
    private: Annotated[bool, typer.Option("--private", help="Only you see it")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; made where it is missing")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="As a pull request")] = False,
) -> None:
    """Upload a finished run to the Hub in one commit; what is there already is not sent again."""
    hush()
    from bertcompress.publish.push import push as go

    url = go(
        run_folder, repository, private=private, revision=revision, create_pr=create_pr, say=say
    )
    out.print(url, markup=False, highlight=False, soft_wrap=True)


@app.command()
@command
def pull(
    repository: Annotated[str, typer.Argument(help="owner/name on the Hub")],
    folder: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to write it into")],
    revision: Revision = None,
) -> None:
    """Download a repository of the Hub into a new folder, whole or not at all."""
    hush()
    from bertcompress.publish.push import pull as go

    out.print(
        f"{go(repository, folder, revision=revision, say=say)}", highlight=False, soft_wrap=True
    )


@app.command()
@command
def plot(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run")],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder to write the figures into")],
) -> None:
    """Draw the figures of a finished run, as SVG and PNG."""
    check_into(out_folder)
    from bertcompress.report import plot as go

    for path in go(run_folder, out_folder):
        out.print(f"{path}", highlight=False)
