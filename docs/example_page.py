"""Write `docs/example.md`, the report of a run, and its pictures in `docs/images/`.

The run is `make demo` on a machine where nothing else ran; its report lies in `docs/example/`.
`python docs/generate.py` writes the page; `python docs/example_page.py` draws the pictures again,
from the report of another run where one is given: `python docs/example_page.py runs/quickstart`.
"""

from __future__ import annotations

import io
import re
import shutil
import sys
from pathlib import Path
from typing import get_args

from rich.console import Console

from bertcompress.report import Report
from bertcompress.report.drawing import Theme
from bertcompress.report.plots import figure_bytes, score_vs_latency
from bertcompress.report.report import print_report

FOLDER = Path(__file__).parent
STORED = FOLDER / "example" / "report.json"
IMAGES = FOLDER / "images"
WIDTH = 96
HEAD = """# A report

What `make demo` leaves as `report.md`, here with one of its figures. It is the recipe `quickstart`
on the model and the task that come with the package; [report.md](report.md) says what each field
means.

![Accuracy against milliseconds, before and after](images/score_vs_latency-light.svg)

"""


def printed() -> str:
    """Return the last lines that the run printed, as a block of text for the README."""
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None)
    print_report(Report.load(STORED), console)
    lines = console.file.getvalue().splitlines()
    rule = max(n for n, line in enumerate(lines) if line.startswith("──"))
    return "\n".join(["```text", *(line.rstrip() for line in lines[rule + 1 :]), "```"])


def page(report: Report) -> str:
    """Return the page: the report, its headings one level down."""
    return HEAD + re.sub(r"^#", "##", report.to_markdown(), flags=re.MULTILINE)


def draw(report: Report) -> list[Path]:
    """Draw score against latency on the task's own lengths, for light and for dark pages."""
    stages = [
        stage.model_copy(
            update={
                "deployments": [
                    row.model_copy(
                        update={"latency": [t for t in row.latency if t.length == "task"]}
                    )
                    for row in stage.deployments
                ]
            }
        )
        for stage in report.stages
    ]
    own = report.model_copy(update={"stages": stages})
    IMAGES.mkdir(exist_ok=True)
    paths = []
    for theme in get_args(Theme):
        paths.append(IMAGES / f"score_vs_latency-{theme}.svg")
        paths[-1].write_bytes(figure_bytes(score_vs_latency(own, theme), "svg"))
    return paths


def documents() -> dict[Path, str]:
    """Return the content that the page ought to have."""
    return {FOLDER / "example.md": page(Report.load(STORED))}


if __name__ == "__main__":
    if sys.argv[1:]:
        shutil.copy(Path(sys.argv[1]) / "report.json", STORED)
    draw(Report.load(STORED))
