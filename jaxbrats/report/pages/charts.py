"""Charts as SVG inside the page: sharp at any size, a few kilobytes, with the case behind every point."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from jaxbrats.report.pages.markup import Markup, join, tag

# Units of the drawing; the page scales it.
WIDTH, HEIGHT = 440, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 12, 40
_LOG_FROM_RATIO = 100.0
# Of a group with more cases, only those beyond the whiskers are drawn.
MOST_DOTS = 60
# Distances are drawn on a scale that spreads small ones and still holds the 374 mm of a complete miss.
_MM_TICKS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 374)


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve: values that are not finite are left out and its neighbours joined.

    Attributes:
        name: In the legend.
        x: (N,).
        y: (N,).
        colour: CSS.
        style: "solid", "dashed", "faint", or "star" for a single point to mark.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    colour: str
    style: str = "solid"


@dataclasses.dataclass(frozen=True)
class Point:
    """A case in a box plot.

    Attributes:
        name: Shown when it is pointed at.
        value: Its score.
        link: Its page; None where it has none.
    """

    name: str
    value: float
    link: str | None


def line_chart(
    title: str, lines: Sequence[Line], y_label: str, limits: tuple[float, float] | None = None
) -> Markup | None:
    """Curves over epochs; None where no line has a value.

    Args:
        title: Above the chart.
        lines: In the order in which they are drawn.
        y_label: What the values are.
        limits: Of the values; None for those that occur, in logarithms where they span more than 1 : 100.
    """
    lines = [
        dataclasses.replace(line, x=line.x[keep], y=line.y[keep])
        for line in lines
        if (keep := np.isfinite(line.y)).any()
    ]
    if not lines:
        return None
    values = np.concatenate([line.y for line in lines])
    last = max(1.0, *(float(line.x[-1]) for line in lines))
    low, high = limits or (float(values.min()), float(values.max()))
    log = limits is None and low > 0 and high > _LOG_FROM_RATIO * low
    ticks = _ticks(low, high, log)
    scale = math.log if log else float
    to_y = _scale(scale(min(low, ticks[0])), scale(max(high, ticks[-1])), scale)

    def to_x(value: float) -> float:
        return _LEFT + value / last * (WIDTH - _LEFT - _RIGHT)

    parts = [_grid(to_y, ticks, y_label), _epoch_axis(to_x, last)]
    for line in lines:
        places = [(f"{to_x(x):.1f}", f"{to_y(y):.1f}") for x, y in zip(line.x.tolist(), line.y.tolist(), strict=True)]
        if line.style == "star":
            parts.append(tag("text", "★", x=places[0][0], y=places[0][1], dy="0.36em", class_="star", fill=line.colour))
        elif len(places) == 1:
            # One epoch alone is no line.
            parts.append(tag("circle", cx=places[0][0], cy=places[0][1], r=3, fill=line.colour))
        else:
            points = " ".join(map(",".join, places))
            parts.append(tag("polyline", points=points, class_=f"line {line.style}", stroke=line.colour))
    return _figure(title, parts, [(line.name, line.colour, line.style) for line in lines])


def box_plot(
    title: str, groups: Mapping[str, Sequence[Point]], colours: Mapping[str, str], y_label: str, distances: bool
) -> Markup | None:
    """A box for each group: quartiles, whiskers to the furthest case within 1.5 of its height, cases as dots.

    None where no group has a value.

    Args:
        title: Above the chart.
        groups: Region -> its cases; a value that is not finite is left out.
        colours: Region -> CSS colour.
        y_label: What the values are.
        distances: Whether they are millimetres (from 0, most of them small) instead of scores from 0 to 1.
    """
    groups = {name: [point for point in points if math.isfinite(point.value)] for name, points in groups.items()}
    highest = max((point.value for points in groups.values() for point in points), default=None)
    if highest is None:
        return None
    if distances:
        ticks = [tick for tick, below in zip(_MM_TICKS, (0, *_MM_TICKS), strict=False) if below < max(highest, 1)] or [
            0,
            1,
        ]
        to_y = _scale(0.0, math.log1p(max(highest, ticks[-1])), math.log1p)
    else:
        ticks = [0, 0.2, 0.4, 0.6, 0.8, 1.0]
        to_y = _scale(0.0, 1.0, float)
    pitch = (WIDTH - _LEFT - _RIGHT) / len(groups)
    parts = [_grid(to_y, ticks, y_label)]
    for number, (name, points) in enumerate(groups.items()):
        middle = _LEFT + (number + 0.5) * pitch
        parts.append(tag("text", name, x=f"{middle:.1f}", y=HEIGHT - _BOTTOM + 18, class_="tick middle strong"))
        if points:
            parts.append(_box(points, middle, min(0.28 * pitch, 26), to_y, colours[name]))
    return _figure(title, parts, [])


def _box(points: Sequence[Point], middle: float, half: float, to_y: Callable, colour: str) -> Markup:
    values = np.array([point.value for point in points])
    q1, median, q3 = np.percentile(values, (25, 50, 75)).tolist()
    reach = 1.5 * (q3 - q1)
    inside = values[(values >= q1 - reach) & (values <= q3 + reach)]
    low, high = float(inside.min()), float(inside.max())

    def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
        ends = {"x1": x1, "x2": x2, "y1": to_y(y1), "y2": to_y(y2)}
        return tag("line", class_=class_, stroke=colour, **{key: f"{value:.1f}" for key, value in ends.items()})

    top, bottom = to_y(q3), to_y(q1)
    box = {"x": middle - half, "y": top, "width": 2 * half, "height": max(bottom - top, 0.5)}
    parts = [
        line(middle, low, middle, q1, "whisker"),
        line(middle, q3, middle, high, "whisker"),
        tag(
            "rect",
            class_="box",
            fill=colour,
            stroke=colour,
            rx=2,
            **{key: f"{value:.1f}" for key, value in box.items()},
        ),
        line(middle - half, median, middle + half, median, "median"),
    ]
    # More dots would hide the box.
    shown = points if len(points) <= MOST_DOTS else [point for point in points if not low <= point.value <= high]
    for number, point in enumerate(shown):
        # Spread by the golden ratio, so that dots of like values lie apart, the same way each time.
        aside = ((number * 0.618034) % 1 - 0.5) * 1.5 * half
        place = {"cx": f"{middle + aside:.1f}", "cy": f"{to_y(point.value):.1f}"}
        dot = tag("circle", tag("title", point.name), r=3.2, fill=colour, class_="dot", **place)
        parts.append(tag("a", dot, href=point.link) if point.link else dot)
    return join(parts)


def _ticks(low: float, high: float, log: bool) -> list[float]:
    if log:
        return [tick for tick in LogLocator(numticks=8).tick_values(low, high) if low <= tick <= high] or [low, high]
    return [round(tick, 12) for tick in MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high).tolist()]


def _scale(low: float, high: float, transform: Callable[[float], float]) -> Callable[[float], float]:
    """Value -> height in the drawing."""
    span = (high - low) or 1.0
    return lambda value: HEIGHT - _BOTTOM - (transform(value) - low) / span * (HEIGHT - _TOP - _BOTTOM)


def _grid(to_y: Callable, ticks: Sequence[float], label: str) -> Markup:
    parts = []
    for tick in ticks:
        y = f"{to_y(tick):.1f}"
        parts.append(tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", f"{tick:g}", x=_LEFT - 6, y=f"{to_y(tick) + 4:.1f}", class_="tick end"))
    middle = (HEIGHT + _TOP - _BOTTOM) / 2
    parts.append(tag("text", label, transform=f"translate(11 {middle:.0f}) rotate(-90)", class_="tick middle"))
    return join(parts)


def _epoch_axis(to_x: Callable, last: float) -> Markup:
    ticks = MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]).tick_values(0, last)
    y = HEIGHT - _BOTTOM + 16
    parts = [
        tag("text", f"{tick:g}", x=f"{to_x(tick):.1f}", y=y, class_="tick middle") for tick in ticks if tick <= last
    ]
    return join([*parts, tag("text", "epoch", x=(WIDTH + _LEFT - _RIGHT) / 2, y=HEIGHT - 6, class_="tick middle")])


def _figure(title: str, parts: Sequence[Markup], legend: Sequence[tuple[str, str, str]]) -> Markup:
    drawing = tag("svg", parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title)
    entries = [
        tag("li", tag("i", class_=f"key {style}", style=f"color:{colour}"), name) for name, colour, style in legend
    ]
    return tag(
        "figure",
        tag("figcaption", title),
        tag("ul", entries, class_="legend") if entries else None,
        drawing,
        class_="chart",
    )
