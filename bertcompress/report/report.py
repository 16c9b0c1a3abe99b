"""`Report`: rows of measurements to JSON, Markdown, HTML and the terminal."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from bertcompress.errors import InputError, NotFound
from bertcompress.files import read_json
from bertcompress.report.cells import cost_line
from bertcompress.report.html import render
from bertcompress.report.rows import VERSION, Reading, ReportData, Stage
from bertcompress.report.tables import Table, tables
from bertcompress.report.verdict import comparable, judge
from bertcompress.store import write_atomically
from bertcompress.wording import markdown

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Report", "markdown_table", "plot", "print_report", "report_schema"]


class Report(ReportData):
    """What came out of a run: one row of measurements per stage, and the verdict."""

    @classmethod
    def of(
        cls,
        stages: Sequence[Stage],
        *,
        recipe: Mapping[str, Any],
        task: Mapping[str, Any],
        environment: Mapping[str, Any],
        seeds: int = 1,
        data: Reading | None = None,
    ) -> Report:
        """Return the report of these stages with its verdict. `seeds`: behind each figure, >= 1."""
        return cls(
            recipe=dict(recipe),
            task=dict(task),
            environment=dict(environment),
            data=data or Reading(),
            stages=comparable(stages, task),
            verdict=judge(
                stages,
                seeds,
                environment.get("busy_cores"),
                environment.get("disturbed_rounds"),
                task,
                data,
            ),
        )

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read `report.json`, or that of a run folder; raises InputError where it does not fit."""
        given = Path(path).expanduser()
        file = given / "report.json" if given.is_dir() else given
        try:
            raw = read_json(file)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"{file}: no such report") from None
        except InputError as error:
            raise InputError(f"{file}: not a report: {error}") from None
        version = raw.get("version") if isinstance(raw, dict) else None
        if isinstance(version, int) and version > VERSION:
            raise InputError(
                f"{file}: report version {version} is newer than {VERSION}, the newest known here: "
                "upgrade bertcompress"
            )
        try:
            report = cls.model_validate_json(json.dumps(raw))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise InputError(f"{file}: not a report: {place}: {first['msg']}") from error
        if report.verdict.baseline not in {stage.name for stage in report.stages}:
            raise InputError(f"{file}: not a report: its verdict names a stage that is not there")
        return report

    def save(self, path: str | Path) -> Path:
        """Write `report.json` (the path may be the run folder) whole or not at all."""
        file = Path(path) / "report.json" if Path(path).is_dir() else Path(path)
        with write_atomically(file) as temporary:
            temporary.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return file

    def to_markdown(self) -> str:
        """Return the report as GitHub-flavoured Markdown."""
        red = [f"**{markdown(line)}**" for line in self.verdict.red]
        parts = [f"# {markdown(self.title)}"]
        if red:
            parts += ["> [!CAUTION]\n" + "\n".join(f"> - {line}" for line in red)]
        parts += _bullets(self.verdict.sentences)
        if self.verdict.warnings:
            parts += ["**Read with care**", *_bullets(self.verdict.warnings)]
        for table in tables(self):
            parts += [
                f"## {table.title}",
                markdown_table(table),
                *([table.note] if table.note else []),
            ]
        parts += [cost_line(self), *_bullets(self.notes)]
        return "\n\n".join(parts) + "\n"

    def to_html(self) -> str:
        """Return the report as one self-contained page: no script, nothing fetched."""
        return render(self)

    def __str__(self) -> str:
        """Return what a terminal shows."""
        from bertcompress.terminal import Terminal

        console = Terminal(
            width=100, no_color=True, record=True, file=io.StringIO(), force_jupyter=False
        )
        print_report(self, console)
        return console.export_text()


def plot(run: str | Path, out: str | Path) -> list[Path]:
    """Draw the figures of a finished run (or a `report.json`) into `out`; return the files.

    Each as SVG and PNG. Raises NotFound and InputError where there is no report.
    """
    from bertcompress.report.plots import save_figures

    return save_figures(Report.load(run), Path(out).expanduser())


def report_schema() -> dict[str, Any]:
    """Return the JSON schema of `report.json`."""
    return Report.model_json_schema()


def _bullets(sentences: Sequence[str]) -> list[str]:
    return ["\n".join(f"- {markdown(sentence)}" for sentence in sentences)] if sentences else []


def markdown_table(table: Table) -> str:
    """Return one table as GitHub-flavoured Markdown."""
    rule = ["---:" if column.number else "---" for column in table.columns]
    lines = [[column.name for column in table.columns], rule, *table.rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    return markdown(text.replace("\\", "\\\\")).replace("|", "\\|")


def print_report(report: Report, console: Console) -> None:
    """Print what is wrong, the story, the deployments of the last stage, cost and verdict."""
    verdict = report.verdict
    console.print(report.title, style="bold", markup=False, highlight=False)
    _print_lines(console, "!", verdict.red, "bold red", whole=True)
    for table in tables(report):
        if table.brief:
            console.print(_rich_table(table, console.width))
    console.print(cost_line(report), highlight=False)
    _print_lines(console, "!", verdict.red, "bold red", whole=True)  # tables scroll by
    _print_lines(console, "-", verdict.sentences, "" if verdict.red else "green")
    _print_lines(console, "!", (*verdict.warnings, *report.notes), "yellow")


def _print_lines(
    console: Console, mark: str, lines: Sequence[str], style: str, whole: bool = False
) -> None:
    """Print lines as they are; the mark is coloured, or the whole line."""
    from rich.text import Text

    for line in lines:
        text = Text(f"{mark} {line}")
        text.stylize(style, 0, len(text) if whole else 1)
        console.print(text, highlight=False)


def _rich_table(table: Table, width: int) -> Any:
    from rich import box
    from rich.table import Table as RichTable

    shown = RichTable(
        title=table.title,
        title_justify="left",
        caption=table.note,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    keep = [i for i, column in enumerate(table.columns) if column.brief]
    texts = [[table.columns[i].name, *(row[i] for row in table.rows)] for i in keep]
    for index, column_width in zip(keep, _widths(texts, width - 2 * len(keep) - 1), strict=True):
        column = table.columns[index]
        shown.add_column(
            column.name, justify="right" if column.number else "left", width=column_width
        )
    for row in table.rows:
        shown.add_row(*(row[index] for index in keep))
    return shown


def _widths(columns: Sequence[Sequence[str]], room: int) -> list[int]:
    """Return widths that fit the room where they can: cells wrap between words only."""
    widths = [max(map(len, texts)) for texts in columns]
    least = [max(len(word) for text in texts for word in text.split()) for texts in columns]
    while sum(widths) > room and widths != least:
        slack = [width - floor for width, floor in zip(widths, least, strict=True)]
        widths[slack.index(max(slack))] -= 1
    return widths
