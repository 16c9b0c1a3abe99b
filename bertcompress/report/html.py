"""A report as one self-contained HTML page: light and dark, no script, nothing fetched."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertcompress.report.columns import Table
from bertcompress.report.drawing import Theme
from bertcompress.report.head import Head, head
from bertcompress.report.plots import figure_bytes, figures
from bertcompress.report.probe_figures import probe_titles
from bertcompress.report.rows import ReportData
from bertcompress.report.tables import tables
from bertcompress.support.notebook import short
from bertcompress.wording import clean

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["THEMES", "head_html", "render", "render_comparison", "table_html"]

_TITLES = {
    "score_vs_latency": "Score against latency",
    "score_vs_size": "Score against size",
    "where_bytes_are": "Where the bytes are",
    "per_layer_shape": "What is left of each layer",
    "training_curves": "Training",
}
DARK = "(prefers-color-scheme: dark)"
NARROW = "(max-width: 640px)"
THEMES: tuple[Theme, ...] = ("light", "dark")


@dataclass(frozen=True)
class _Figure:
    """One figure as data URIs: what a browser shows, and the others with when it takes them."""

    title: str
    light: str
    others: tuple[tuple[str, str], ...]
    """Condition on screen and colours, and the picture for it; the first that holds is taken."""


def render(report: ReportData) -> str:
    """Return the page. Every text in it is escaped."""
    return _page("page.html.j2").render(
        report=report, head=head(report), tables=tables(report), figures=_figures(report)
    )


def render_comparison(made: Any, drawn: Mapping[tuple[Theme, bool], bytes]) -> str:
    """Return the page of a comparison. `drawn`: its figure as SVG by theme, and whether narrow."""
    others = (
        (f"{DARK} and {NARROW}", _uri(drawn["dark", True])),
        (NARROW, _uri(drawn["light", True])),
        (DARK, _uri(drawn["dark", False])),
    )
    figure = _Figure("", _uri(drawn["light", False]), others)
    return _page("comparison.html.j2").render(made=made, figure=figure)


def _page(name: str) -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else clean(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def head_html(top: Head) -> str:
    """Return the head of a report for a notebook: a few lines, every text escaped."""
    parts = [f"<b>{escape(short(top.title))}</b><br><small>{escape(top.about)}</small>"]
    parts += [f'<br><b style="color:#b3261e">{escape(line)}</b>' for line in top.red]
    cells = "".join(
        f'<td style="text-align:left;vertical-align:top">{escape(tile.name)}<br>'
        f"<b>{escape(tile.value)}</b><br><small>{escape(tile.detail)}</small></td>"
        for tile in top.tiles
    )
    parts.append(f"<table><tr>{cells}</tr></table>")
    parts += [_items(top.deploy), _items(top.warnings)]
    return "".join(parts)


def _items(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def table_html(title: str, red: Sequence[str], table: Table) -> str:
    """Return a table with its title for a notebook, every text escaped."""
    head_row = "".join(f"<th>{escape(column.name)}</th>" for column in table.columns)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows
    )
    lines = "".join(f'<br><b style="color:#b3261e">{escape(line)}</b>' for line in red)
    return f"<b>{escape(title)}</b>{lines}<table><tr>{head_row}</tr>{rows}</table>"


def _figures(report: ReportData) -> list[_Figure]:
    light, dark = figures(report, "light"), figures(report, "dark")
    slim, slim_dark = (figures(report, theme, narrow=True) for theme in THEMES)
    titles, made = {**_TITLES, **probe_titles(report)}, []
    for name in light:
        pictures = {DARK: dark[name]}
        if name in slim:
            pictures = {f"{DARK} and {NARROW}": slim_dark[name], NARROW: slim[name], **pictures}
        others = tuple((when, _uri(figure_bytes(each, "svg"))) for when, each in pictures.items())
        made.append(_Figure(titles[name], _uri(figure_bytes(light[name], "svg")), others))
    return made


def _uri(svg: bytes) -> str:
    from markupsafe import Markup

    return Markup("data:image/svg+xml;base64," + base64.b64encode(svg).decode())
