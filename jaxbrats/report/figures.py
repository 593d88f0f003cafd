"""What all figures share: an empty page, text that is taken literally, and how they are written as PNG and as SVG.

The figures use Matplotlib's objects directly, without pyplot: no display is needed, and no global list of open figures
grows with them or is shared between threads.
"""

import hashlib
import io
import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from jaxbrats.system import files
from jaxbrats.system.errors import printable

INK = "#1B1F24"
QUIET = "#5B6570"
DOTS_PER_INCH = 160
_SMALLEST = 5.0
# Inches, of a chart and of the axes in it.
_WIDTH, _HEIGHT, _LEFT, _AXES_WIDTH = 5.2, 3.35, 0.56, 4.5
# Bytes of a file's name that its case may take: room is left for what comes before and after it.
_LONGEST_STEM = 200


class Point(NamedTuple):
    """A case among the dots of a chart.

    Attributes:
        name: Shown when it is pointed at.
        value: Its score.
        link: Address of its page; None where it has none.
    """

    name: str
    value: float
    link: str | None = None


def page(width: float, height: float) -> Figure:
    """An empty white figure of `width` x `height` inches."""
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def chart(title: str, run_name: str = "", bottom: float = 0.5, height: float = 2.3) -> Axes:
    """The axes of a new figure with a title, and the run's name beside it.

    Args:
        title: Above the chart.
        run_name: Whatever the run is called.
        bottom: Of the axes, inches from the figure's.
        height: Of the axes, inches; the default leaves room for a legend.
    """
    figure = page(_WIDTH, _HEIGHT)
    line = write_line(figure, _LEFT, _HEIGHT - 0.22, title, _AXES_WIDTH, fontsize=11, fontweight="bold")
    if run_name:
        start = line.get_window_extent(figure.canvas.get_renderer()).x1 / figure.dpi + 0.12
        write_line(figure, start, _HEIGHT - 0.22, run_name, _LEFT + _AXES_WIDTH - start, fontsize=9, color=QUIET)
    axes = figure.add_axes((_LEFT / _WIDTH, bottom / _HEIGHT, _AXES_WIDTH / _WIDTH, height / _HEIGHT))
    axes.spines[:].set_visible(False)
    axes.grid(color="#DFE4E8", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8.5, labelcolor=QUIET)
    axes.xaxis.label.set(color=QUIET, fontsize=8.5)
    axes.yaxis.label.set(color=QUIET, fontsize=8.5)
    return axes


def write_line(figure: Figure, x: float, y: float, text: str, width: float, **style: object) -> Text:
    """Writes one line of someone else's text (a case's or a run's name) literally and so that it fits.

    A `$` is a dollar sign, not the start of a formula, and characters that cannot be printed are written as escapes.
    Text that is too long is made smaller, and once it is small loses its middle: names differ at their ends.

    Args:
        figure: The page.
        x: Left end, inches from the page's left.
        y: Baseline, inches from the page's bottom.
        text: What to write.
        width: The room there is, inches.
        **style: Properties of `matplotlib.text.Text`.
    """
    literal = printable(text)
    page_width, page_height = figure.get_size_inches()
    line = figure.text(x / page_width, y / page_height, literal, parse_math=False, **{"color": INK, **style})
    # In a loop because letters are not exactly in proportion to their size.
    while (taken := _width(line)) > width and (size := line.get_fontsize()) > _SMALLEST:
        line.set_fontsize(max(_SMALLEST, min(size * width / taken, size - 0.1)))
    kept = len(literal)
    while (taken := _width(line)) > width and kept > 2:
        kept = min(kept - 1, int(kept * width / taken))
        line.set_text(literal[: kept // 2] + "…" + literal[-(kept // 2) :])
    return line


def _width(line: Text) -> float:
    figure = line.get_figure()
    return line.get_window_extent(figure.canvas.get_renderer()).width / figure.dpi


def file_stem(case: str) -> str:
    """A case's name as part of a file's name; of one that is too long, or has a slash, the beginning and a digest."""
    plain = case.replace("/", "_").replace("\0", "_")
    name = os.fsencode(plain)
    if plain == case and len(name) <= _LONGEST_STEM:
        return case
    digest = hashlib.sha256(os.fsencode(case)).hexdigest()[:16]
    return f"{name[: _LONGEST_STEM - 17].decode(errors='ignore')}-{digest}"


def write_png(figure: Figure, path: str | pathlib.Path) -> pathlib.Path:
    """Renders the figure to a PNG file, all of it or nothing, and returns its path."""
    path = pathlib.Path(path)
    with files.replacing(path) as temporary:
        figure.canvas.print_png(temporary)
    return path


def to_svg(figure: Figure, title: str, description: str, points: Sequence[Point] = ()) -> str:
    """The figure as an SVG element for an HTML page, the same at every call; its text is text, in the page's font.

    Args:
        figure: What to draw; an artist with the URL "N" becomes a link to the page of `points[N]`.
        title: Read out, and unique in the page.
        description: Read out after the title.
        points: Cases among the figure's artists.
    """
    file = io.BytesIO()
    fixed = {"svg.fonttype": "none", "svg.hashsalt": title, "font.sans-serif": ["DejaVu Sans"]}
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context(fixed):
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    root = ElementTree.fromstring(file.getvalue())
    for element in root.iter():
        # HTML knows the elements by their bare names.
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {name.rpartition("}")[2]: value for name, value in element.items()}
        element.text, element.tail = (element.text or "").strip(), ""
        if element.tag == "g":
            element.attrib.pop("id", None)
        if element.tag == "path":
            element.set("d", re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", element.get("d")))
        if element.tag == "a":
            point = points[int(element.get("href"))]
            element.tag = "a" if point.link else "g"
            element.attrib = {"href": point.link} if point.link else {}
            _insert(element, "title", point.name)
    # The style sheet in it would be that of the whole page.
    for parent in root.iter("defs"):
        for style in parent.findall("style"):
            parent.remove(style)
    root.attrib = {"viewBox": root.get("viewBox"), "role": "group" if points else "img", "aria-label": title}
    _insert(root, "desc", description)
    return ElementTree.tostring(root, encoding="unicode")


def _insert(element: ElementTree.Element, name: str, text: str) -> None:
    child = ElementTree.Element(name)
    child.text = printable(text)
    element.insert(0, child)
