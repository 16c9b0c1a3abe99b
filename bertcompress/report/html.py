"""A report as one self-contained HTML page: light and dark, no script, nothing fetched."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from bertcompress.report.drawing import Theme
from bertcompress.report.head import head
from bertcompress.report.plots import RESHAPED, figure_bytes, figures
from bertcompress.report.rows import ReportData
from bertcompress.report.tables import tables

__all__ = ["render"]

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
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        report=report, head=head(report), tables=tables(report), figures=_figures(report)
    )


def _figures(report: ReportData) -> list[_Figure]:
    light, dark = figures(report, "light"), figures(report, "dark")
    slim, slim_dark = (figures(report, theme, narrow=True) for theme in THEMES)
    made = []
    for name in light:
        pictures = {
            f"{DARK} and {NARROW}": slim_dark[name],
            NARROW: slim[name],
            DARK: dark[name],
        }
        if name not in RESHAPED:
            pictures = {DARK: dark[name]}
        others = tuple((when, _uri(figure_bytes(each, "svg"))) for when, each in pictures.items())
        made.append(_Figure(_TITLES[name], _uri(figure_bytes(light[name], "svg")), others))
    return made


def _uri(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
