"""How figures are drawn: themes, points with names, bars, lines. `plots` decides what they show.

Colours are those of Okabe and Ito, which stay apart for colour-blind readers; each runtime has a
marker of its own besides. A filled marker is the compressed model, a hollow one the baseline.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bertcompress.measure import Score
from bertcompress.report.rows import DeploymentRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Point",
    "Theme",
    "bars_of",
    "caption",
    "join_pairs",
    "kept_bars",
    "lines",
    "name_points",
    "new_figure",
    "runtime_colour",
    "scatter",
    "series",
    "style",
]

Theme = Literal["light", "dark"]

_COLOURS = {"torch": "#0072B2", "onnxruntime": "#D55E00", "openvino": "#009E73"}
_ON_DARK = {"torch": "#56B4E9", "onnxruntime": "#E69F00", "openvino": "#2BC59A"}
_MARKERS = {"torch": "o", "onnxruntime": "s", "openvino": "D"}
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

    @property
    def y(self) -> float:
        """The headline score; NaN where there is none."""
        return self.row.headline.value if self.row.headline else float("nan")


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
        "axes.titlesize": 10,
        "figure.facecolor": paper,
        "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
        "font.size": 9.5,
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
    return (_COLOURS if theme == "light" else _ON_DARK).get(runtime, "#CC79A7")


def caption(figure: Figure, theme: Theme) -> None:
    """Say below the figure what filled and hollow markers are."""
    text = "filled: compressed, hollow: baseline"
    figure.supxlabel(text, fontsize=8.5, color=_INKS[theme][1])


def _whiskers(score: Score) -> list[list[float]] | None:
    """Return how far the interval reaches below and above the score; None where it has none."""
    if score.ci_low is None or score.ci_high is None:
        return None
    return [[score.value - score.ci_low], [score.ci_high - score.value]]


def scatter(axes: Axes, points: Sequence[Point], theme: Theme) -> None:
    """Draw scored points with their intervals and names; what has no score has no place here."""
    scored = [(point, point.row.headline) for point in points if point.row.headline]
    for point, score in scored:
        colour = runtime_colour(point.row.runtime, theme)
        axes.errorbar(
            point.x,
            score.value,
            yerr=_whiskers(score),
            fmt=_MARKERS.get(point.row.runtime, "^"),
            color=colour,
            markerfacecolor=colour if point.compressed else _INKS[theme][2],
            markersize=7,
            ecolor=(colour, 0.5),
            elinewidth=1,
            capsize=3,
        )
    axes.set_xlim(0, 1.08 * max((point.x for point, _ in scored), default=1.0))
    axes.margins(y=0.12)


def name_points(
    figure: Figure, panels: Sequence[tuple[Axes, Sequence[Point]]], theme: Theme
) -> None:
    """Write each name beside its point where it covers neither another name nor a point."""
    figure.draw_without_rendering()  # only then is it known where things are
    for axes, points in panels:
        scored = sorted((p for p in points if p.row.headline), key=lambda point: point.x)
        taken = [_box_around(axes, point) for point in scored]
        for point in scored:
            taken.append(_name(axes, point, taken, theme))


def _name(axes: Axes, point: Point, taken: Sequence[Any], theme: Theme) -> Any:
    """Write one name at the first free place, else at the least bad one; return its box."""
    text = axes.annotate(
        point.label,
        (point.x, point.y),
        (0, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
        color=runtime_colour(point.row.runtime, theme),
        # A patch and not a halo: stroked text weighs ten times as much in an SVG.
        bbox={"facecolor": _INKS[theme][2], "alpha": 0.8, "edgecolor": "none", "pad": 0.6},
    )
    text.set_in_layout(False)

    def place(side: str, rise: int) -> Any:
        text.set_horizontalalignment("left" if side == "right" else "right")
        text.set_position((8 if side == "right" else -8, rise))
        return text.get_window_extent()

    def clashes(side: str, rise: int) -> int:
        box = place(side, rise)
        outside = int(box.x0 < axes.bbox.x0 or box.x1 > axes.bbox.x1 + 10)
        return outside + sum(bool(box.overlaps(other)) for other in taken)

    return place(*min(_PLACES, key=lambda where: clashes(*where)))


_PLACES = [(side, rise) for side in ("right", "left") for rise in (0, 11, -11, 22, -22, 33, -33)]


def _box_around(axes: Axes, point: Point) -> Any:
    from matplotlib.transforms import Bbox

    centre = axes.transData.transform((point.x, point.y))
    return Bbox([centre - 7, centre + 7])


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
        axes.barh(position, layers, color=runtime_colour("torch", theme), height=0.62)
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
    axes.bar(names, [now for now, _ in kept], color=runtime_colour("torch", theme), width=0.75)
    for position, (now, before) in enumerate(kept):
        axes.text(position, now + 0.01 * before, str(now), ha="center", va="bottom", fontsize=8)
    axes.set_xlabel("layer (0 is the lowest)")
    axes.set_ylabel(f"{what} kept (pale: original)")
    axes.grid(axis="x", visible=False)


Points = list[tuple[float, float]]


def series(history: Sequence[Mapping[str, Any]], name: str) -> Points:
    """Return (step, value) of every row that has the value."""
    return [(row["step"], row[name]) for row in history if name in row and "step" in row]


def lines(axes: Axes, curves: Mapping[str, Points], theme: Theme) -> None:
    """Draw lines, each named at its end."""
    colours = [runtime_colour(runtime, theme) for runtime in _COLOURS]
    for number, (name, points) in enumerate((n, p) for n, p in curves.items() if p):
        colour = colours[number % len(colours)]
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, color=colour, marker="o" if len(points) < 30 else "", markersize=3)
        axes.annotate(
            f" {name}", points[-1], (4, 0), textcoords="offset points", va="center", color=colour
        )
    axes.margins(x=0.02)
