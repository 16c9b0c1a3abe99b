"""`Report`: rows of measurements to JSON, Markdown, HTML and the terminal."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from bertcompress.deployment import Layout
from bertcompress.errors import InputError, NotFound
from bertcompress.report.head import Tile, head
from bertcompress.report.html import head_html, render
from bertcompress.report.rows import VERSION, DeploymentRow, Opponent, Reading, ReportData, Stage
from bertcompress.report.tables import Table, tables
from bertcompress.report.verdict import comparable, judge
from bertcompress.support.files import write_atomically
from bertcompress.support.reading import read_json
from bertcompress.wording import markdown

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "Report",
    "as_printed",
    "markdown_table",
    "markdown_tiles",
    "plot",
    "print_lines",
    "print_report",
    "report_schema",
    "rich_table",
]


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
        opponents: Sequence[Opponent] = (),
    ) -> Report:
        """Return the report of these stages with its verdict. `seeds`: behind each figure, >= 1."""
        return cls(
            recipe=dict(recipe),
            task=dict(task),
            environment=dict(environment),
            data=data or Reading(),
            stages=comparable(stages, task),
            opponents=tuple(opponents),
            verdict=judge(
                stages,
                seeds,
                environment.get("busy_cores"),
                environment.get("disturbed_rounds"),
                task,
                data,
                opponents,
            ),
        )

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read `report.json`, or that of a run folder; raises InputError where it does not fit."""
        given = Path(path).expanduser()
        file = Layout(given).report if given.is_dir() else given
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
        file = Layout(Path(path)).report if Path(path).is_dir() else Path(path)
        with write_atomically(file) as temporary:
            temporary.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return file

    def to_markdown(self) -> str:
        """Return the report as GitHub-flavoured Markdown."""
        top = head(self)
        parts = [f"# {markdown(top.title)}", *([markdown(top.about)] if top.about else [])]
        if top.red:
            red = [f"**{markdown(line)}**" for line in top.red]
            parts += ["> [!CAUTION]\n" + "\n".join(f"> - {line}" for line in red)]
        parts += [markdown_tiles(top.tiles), *_bullets(top.deploy)]
        if top.warnings:
            parts += ["**Read with care**", *_bullets(top.warnings)]
        parts += ["**In words**", *_bullets([*top.sentences, top.cost])]
        for table in tables(self):
            parts += [
                f"## {table.title}",
                markdown_table(table),
                *([table.note] if table.note else []),
            ]
        if self.notes:
            parts += ["## Remarks on the stages", *_bullets(self.notes)]
        return "\n\n".join(parts) + "\n"

    def to_html(self) -> str:
        """Return the report as one self-contained page: no script, nothing fetched."""
        return render(self)

    def to_pandas(self) -> Any:
        """Return one row for each deployment and stage as a pandas DataFrame.

        Columns are the fields of `report.json` with the same names and units; the headline score
        is `score`, times are `ms_<batch>_<length>`. Needs pandas.
        """
        import pandas

        return pandas.DataFrame(
            [_flat(stage, row) for stage in self.stages for row in stage.deployments]
        )

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{tile.name.split(',')[0].lower()}: {tile.value}" for tile in head(self).tiles
        )
        return f"<Report of {self.title}: {shown}>"

    def __str__(self) -> str:
        """Return what a terminal shows."""
        return as_printed(lambda console: print_report(self, console))

    def _repr_html_(self) -> str:
        return head_html(head(self))


def as_printed(show: Callable[[Console], None]) -> str:
    """Return as text what is printed to a terminal, without colours and at its width."""
    from bertcompress.support.terminal import Terminal

    width = shutil.get_terminal_size((100, 24)).columns
    console = Terminal(
        width=max(width, 60), no_color=True, record=True, file=io.StringIO(), force_jupyter=False
    )
    show(console)
    return console.export_text()


def _flat(stage: Stage, row: DeploymentRow) -> dict[str, Any]:
    """Return the figures of one deployment under one name each."""
    plain = row.model_dump(mode="json", exclude={"scores", "latency"})
    score = row.headline
    scores = {
        "metric": score.metric if score else None,
        "score": score.value if score else None,
        "score_low": score.ci_low if score else None,
        "score_high": score.ci_high if score else None,
    }
    shape = {name: getattr(stage, name) for name in ("params", "encoder_params", "macs")}
    times = {f"ms_{time.batch}_{time.length}": time.batch_ms for time in row.latency}
    named = {"stage": stage.name, "method": stage.method, "baseline": stage.baseline}
    return {**named, **plain, **scores, **shape, **times}


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
    return _markdown(
        [[column.name for column in table.columns], rule, *(map(_cell, row) for row in table.rows)]
    )


def markdown_tiles(tiles: Sequence[Tile]) -> str:
    """Return the tiles of a head as a table of one row: figures large, what they are of below."""
    cells = [f"**{_cell(t.value)}**<br>{_cell(t.detail)}".removesuffix("<br>") for t in tiles]
    return _markdown([[_cell(tile.name) for tile in tiles], ["---"] * len(tiles), cells])


def _markdown(lines: Iterable[Iterable[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    return markdown(text.replace("\\", "\\\\")).replace("|", "\\|")


def print_report(report: Report, console: Console) -> None:
    """Print what is wrong, the tables, the stages' remarks, and last the head of the report."""
    top = head(report)
    console.print(top.title, style="bold", markup=False, highlight=False)
    print_lines(console, "!", top.red, "bold red", whole=True)
    for table in tables(report):
        if table.brief:
            console.print(rich_table(table, console.width))
    print_lines(console, "-", report.notes, "dim", whole=True)
    print_lines(console, "-", (*top.sentences, top.cost), "")
    console.rule(style="dim")
    console.print(top.about, style="dim", highlight=False, markup=False)
    print_lines(console, "!", top.red, "bold red", whole=True)  # tables scroll by
    console.print(_rich_tiles(top.tiles))
    print_lines(console, "-", top.deploy, "" if top.red else "green")
    print_lines(console, "!", top.warnings, "yellow")


def _rich_tiles(tiles: Sequence[Tile]) -> Any:
    """Return the tiles side by side, each a third of the width."""
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(show_header=False, box=None, padding=(0, 2, 0, 0), expand=True)
    for _ in tiles:
        shown.add_column(ratio=1, overflow="fold")
    shown.add_row(*(Text(tile.name, "dim") for tile in tiles))
    shown.add_row(*(Text(tile.value, "bold green" if tile.good else "bold") for tile in tiles))
    shown.add_row(*(Text(tile.detail) for tile in tiles))
    return shown


def print_lines(
    console: Console, mark: str, lines: Sequence[str], style: str, whole: bool = False
) -> None:
    """Print lines as they are; the mark is coloured, or the whole line."""
    from rich.text import Text

    for line in lines:
        text = Text(f"{mark} {line}")
        text.stylize(style, 0, len(text) if whole else 1)
        console.print(text, highlight=False)


def rich_table(table: Table, width: int) -> Any:
    """Return a table for a terminal of this width: its brief columns, wrapped between words."""
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
    names = [not table.columns[i].number for i in keep]
    for index, column_width in zip(
        keep, _widths(texts, width - 2 * len(keep) - 1, names), strict=True
    ):
        column = table.columns[index]
        shown.add_column(
            column.name,
            justify="right" if column.number else "left",
            width=column_width,
            overflow="fold",
        )
    for row in table.rows:
        shown.add_row(*(row[index] for index in keep))
    return shown


def _widths(columns: Sequence[Sequence[str]], room: int, names: Sequence[bool]) -> list[int]:
    """Return widths that fit the room where they can: cells wrap between words only.

    Where that is not enough, `names` (columns of words) are broken, the widest first, to no less
    than 12 characters; a figure never is.
    """
    widths = [max(map(len, texts)) for texts in columns]
    least = [max(len(word) for text in texts for word in text.split()) for texts in columns]
    while sum(widths) > room and widths != least:
        slack = [width - floor for width, floor in zip(widths, least, strict=True)]
        widths[slack.index(max(slack))] -= 1
    while sum(widths) > room:
        open_ = [w if name and w > 12 else 0 for w, name in zip(widths, names, strict=True)]
        if not any(open_):
            break
        widths[open_.index(max(open_))] -= 1
    return widths
