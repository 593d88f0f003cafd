"""Box plots of the scores of all cases, with the case behind every dot."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxbrats.report.colours import COLOURS
from jaxbrats.report.figures import INK, Point, chart

# Of a group with more cases, only those beyond the whiskers are drawn: more dots would hide the box.
MOST_DOTS = 60
# Distances are drawn on a scale that spreads small ones and still holds the 374 mm of a complete miss.
_MM_TICKS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 374)


def box_plot(
    title: str, groups: Mapping[str, Sequence[Point]], y_label: str, *, distances: bool = False
) -> tuple[Figure, list[Point]] | None:
    """A box for each group: quartiles, whiskers to the furthest case within 1.5 of its height, cases as dots.

    Args:
        title: Above the chart.
        groups: Name of a region or label -> its cases; a value that is not finite is left out.
        y_label: What the values are.
        distances: Whether they are distances in mm, which may be large, or scores from 0 to 1.

    Returns:
        The figure and the cases among its artists, as `figures.to_svg` takes them; None where no group has a value.
    """
    groups = {name: [one for one in points if np.isfinite(one.value)] for name, points in groups.items()}
    if not any(groups.values()):
        return None
    axes = chart(title, bottom=0.32, height=2.62)
    axes.set_ylabel(y_label)
    axes.grid(axis="x", visible=False)
    drawn: list[Point] = []
    for position, (name, points) in enumerate(groups.items()):
        if points:
            drawn += _draw_box(axes, position, points, COLOURS[name], first=len(drawn))
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.set_xticks(range(len(groups)), list(groups))
    axes.tick_params(axis="x", labelsize=9.5, labelcolor=INK)
    if distances:
        highest = max(point.value for points in groups.values() for point in points)
        ticks = _MM_TICKS[: max(int(np.searchsorted(_MM_TICKS, highest)), 1) + 1]
        axes.set_yscale("function", functions=(np.log1p, np.expm1))
        axes.set_yticks(ticks, [f"{tick}" for tick in ticks])
        axes.set_ylim(0, max(highest, ticks[-1]))
    else:
        axes.set_ylim(0, 1)
    return axes.figure, drawn


def _draw_box(axes: Axes, position: int, points: Sequence[Point], colour: str, first: int) -> list[Point]:
    """Draws one group and returns the cases drawn as dots, whose URLs count from `first`."""
    values = np.array([point.value for point in points])
    line = {"color": colour, "linewidth": 1.3}
    parts = axes.boxplot(
        values,
        positions=[position],
        widths=0.5,
        showfliers=False,
        showcaps=False,
        patch_artist=True,
        boxprops={"facecolor": (colour, 0.14), "edgecolor": colour, "linewidth": 1.3},
        whiskerprops=line,
        medianprops=line | {"linewidth": 2.8},
    )
    low, high = (whisker.get_ydata()[1] for whisker in parts["whiskers"])
    dots = list(points) if len(points) <= MOST_DOTS else [one for one in points if not low <= one.value <= high]
    # Spread by the golden ratio, so that dots of like values lie apart, the same way each time.
    aside = ((np.arange(len(dots)) * 0.618034) % 1 - 0.5) * 0.38
    style = {"s": 17, "color": colour, "alpha": 0.7, "edgecolors": "white", "linewidths": 0.5, "zorder": 3}
    scatter = axes.scatter(position + aside, [dot.value for dot in dots], clip_on=False, **style)
    scatter.set_urls([str(first + number) for number in range(len(dots))])
    return dots
