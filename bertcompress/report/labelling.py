"""Names of points in a scatter plot: the baseline's in rows above them, the compressed ones' below.

A line leads from each name to its point, and no name covers a line, a point or another name, so
that none can be taken for another's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bertcompress.report.drawing import Point, Theme, inks, plain, point_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["name_points"]

_SIZE = 9.5
_ROW_PT = 1.45 * _SIZE
_GAP_PT = 5.0
_ROWS = 8
_SHIFTS = (0.0, 0.25, -0.25, 0.52, -0.52, 0.8, -0.8, 1.2, -1.2)
"""Where a name may stand beside its point, in widths of the name, the nearest first."""


@dataclass
class _Side:
    """The rows of names above or below the points; lengths in pixels."""

    taken: list[tuple[int, float, float]] = field(default_factory=list)
    """Row, left and right end of each name."""
    leaders: list[tuple[int, float, float]] = field(default_factory=list)
    """Row that a line leads to, and the ends of what it sweeps on its way."""

    def free(self, row: int, left: float, right: float, x: float) -> bool:
        """Return whether a name fits there, and its line past the names nearer to the points."""
        sweep = sorted((x, (left + right) / 2))
        covers = any(
            (row == other and left < end and start < right)
            or (other < row and sweep[0] < end and start < sweep[1])
            for other, start, end in self.taken
        )
        crossed = any(row < r and left < end and start < right for r, start, end in self.leaders)
        return not covers and not crossed

    def place(
        self, x: float, width: float, room: tuple[float, float], others: Sequence[float]
    ) -> tuple[int, float]:
        """Take and return the row, and the middle, of a name for a point at `x`.

        It does not stand over the `others` of this side, as long as there is another place.
        """
        nearest = min(others, key=lambda other: abs(other - x), default=x)
        away = -1.0 if nearest >= x else 1.0  # from the point that it could be taken for
        for avoided in (others, ()):
            for row in range(_ROWS):
                for shift in _SHIFTS:
                    middle = min(
                        max(x + away * shift * width, room[0] + width / 2), room[1] - width / 2
                    )
                    left, right = middle - width / 2, middle + width / 2
                    if any(left < other < right for other in avoided):
                        continue
                    if self.free(row, left, right, x):
                        return self._take(row, middle, left, right, x)
        last = 1 + max(row for row, _, _ in self.taken)
        return self._take(last, min(max(x, width / 2), room[1] - width / 2), x, x, x)

    def _take(
        self, row: int, middle: float, left: float, right: float, x: float
    ) -> tuple[int, float]:
        self.taken.append((row, left, right))
        self.leaders.append((row, min(x, middle), max(x, middle)))
        return row, middle


def name_points(
    figure: Figure, panels: Sequence[tuple[Axes, Sequence[Point]]], theme: Theme
) -> None:
    """Write the names into all panels; their axes get the height that the rows need."""
    every = [point for _, points in panels for point in points if point.row.headline]
    if not every:
        return
    ends = min(point.span[0] for point in every), max(point.span[1] for point in every)
    figure.draw_without_rendering()  # only then is it known where things are
    scale = figure.dpi / 72
    placed = [(axes, _rows(axes, points, scale)) for axes, points in panels]
    counts = {True: 0, False: 0}
    for point, row, _ in (each for _, rows in placed for each in rows):
        counts[point.compressed] = max(counts[point.compressed], row + 1)
    for axes, rows in placed:
        _make_room(axes, ends, counts[False], counts[True], scale)
        for point, row, middle in rows:
            _write(axes, point, row, middle, ends, theme)


def _rows(axes: Axes, points: Sequence[Point], scale: float) -> list[tuple[Point, int, float]]:
    """Return the row and the middle of each name, in pixels from the left of the panel."""
    room, found = (0.0, float(axes.bbox.width)), []
    scored = sorted((p for p in points if p.row.headline), key=lambda point: point.x)
    for compressed in (False, True):
        side = [point for point in scored if point.compressed == compressed]
        xs = [float(axes.transData.transform((p.x, p.y))[0] - axes.bbox.x0) for p in side]
        rows = _Side()
        for number, (point, x) in enumerate(zip(side, xs, strict=True)):
            others = xs[:number] + xs[number + 1 :]
            row, middle = rows.place(x, _width(axes, point, scale), room, others)
            found.append((point, row, middle))
    return found


def _width(axes: Axes, point: Point, scale: float) -> float:
    text = axes.text(0, 0, plain(point.label), fontsize=_SIZE, fontweight=_weight(point))
    width = float(text.get_window_extent().width)
    text.remove()
    return width + 2 * _GAP_PT * scale


def _weight(point: Point) -> str:
    return "bold" if point.compressed else "normal"


def _make_room(axes: Axes, ends: tuple[float, float], up: int, down: int, scale: float) -> None:
    """Set the limits of the scores so that so many rows of names fit above and below them."""
    low, high = ends
    height = float(axes.bbox.height)
    rows = [(count * _ROW_PT + 2 * _GAP_PT) * scale for count in (down, up)]
    per_pixel = ((high - low) or 0.1) / max(height - sum(rows), 0.35 * height)
    axes.set_ylim(low - rows[0] * per_pixel, high + rows[1] * per_pixel)


def _write(
    axes: Axes,
    point: Point,
    row: int,
    middle: float,
    ends: tuple[float, float],
    theme: Theme,
) -> None:
    """Write one name with the line that leads to the end of its point's interval."""
    colour, side = point_colour(point, theme), 0 if point.compressed else 1
    edge = float(axes.transData.transform((point.x, ends[side]))[1])
    away = ((row + 0.5) * _ROW_PT + _GAP_PT) * axes.figure.dpi / 72
    y = edge - float(axes.bbox.y0) + (away if side else -away)
    axes.annotate(
        plain(point.label),
        (point.x, point.span[side]),
        (middle / float(axes.bbox.width), y / float(axes.bbox.height)),
        textcoords="axes fraction",
        ha="center",
        va="center",
        fontsize=_SIZE,
        fontweight=_weight(point),
        color=colour,
        arrowprops={
            "arrowstyle": "-",
            "color": colour,
            "alpha": 0.55,
            "linewidth": 0.8,
            "shrinkA": 1,
            "shrinkB": 1,
        },
        bbox={"facecolor": inks(theme)[2], "edgecolor": "none", "pad": 0.4},
    ).set_in_layout(False)
