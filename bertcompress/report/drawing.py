"""How figures are drawn: themes, points with names, bars, lines. `plots` decides what they show.

Colours are those of Okabe and Ito, which stay apart for colour-blind readers; each runtime has a
marker of its own besides. A filled marker is the compressed model, a hollow one the baseline.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bertcompress.measure.scores import Score
from bertcompress.report.rows import DeploymentRow
from bertcompress.runtimes import Runtime, known_runtime

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Point",
    "Points",
    "Theme",
    "bars_of",
    "caption",
    "distinct_colour",
    "inks",
    "join_pairs",
    "kept_bars",
    "legend_below",
    "lines",
    "log_axis",
    "new_figure",
    "plain",
    "point_colour",
    "runtime_colour",
    "runtime_marker",
    "scatter",
    "series",
    "style",
    "title",
]

Theme = Literal["light", "dark"]

_UNKNOWN = "#CC79A7"
"""Of a runtime that this release has not."""
_SERIES: dict[Theme, tuple[str, ...]] = {
    "light": ("#0072B2", "#D55E00", "#009E73", _UNKNOWN),
    "dark": ("#56B4E9", "#E69F00", "#2BC59A", _UNKNOWN),
}
"""Of lines, in their order; bars have the first."""
_INKS: dict[Theme, tuple[str, str, str]] = {  # text, faint, paper
    "light": ("#222222", "#8a8f98", "#ffffff"),
    "dark": ("#e6e6e6", "#7d828c", "#16181d"),
}


@dataclass(frozen=True)
class Point:
    """One deployment of one model in a scatter plot."""

    x: float
    row: DeploymentRow
    label: str
    compressed: bool
    """Drawn filled and named below; the others hollow and named above."""
    colour: str | None = None
    """Of point, interval and name; None: that of the runtime."""

    @property
    def y(self) -> float:
        """The headline score; NaN where there is none."""
        return self.row.headline.value if self.row.headline else float("nan")

    @property
    def span(self) -> tuple[float, float]:
        """The ends of the score's interval; the score itself where it has none."""
        score = self.row.headline
        if score is None or score.ci_low is None or score.ci_high is None:
            return self.y, self.y
        return score.ci_low, score.ci_high


@contextmanager
def style(theme: Theme) -> Iterator[None]:
    """Apply the look of a theme while figures are made; settings are restored afterwards."""
    import matplotlib

    ink, faint, paper = _INKS[theme]
    settings: Any = {
        "axes.axisbelow": True,
        "axes.edgecolor": faint,
        "axes.facecolor": paper,
        "axes.grid": True,
        "axes.labelcolor": ink,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlecolor": ink,
        "axes.titlesize": 11,
        "figure.facecolor": paper,
        "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
        "font.size": 10.5,
        "grid.alpha": 0.25,
        "grid.color": faint,
        "svg.fonttype": "none",  # text stays text: a fifth of the bytes, and it can be searched
        "svg.hashsalt": "bertcompress",
        "text.color": ink,
        "text.parse_math": False,  # names may hold dollar signs
        "xtick.color": ink,
        "ytick.color": ink,
    }
    with matplotlib.rc_context(settings):
        yield


def new_figure(width_in: float, height_in: float) -> Figure:
    """Return an empty figure of so many inches that pyplot knows nothing of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def runtime_colour(runtime: str, theme: Theme) -> str:
    """Return the colour of a runtime; each theme has its own."""
    known = known_runtime(runtime)
    return _UNKNOWN if known is None else known.colour[theme == "dark"]


def runtime_marker(runtime: str) -> str:
    """Return the marker of a runtime, as matplotlib names it."""
    known = known_runtime(runtime)
    return Runtime.marker if known is None else known.marker


def inks(theme: Theme) -> tuple[str, str, str]:
    """Return the colours of text, of what stands back, and of the paper."""
    return _INKS[theme]


def plain(text: str) -> str:
    """Return text from outside as matplotlib shows it as it is: no formula, no control character.

    What is longer than a line is cut.
    """
    shown = "".join(c if c.isprintable() else " " for c in text)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."


_LONGEST = 120


def title(figure: Figure, lines: Sequence[str]) -> None:
    """Write what the figure shows, of what and on what, above it: it has to stand alone."""
    wide = int(figure.get_figwidth() * 13)  # characters of this size
    wrapped = [line for text in lines if text for line in textwrap.wrap(plain(text), wide)]
    figure.suptitle("\n".join(wrapped), fontsize=11, linespacing=1.35)


def point_colour(point: Point, theme: Theme) -> str:
    """Return the colour of a point, its interval and its name."""
    return point.colour or runtime_colour(point.row.runtime, theme)


def distinct_colour(number: int, theme: Theme) -> str:
    """Return one of six colours that stay apart on the paper of the theme."""
    every = {
        "light": ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C6D00", "#222222"),
        "dark": ("#56B4E9", "#E69F00", "#2BC59A", "#E08FBF", "#F0E442", "#e6e6e6"),
    }[theme]
    return every[number % len(every)]


SIDES = "filled, named below: compressed; hollow, named above: baseline"


def caption(figure: Figure, theme: Theme, text: str = SIDES) -> None:
    """Say below the figure what filled and hollow markers are."""
    figure.supxlabel(text, fontsize=9.5, color=_INKS[theme][1])


def log_axis(axes: Axes, values: Sequence[float]) -> None:
    """Give an axis of sizes or times equal steps for equal ratios, with plain numbers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    axes.set_xscale("log")
    low, high = min(values, default=1.0), max(values, default=1.0)
    low, high = low / 1.35, high * 1.35
    axes.set_xlim(low, high)
    steps = [m * 10.0**e for e in range(-4, 8) for m in (1, 1.5, 2, 3, 5, 7)]
    shown = [step for step in steps if low <= step <= high]
    axes.xaxis.set_major_locator(FixedLocator(shown[:: 1 + len(shown) // 9]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _whiskers(score: Score) -> list[list[float]] | None:
    """Return how far the interval reaches below and above the score; None where it has none.

    Of resampled rows it need not hold the score: of equal ones it is off by a rounding.
    """
    if score.ci_low is None or score.ci_high is None:
        return None
    return [[max(0.0, score.value - score.ci_low)], [max(0.0, score.ci_high - score.value)]]


def scatter(axes: Axes, points: Sequence[Point], theme: Theme) -> None:
    """Draw scored points with their intervals, times or sizes on a log axis; nothing unscored."""
    scored = [(point, point.row.headline) for point in points if point.row.headline]
    for point, score in scored:
        colour = point_colour(point, theme)
        axes.errorbar(
            point.x,
            score.value,
            yerr=_whiskers(score),
            fmt=runtime_marker(point.row.runtime),
            color=colour,
            markerfacecolor=colour if point.compressed else _INKS[theme][2],
            markersize=7,
            ecolor=(colour, 0.5),
            elinewidth=1,
            capsize=3,
        )
    log_axis(axes, [point.x for point, _ in scored])
    axes.margins(y=0.12)


def join_pairs(axes: Axes, points: Sequence[Point], theme: Theme) -> None:
    """Lead from each baseline point to the compressed one of the same runtime and precision."""
    after = {p.label: p for p in points if p.compressed and p.row.headline}
    for before in points:
        pair = after.get(before.label)
        if before.compressed or pair is None or before.row.headline is None:
            continue
        axes.annotate(
            "",
            (pair.x, pair.y),
            (before.x, before.y),
            arrowprops={
                "arrowstyle": "->",
                "color": runtime_colour(before.row.runtime, theme),
                "alpha": 0.45,
                "shrinkA": 7,
                "shrinkB": 7,
            },
            zorder=1.5,
        )


def bars_of(axes: Axes, bars: Sequence[tuple[str, float, float]], theme: Theme) -> None:
    """Draw horizontal bars, first on top: (name, total MB, MB of the dark part)."""
    ink, faint, paper = _INKS[theme]
    longest = max((total for _, total, _ in bars), default=1.0)
    pad = 0.01 * longest
    for position, (_, total, layers) in enumerate(bars):
        axes.barh(position, layers, color=_SERIES[theme][0], height=0.62)
        axes.barh(position, total - layers, left=layers, color=faint, alpha=0.4, height=0.62)
        if position == 0 and 0.15 * longest < layers < 0.85 * longest:
            axes.text(pad, position, "encoder", va="center", color=paper, fontsize=8.5)
            axes.text(layers + pad, position, "embedding tables", va="center", fontsize=8.5)
        axes.text(total + pad, position, f"{total:.1f}", va="center", color=ink)
    axes.set_yticks(range(len(bars)), [name for name, _, _ in bars])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlim(0, longest * 1.12)
    axes.grid(axis="y", visible=False)


def kept_bars(
    axes: Axes, names: list[str], kept: Sequence[tuple[int, int]], what: str, theme: Theme
) -> None:
    """Draw (left, before) per layer: what is left over the pale outline of what was."""
    _, faint, _ = _INKS[theme]
    axes.bar(names, [before for _, before in kept], color=faint, alpha=0.3, width=0.75)
    axes.bar(names, [now for now, _ in kept], color=_SERIES[theme][0], width=0.75)
    for position, (now, before) in enumerate(kept):
        axes.text(position, now + 0.01 * before, str(now), ha="center", va="bottom", fontsize=8)
    axes.set_xlabel("layer (0 is the lowest)")
    axes.set_ylabel(f"{what} kept (pale: original)")
    axes.grid(axis="x", visible=False)


Points = list[tuple[float, float]]


def series(history: Sequence[Mapping[str, Any]], name: str) -> Points:
    """Return (step, value) of every row that has the value."""
    return [(row["step"], row[name]) for row in history if name in row and "step" in row]


def lines(axes: Axes, curves: Mapping[str, Points], theme: Theme, dashed: bool = False) -> None:
    """Draw named lines; the same name has the same colour and marker in every panel."""
    colours = _SERIES[theme]
    for number, (name, points) in enumerate(curves.items()):
        if not points:
            continue
        steps, values = zip(*points, strict=True)
        axes.plot(
            steps,
            values,
            label=plain(name),
            color=colours[number % len(colours)],
            marker="os^Dv"[number % 5] if len(points) < 30 else "",
            markersize=3.5,
            linestyle="--" if dashed else "-",
        )
    axes.margins(x=0.02)


def legend_below(figure: Figure, axes: Axes) -> None:
    """Name the lines of a panel below the figure."""
    handles, names = axes.get_legend_handles_labels()
    # Each name has its mark, as wide as five letters, beside it.
    letters = sum(len(name) + 5 for name in names)
    across = 1 if letters > 11 * figure.get_figwidth() else max(len(names), 1)
    figure.legend(handles, names, loc="outside lower center", ncols=across, frameon=False)
