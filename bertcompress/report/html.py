"""A report as one self-contained HTML page: light and dark, no script, nothing fetched."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from bertcompress.report.cells import cost_line
from bertcompress.report.plots import figure_bytes, figures
from bertcompress.report.rows import ReportData
from bertcompress.report.tables import tables
from bertcompress.wording import clean

__all__ = ["render"]

_TITLES = {
    "score_vs_latency": "Score against latency",
    "score_vs_size": "Score against size",
    "where_bytes_are": "Where the bytes are",
    "per_layer_shape": "What is left of each layer",
    "training_curves": "The last training",
}


@dataclass(frozen=True)
class _Figure:
    """One figure for both colour schemes, as data URIs."""

    title: str
    light: str
    dark: str


def render(report: ReportData) -> str:
    """Return the page. Every text in it is escaped."""
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
    return environment.get_template("page.html.j2").render(
        report=report, tables=tables(report), figures=_figures(report), cost=cost_line(report)
    )


def _figures(report: ReportData) -> list[_Figure]:
    light, dark = figures(report, "light"), figures(report, "dark")
    return [
        _Figure(
            _TITLES[name],
            _uri(figure_bytes(light[name], "svg")),
            _uri(figure_bytes(dark[name], "svg")),
        )
        for name in light
    ]


def _uri(svg: bytes) -> str:
    from markupsafe import Markup

    return Markup("data:image/svg+xml;base64," + base64.b64encode(svg).decode())
