"""Several runs of one task beside each other: one table, one page, one figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bertcompress.deployment import Layout
from bertcompress.errors import InputError, OutputError
from bertcompress.report.alarms import above_the_baseline
from bertcompress.report.cells import score_cell, share, shown
from bertcompress.report.columns import Column, Table, build, words
from bertcompress.report.drawing import Theme
from bertcompress.report.html import THEMES, render_comparison
from bertcompress.report.other_models import stands_beside
from bertcompress.report.plots import Compared, comparison_figure, figure_bytes
from bertcompress.report.report import Report, markdown_table, print_lines, rich_table
from bertcompress.report.rows import DeploymentRow, ReportData
from bertcompress.report.speed import judged, time_of
from bertcompress.report.speed_tables import shape_words
from bertcompress.support.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

__all__ = ["Comparison", "RunLike", "compare", "print_comparison"]

_SAME_TASK = (
    *("dataset", "config", "revision", "files", "text", "label", "problem", "labels"),
    *("validation", "headline"),
)
"""Fields of a task in which runs have to agree for their scores to be of the same rows."""

SLOWER = 1.05
"""Times of runs that were not taken in turn differ at least by this factor to count."""


class RunLike(Protocol):
    """What has a folder with a report: `bertcompress.Run`."""

    @property
    def folder(self) -> Path: ...  # noqa: D102


@dataclass(frozen=True)
class Comparison:
    """Runs beside each other, each by the deployment that its verdict is about."""

    task: str
    shape: tuple[int, int | str] | None
    """Batch size and length at which times are compared; None where no shape is common to all."""
    runs: tuple[Compared, ...]
    red: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def title(self) -> str:
        """What is compared."""
        return f"{len(self.runs)} runs on {self.task}"

    @property
    def table(self) -> Table:
        """One row for each run."""
        ms = "ms" if self.shape is None else f"ms at {shape_words(*self.shape)}"
        columns: list[Column[Compared]] = [
            words("run", lambda x: x.name),
            words("runs on", lambda x: x.row.label),
            Column(f"score ({self._metric}) [95 % interval]", lambda x: score_cell(x.row.headline)),
            Column("score kept", lambda x: x.kept),
            Column("MB", lambda x: f"{x.row.size_mb:.1f}"),
            Column(ms, lambda x: shown(x.ms, ".1f")),
            words("dominated by", lambda x: _few(x.dominated_by)),
            replace(words("recipe", lambda x: x.recipe), brief=False),
        ]
        note = (
            "Each run by the deployment that its verdict is about. Dominated: another run scores "
            "as high or higher, and is as small and as fast or more so; scores inside each other's "
            "interval are no difference that is shown."
        )
        return build("Runs beside each other", self.runs, columns, note, brief=True)

    @property
    def _metric(self) -> str:
        return next((x.row.headline.metric for x in self.runs if x.row.headline), "no metric")

    def figure(self, theme: Theme = "light", *, narrow: bool = False) -> Figure:
        """Return score with interval against ms and MB; dominated runs are grey."""
        return comparison_figure(self.title, self.runs, self.shape, theme, narrow=narrow)

    def to_markdown(self) -> str:
        """Return the comparison as GitHub-flavoured Markdown."""
        parts = [f"# {self.title}"]
        if self.red:
            parts += ["> [!CAUTION]\n" + "\n".join(f"> - **{line}**" for line in self.red)]
        parts += ["\n".join(f"- {line}" for line in self.warnings)] if self.warnings else []
        return "\n\n".join([*parts, markdown_table(self.table), self.table.note]) + "\n"

    def to_html(self) -> str:
        """Return the comparison as one self-contained page."""
        figures = {
            (theme, narrow): figure_bytes(self.figure(theme, narrow=narrow), "svg")
            for theme in THEMES
            for narrow in (False, True)
        }
        return render_comparison(self, figures)

    def to_pandas(self) -> Any:
        """Return one row for each run as a pandas DataFrame; needs pandas."""
        import pandas

        return pandas.DataFrame(self.rows)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The figures of each run, JSON-plain."""
        return [run.plain for run in self.runs]

    def save(self, out: str | Path) -> Path:
        """Write page, table, figure and figures as JSON into a new folder, whole or not at all."""
        folder = Path(out).expanduser()
        if folder.exists():
            raise OutputError(f"{folder}: exists already; choose another --out or remove it")
        plain = {"task": self.task, "shape": self.shape, "red": self.red, "runs": self.rows}
        with write_atomically(folder) as partial:
            partial.mkdir(parents=True, exist_ok=True)
            (partial / "comparison.html").write_text(self.to_html(), encoding="utf-8")
            (partial / "comparison.md").write_text(self.to_markdown(), encoding="utf-8")
            text = json.dumps({**plain, "warnings": self.warnings}, indent=2)
            (partial / "comparison.json").write_text(f"{text}\n", encoding="utf-8")
            (partial / "comparison.svg").write_bytes(figure_bytes(self.figure(), "svg"))
            (partial / "comparison.png").write_bytes(figure_bytes(self.figure(), "png"))
        return folder

    def __repr__(self) -> str:
        return f"<{self.title}: {', '.join(run.name for run in self.runs)}>"

    def __str__(self) -> str:
        """Return what a terminal shows."""
        from bertcompress.report.report import as_printed

        return as_printed(lambda console: print_comparison(self, console))

    def _repr_html_(self) -> str:
        from bertcompress.report.html import table_html

        return table_html(self.title, self.red, self.table)


def compare(*runs: str | Path | RunLike | Report, out: str | Path | None = None) -> Comparison:
    """Return runs of one task beside each other, and write page and figure into `out` if given.

    Args:
        runs: Folders of finished runs, `report.json` files, `Run` or `Report` objects; two or more.
        out: New folder for `comparison.html`, `.md`, `.json`, `.svg` and `.png`.

    Raises:
        InputError for fewer than two runs, and for runs whose scores are not of the same rows; that
        they were timed on different machines is said, and their times are not compared.
    """
    if len(runs) < 2:
        raise InputError(f"compare: needs two runs or more, got {len(runs)}")
    reports = [_read(run) for run in runs]
    names = _names(runs, reports)
    _check_tasks(names, reports)
    rows = [_judged(name, report) for name, report in zip(names, reports, strict=True)]
    shape, machines = _shape(rows), _machines(names, reports)
    times = [time_of(row, *shape) if shape else None for row in rows]
    milliseconds = [time.batch_ms if time else None for time in times]
    better = [
        [
            names[j]
            for j in range(len(rows))
            if j != i and _dominates(rows, milliseconds, j, i, timed=not machines)
        ]
        for i in range(len(rows))
    ]
    made = Comparison(
        task=str(reports[0].task.get("name", "a task")),
        shape=None if machines else shape,
        runs=tuple(
            Compared(
                name=name,
                recipe=", ".join(report.methods) or "none",
                row=row,
                kept=_kept(report, row),
                ms=ms,
                host=_host(report),
                dominated_by=tuple(by),
            )
            for name, report, row, ms, by in zip(
                names, reports, rows, milliseconds, better, strict=True
            )
        ),
        red=tuple(
            f"{n}: {line}" for n, r in zip(names, reports, strict=True) for line in r.verdict.red
        ),
        warnings=tuple(_warnings(names, reports, shape, machines)),
    )
    if out is not None:
        made.save(out)
    return made


def _read(run: str | Path | RunLike | Report) -> Report:
    if isinstance(run, Report):
        return run
    return Report.load(Path(run if isinstance(run, str | Path) else run.folder).expanduser())


def _names(runs: Sequence[Any], reports: Sequence[Report]) -> list[str]:
    """Return the folder's name of each run, the whole path or a number where these are alike."""
    paths = [getattr(run, "folder", run) for run in runs]
    whole = [
        f"run {i}" if isinstance(path, Report) else str(path) for i, path in enumerate(paths, 1)
    ]
    short = []
    for path, name in zip(paths, whole, strict=True):
        file = None if isinstance(path, Report) else Path(path).expanduser().resolve()
        file = file.parent if file and file.name == Layout().report.name else file
        short.append(file.name if file else name)
    names = [s if short.count(s) == 1 else w for s, w in zip(short, whole, strict=True)]
    return [n if names.count(n) == 1 else f"{n} ({i})" for i, n in enumerate(names, 1)]


def _check_tasks(names: Sequence[str], reports: Sequence[Report]) -> None:
    """Raise InputError where scores are not of the same rows."""
    first = reports[0]
    for name, report in zip(names[1:], reports[1:], strict=True):
        for field in _SAME_TASK:
            ours, theirs = first.task.get(field), report.task.get(field)
            if ours != theirs:
                raise InputError(
                    f"{name}: is of another task than {names[0]}: {field} is {theirs!r}, not "
                    f"{ours!r}; runs of one task can be compared"
                )
        counts = [_count(each) for each in (first, report)]
        if None not in counts and counts[0] != counts[1]:
            raise InputError(
                f"{name}: was judged on {counts[1]} rows, {names[0]} on {counts[0]}; runs that "
                "were judged on the same rows can be compared"
            )
        digests = {first.data.judged, report.data.judged} - {None}
        if len(digests) > 1:
            raise InputError(
                f"{name}: was judged on other rows than {names[0]}, though they came from the same "
                "place; runs that were judged on the same rows can be compared"
            )


def _count(report: ReportData) -> int | None:
    main = report.reference.main
    return main.headline.n if main and main.headline else None


def _judged(name: str, report: Report) -> DeploymentRow:
    row = judged(report.last)
    if row is None or row.simulated:
        raise InputError(f"{name}: this run ships nothing that can be compared")
    return row


def _shape(rows: Sequence[DeploymentRow]) -> tuple[int, int | str] | None:
    """Return the first shape that was timed in all runs, the task's own lengths before others."""
    common = [
        shape
        for shape in dict.fromkeys((t.batch, t.length) for t in rows[0].latency)
        if all(time_of(row, *shape) for row in rows)
    ]
    return min(common, key=lambda shape: (shape[1] != "task", shape[0]), default=None)


def _host(report: ReportData) -> str:
    processor, threads = (report.environment.get(key) for key in ("processor", "threads"))
    return f"{processor or 'a processor that was not recorded'}, {threads or '?'} threads"


def _machines(names: Sequence[str], reports: Sequence[Report]) -> dict[str, list[str]]:
    """Return which runs were timed on which machine; empty where that was one."""
    found: dict[str, list[str]] = {}
    for name, report in zip(names, reports, strict=True):
        found.setdefault(_host(report), []).append(name)
    return found if len(found) > 1 else {}


def _kept(report: Report, row: DeploymentRow) -> str:
    if report.verdict.retention is None or above_the_baseline(row):
        return "not stated"
    return share(row.retention)


def _few(names: Sequence[str]) -> str:
    """Return the first name, and how many more there are."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}" if names else "none"


def _dominates(
    rows: Sequence[DeploymentRow], ms: Sequence[float | None], one: int, other: int, *, timed: bool
) -> bool:
    """Return whether one run is as good as the other in everything and better in something."""
    ours, theirs = rows[one].headline, rows[other].headline
    if ours is None or theirs is None:
        return False
    sides = [(theirs.value, ours.value), (rows[one].size_mb, rows[other].size_mb)]
    mine, its = ms[one], ms[other]
    if timed and mine is not None and its is not None:
        # Runs are not timed in turn: a few percent are no difference.
        sides.append((mine, its) if not its / SLOWER <= mine <= its * SLOWER else (0.0, 0.0))
    elif timed and (mine is None) != (its is None):
        return False
    return all(a <= b for a, b in sides) and any(a < b for a, b in sides)


def _warnings(
    names: Sequence[str],
    reports: Sequence[Report],
    shape: tuple[int, int | str] | None,
    machines: dict[str, list[str]],
) -> list[str]:
    """Return what a reader must know beside the table, one line a kind."""
    found = []
    if machines:
        where = "; ".join(f"{', '.join(runs)} on {host}" for host, runs in machines.items())
        found.append(f"Timed on different machines: times are shown, not compared ({where}).")
    elif shape is None:
        found.append("No batch size and length was timed in all of them: times are not compared.")
    else:
        anchors = [time_of(r.reference.main, *shape) if r.reference.main else None for r in reports]
        known = [f"{n} {t.batch_ms:.1f} ms" for n, t in zip(names, anchors, strict=True) if t]
        found.append(
            "Runs are not timed in turn: differences of a few percent say nothing. Each one's "
            f"baseline in torch took: {', '.join(known) or 'not measured'}."
        )
    mains = [r.reference.main for r in reports]
    values = [f"{m.headline.value:.3f}" if m and m.headline else "not scored" for m in mains]
    if len(set(values)) > 1:
        told = ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
        found.append(f"Score kept is of each run's own baseline, and these differ: {told}.")
    found += [
        f"{name}: {line}"
        for name, r in zip(names, reports, strict=True)
        for line in stands_beside(r.opponents, r.last, judged(r.last), r.task)
    ]
    busy = [
        name
        for name, report in zip(names, reports, strict=True)
        if any(time.disturbed and time.disturbed > 0 for time in _judged(name, report).latency)
    ]
    if busy and shape and not machines:
        found.append(f"Something else used the machine while these were timed: {', '.join(busy)}.")
    return found


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print what is wrong, the table, and what to know beside it."""
    console.print(comparison.title, style="bold", markup=False, highlight=False)
    print_lines(console, "!", comparison.red, "bold red", whole=True)
    console.print(rich_table(comparison.table, console.width))
    print_lines(console, "!", comparison.warnings, "yellow")
