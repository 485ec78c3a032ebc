"""Line charts as SVG paths: the numbers are computed here, the template draws them, and no script is needed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 124, 12, 30
"""Size of the drawing and its margins in pixels; the right margin holds the names of the lines."""

MOST_POINTS = 240
"""The most points of a line; longer series are averaged in equal groups."""

SMALLEST_RANGE = 1e-9
"""Values that differ by less than this, relative to their size, are drawn at one level."""


@dataclass(frozen=True)
class Series:
    """A named line; `x` and `y` have the same length and `x` rises."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class ChartLine:
    """A line of a chart: its name, where the name stands, its SVG path and its last value."""

    name: str
    path: str
    label_x: float
    label_y: float
    last: str


@dataclass(frozen=True)
class AxisTick:
    """A mark on an axis: its position in pixels and its text."""

    position: float
    text: str


@dataclass(frozen=True)
class Chart:
    """Holds everything that a template needs to draw a chart."""

    title: str
    x_name: str
    lines: tuple[ChartLine, ...]
    x_ticks: tuple[AxisTick, ...]
    y_ticks: tuple[AxisTick, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


COLOURS = ("#7a78d6", "#f08448", "#2a9d8f", "#be508c", "#8a8d99", "#b58900", "#3a86c8", "#7a5230")
"""Colours of the lines of a standalone drawing, used in turn. The tones stand out from both white and black."""


def chart_svg(chart: Chart) -> str:
    """Return a chart as a standalone SVG image that suits any background."""
    text = 'font-family="sans-serif" font-size="11" fill="#80838f"'
    parts = [f"<title>{escape(chart.title)}</title>"]
    for tick in chart.y_ticks:
        where = f'x1="{chart.left}" x2="{chart.right}" y1="{tick.position}" y2="{tick.position}"'
        parts.append(f'<line {where} stroke="#80838f" stroke-opacity="0.3"/>')
        parts.append(
            f'<text x="{chart.left - 8}" y="{tick.position + 4}" text-anchor="end" {text}>{escape(tick.text)}</text>'
        )
    for tick in chart.x_ticks:
        where = f'x="{tick.position}" y="{chart.bottom + 18}"'
        parts.append(f'<text {where} text-anchor="middle" {text}>{escape(tick.text)}</text>')
    where = f'x="{chart.width}" y="{chart.bottom + 18}"'
    parts.append(f'<text {where} text-anchor="end" {text}>{escape(chart.x_name)}</text>')
    for line, colour in zip(chart.lines, cycle(COLOURS), strict=False):
        parts.append(f'<path d="{line.path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        named = f'x="{line.label_x}" y="{line.label_y + 4}" font-family="sans-serif" font-size="11" fill="{colour}"'
        parts.append(f"<text {named}>{escape(line.name)} {escape(line.last)}</text>")
    size = f'width="{chart.width}" height="{chart.height}" viewBox="0 0 {chart.width} {chart.height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(parts)}</svg>'


def line_chart(title: str, x_name: str, series: Sequence[Series]) -> Chart | None:
    """Lay out all series on common axes; return None if none has two finite points.

    Raises:
        ValueError: the x and y of a series differ in length.
    """
    cleaned = []
    for line in series:
        if len(line.x) != len(line.y):
            raise ValueError(f"expected as many x as y for {line.name!r}, got {len(line.x)} and {len(line.y)}")
        points = [(float(x), float(y)) for x, y in zip(line.x, line.y, strict=True)]
        points = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
        if len(points) >= 2:
            cleaned.append((line.name, _thin(points)))
    if not cleaned:
        return None
    x_low, x_high = _range([x for _, points in cleaned for x, _ in points])
    x_ticks = _ticks(x_low, x_high)
    y_ticks = _ticks(*_range([y for _, points in cleaned for _, y in points]))
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def across(x: float) -> float:
        return round(LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT), 1)

    def down(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM), 1)

    labels = _spread([down(points[-1][1]) for _, points in cleaned])
    lines = [
        ChartLine(
            name,
            "M" + "L".join(f"{across(x)} {down(y)}" for x, y in points),
            WIDTH - RIGHT + 8,
            label,
            f"{points[-1][1]:.3g}",
        )
        for (name, points), label in zip(cleaned, labels, strict=True)
    ]
    return Chart(
        title,
        x_name,
        tuple(lines),
        tuple(AxisTick(across(x), f"{x:,.6g}") for x in x_ticks if x_low <= x <= x_high),
        tuple(AxisTick(down(y), f"{y:,.4g}") for y in y_ticks),
    )


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Average a long series in equal groups."""
    if len(points) <= MOST_POINTS:
        return points
    groups = [points[i * len(points) // MOST_POINTS : (i + 1) * len(points) // MOST_POINTS] for i in range(MOST_POINTS)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def _range(values: list[float]) -> tuple[float, float]:
    """Return the lowest and the highest value, with a margin if all are alike."""
    low, high = min(values), max(values)
    if high - low <= SMALLEST_RANGE * max(1.0, abs(high)):
        margin = abs(high) / 2 if abs(high) > SMALLEST_RANGE else 0.5
        return low - margin, high + margin
    return low, high


def _ticks(low: float, high: float) -> list[float]:
    """Return three to seven round numbers (1, 2 or 5 times a power of ten apart) that enclose a range."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    gap = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / gap + 1e-9), math.ceil(high / gap - 1e-9)
    return [round(gap * number, 12) for number in range(first, last + 1)]


def _spread(positions: list[float], distance: float = 14.0) -> list[float]:
    """Move positions as little as possible, so that labels are a line's height apart and inside the drawing."""
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    moved = list(positions)
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + distance)
    limit = HEIGHT - BOTTOM + 4.0
    for index in reversed(order):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - distance
    return moved
