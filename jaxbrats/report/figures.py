"""What all figures share: an empty page, text that is taken literally, and a file that is there whole or not at all.

The figures use Matplotlib's objects directly, without pyplot: no display is needed, and no global list of open figures
grows with them or is shared between threads.
"""

import pathlib

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from jaxbrats.system import files

INK = "#1B1F24"
QUIET = "#5B6570"
DOTS_PER_INCH = 160
_SMALLEST = 5.0


def page(width: float, height: float) -> Figure:
    """An empty white figure of `width` x `height` inches."""
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


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
    literal = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
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


def write_png(figure: Figure, path: str | pathlib.Path) -> pathlib.Path:
    """Renders the figure to a PNG file, all of it or nothing, and returns its path."""
    path = pathlib.Path(path)
    with files.replacing(path) as temporary:
        figure.canvas.print_png(temporary)
    return path
