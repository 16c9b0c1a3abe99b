"""`compare`: several finished runs beside each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bertcompress.support.terminal import out

__all__ = ["compare"]


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders of finished runs")],
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="New folder for page, table and figure")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON")] = False,
) -> None:
    """Show several runs of one task in one table, one page and one figure.

    Score with its interval against milliseconds and MB; what another run dominates is grey.
    """
    from bertcompress.report.comparison import compare as go
    from bertcompress.report.comparison import print_comparison

    made = go(*runs, out=out_folder)
    if as_json:
        out.print_json(json.dumps(made.rows))
        return
    print_comparison(made, out)
    if out_folder is not None:
        text = f"{out_folder}/comparison.html  the same with its figure"
        out.print(text, soft_wrap=True)
