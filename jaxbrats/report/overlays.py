"""A case in one picture: the image alone and under each segmentation, in three planes, as radiologists hang it."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from jaxbrats.data.labels import ED, ET, LABEL_NAMES, LABEL_TITLES, NCR
from jaxbrats.data.raw.geometry import bounding_box
from jaxbrats.report.colours import COLOURS
from jaxbrats.report.figures import INK, QUIET, page, write_line
from jaxbrats.report.orientation import DISPLAY_ENDS, Orientation

DISCLAIMER = "For research and education; not a medical device."

# The display axes that run across, down and through each plane.
PLANES = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}

FILL_OPACITY = 0.4
# Two labels that touch share an edge; it is the inner one's.
_OUTERMOST_FIRST = (ED, ET, NCR)
_WINDOW = (1, 99)
_WINDOW_VOXELS = 4_000_000
_GREYS = "Grey: 1st to 99th percentile of non-zero voxels."

# Inches. A panel is at most _PANEL wide and high, but as wide as its legend and as high as its letters need.
_PANEL, _NARROWEST, _LOWEST = 2.5, 2.2, 0.7
_GAP, _LEFT, _RIGHT, _TOP, _BOTTOM = 0.05, 0.36, 0.12, 0.84, 0.98


def overlay_figure(
    image: np.ndarray,
    labels: Sequence[tuple[str, np.ndarray]],
    orientation: Orientation,
    title: str = "",
    subtitle: str = "",
    image_title: str = "image",
) -> Figure:
    """A figure of a case: a row for each plane, a column for the image and one for each segmentation over it.

    The slices are those with the most tumour in the first segmentation that has any, so the reference goes first; with
    no tumour at all they go through the volume's centre. Grey values run from the 1st to the 99th percentile of the
    voxels that are not zero. All panels have one scale. Each panel's axes are labelled "PLANE COLUMN" and measured in
    mm from the corner of the first voxel displayed.

    Args:
        image: One modality, `(X, Y, Z)`, in the file's voxel order.
        labels: Column titles and volumes `(X, Y, Z)` of the project's labels, in the same voxel order, such as
            `[("truth", truth), ("prediction", prediction)]`.
        orientation: How the voxels lie; where the sides are not known, the picture says so.
        title: The case's name.
        subtitle: Its scores, for example.
        image_title: Above the first column, such as the modality.

    Raises:
        ValueError: the volumes differ in shape.
    """
    for name, volume in labels:
        if volume.shape != image.shape:
            raise ValueError(f"{name}: labels of shape {volume.shape} over an image of shape {image.shape}")
    window = grey_window(image)
    image = orientation.display(image)
    segmentations = [orientation.display(volume) for _, volume in labels]
    columns = [(image_title, None), *zip((name for name, _ in labels), segmentations, strict=True)]
    reference = next((number for number, volume in enumerate(segmentations) if volume.any()), None)
    slices = largest_slices(np.zeros(image.shape, bool) if reference is None else segmentations[reference])

    spacing = orientation.display_spacing()
    first, last = _occupied_box([image, *segmentations])
    extent, centre = (last - first) * spacing, (last + first) / 2 * spacing
    mm_per_inch = max(extent) / _PANEL
    column_width = max(max(extent[:2]) / mm_per_inch, _NARROWEST)
    row_heights = [max(extent[down] / mm_per_inch, _LOWEST) for _, down, _ in PLANES.values()]
    lefts = [_LEFT + number * (column_width + _GAP) for number in range(len(columns))]
    width = lefts[-1] + column_width + _RIGHT
    height = _TOP + sum(row_heights) + 2 * _GAP + _BOTTOM
    figure = page(width, height)

    bottom = height - _TOP
    for (plane, (across, down, through)), row_height in zip(PLANES.items(), row_heights, strict=True):
        bottom -= row_height
        name = orientation.name_slice(through, slices[through], image.shape)
        middle = (0.2 / width, (bottom + row_height / 2) / height)
        figure.text(*middle, f"{plane}   {name}", rotation=90, ha="center", va="center", fontsize=7.5, color=QUIET)
        half_width, half_height = np.array([column_width, row_height]) * mm_per_inch / 2
        for left, (name, volume) in zip(lefts, columns, strict=True):
            box = (left / width, bottom / height, column_width / width, row_height / height)
            axes = figure.add_axes(box, facecolor="black", xticks=[], yticks=[], label=f"{plane} {name}")
            axes.spines[:].set_visible(False)
            voxel = spacing[[across, down]]
            _draw_image(axes, np.take(image, slices[through], through).T, voxel, window)
            if volume is not None:
                _draw_labels(axes, np.take(volume, slices[through], through).T, voxel)
            axes.set_xlim(centre[across] - half_width, centre[across] + half_width)
            axes.set_ylim(centre[down] + half_height, centre[down] - half_height)
            if orientation.known:
                _draw_ends(axes, DISPLAY_ENDS[across], DISPLAY_ENDS[down])
        bottom -= _GAP

    write_line(figure, _LEFT, height - 0.3, title, width - _LEFT - _RIGHT, fontsize=12, fontweight="bold")
    write_line(figure, _LEFT, height - 0.5, subtitle, width - _LEFT - _RIGHT, fontsize=9, color=QUIET)
    for left, (name, volume) in zip(lefts, columns, strict=True):
        write_line(figure, left, height - _TOP + 0.07, name, column_width, fontsize=9)
        if volume is not None:
            _draw_legend(figure, left, column_width, volume, float(np.prod(spacing)) / 1000)
    chosen = "through the volume's centre" if reference is None else f"with the most tumour in {labels[reference][0]}"
    for number, line in enumerate([*_sides(orientation), _GREYS, f"Slices {chosen}."]):
        write_line(figure, _LEFT, 0.8 - 0.14 * number, line, column_width, fontsize=6.5, color=QUIET)
    write_line(figure, _LEFT, 0.12, DISCLAIMER, width - _LEFT - _RIGHT, fontsize=6.5, color=QUIET)
    return figure


def largest_slices(labels: np.ndarray) -> tuple[int, int, int]:
    """For each axis of a label volume `(X, Y, Z)` the slice with the most tumour, of any label.

    Of several equal ones it is the middle one; without any tumour, the volume's middle.
    """
    tumour = labels > 0
    areas = [np.count_nonzero(tumour, axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
    largest = [np.flatnonzero(area == area.max()) for area in areas]
    return tuple(int(ties[len(ties) // 2]) for ties in largest)


def grey_window(image: np.ndarray) -> tuple[float, float]:
    """The values to draw black and white: the 1st and 99th percentile of the image's finite voxels that are not zero.

    Of an image of more than four million voxels, a regular sample is looked at.
    """
    step = max(1, round((image.size / _WINDOW_VOXELS) ** (1 / 3)))
    sample = image[::step, ::step, ::step]
    values = sample[np.isfinite(sample) & (sample != 0)]
    if not len(values):
        return 0.0, 1.0
    low, high = np.percentile(values, _WINDOW)
    # One value only, such as a mask, is drawn white.
    return (float(low), float(high)) if low < high else (float(low) - 1.0, float(high))


def _occupied_box(volumes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last index, `(3,)` each, of what is not zero in any volume, with a little margin."""
    box = bounding_box(np.logical_or.reduce([volume != 0 for volume in volumes]))
    first, last = np.array([(side.start, side.stop) for side in box]).T
    margin = np.ceil(0.06 * (last - first)).astype(int)
    return np.maximum(first - margin, 0), np.minimum(last + margin, volumes[0].shape)


def _draw_image(axes: Axes, cut: np.ndarray, voxel: np.ndarray, window: tuple[float, float]) -> None:
    # Around a brain that was cut out there is zero, which stays black also where normalised values are negative.
    grey = np.where(cut == 0, window[0], cut)
    axes.imshow(grey, cmap="gray", vmin=window[0], vmax=window[1], interpolation="bilinear", **_placed(cut, voxel))


def _draw_labels(axes: Axes, cut: np.ndarray, voxel: np.ndarray) -> None:
    """Each label as a translucent fill and a solid edge; `cut` is `(down, across)`."""
    fill = np.array([(*to_rgb(COLOURS[name]), FILL_OPACITY) for name in LABEL_NAMES])
    fill[0] = 0
    axes.imshow(fill[cut], interpolation="nearest", **_placed(cut, voxel))
    # The contour of a label that reaches the volume's edge is closed there by a border of nothing.
    bordered = np.pad(cut, 1)
    down, across = ((np.arange(size) - 0.5) * step for size, step in zip(bordered.shape, voxel[::-1], strict=True))
    for label in _OUTERMOST_FIRST:
        inside = bordered == label
        if inside.any():
            colour = COLOURS[LABEL_NAMES[label]]
            axes.contour(across, down, inside.astype(float), levels=[0.5], colors=[colour], linewidths=1.0)


def _placed(cut: np.ndarray, voxel: np.ndarray) -> dict:
    """Where a slice `(down, across)` lies in mm. The panel's limits, not this, keep the proportions."""
    return {"extent": (0, cut.shape[1] * voxel[0], cut.shape[0] * voxel[1], 0), "aspect": "auto"}


def _draw_ends(axes: Axes, across: str, down: str) -> None:
    outline = withStroke(linewidth=1.6, foreground="black")
    style = {"transform": axes.transAxes, "color": "white", "fontsize": 7, "path_effects": [outline]}
    axes.text(0.015, 0.5, across[0], ha="left", va="center", **style)
    axes.text(0.985, 0.5, across[1], ha="right", va="center", **style)
    axes.text(0.5, 0.985, down[0], ha="center", va="top", **style)
    axes.text(0.5, 0.015, down[1], ha="center", va="bottom", **style)


def _draw_legend(figure: Figure, left: float, column_width: float, volume: np.ndarray, voxel_ml: float) -> None:
    """The colour, the name and the volume in ml of each label, under its column."""
    width, height = figure.get_size_inches()
    for label, (name, title) in enumerate(zip(LABEL_NAMES, LABEL_TITLES, strict=True)):
        if label:
            y = 0.96 - 0.17 * label
            box = (left / width, y / height), 0.11 / width, 0.11 / height
            figure.add_artist(Rectangle(*box, facecolor=COLOURS[name], edgecolor=INK, linewidth=0.3))
            write_line(figure, left + 0.18, y + 0.01, title, 1.4, fontsize=8)
            text = f"{np.count_nonzero(volume == label) * voxel_ml:.1f} ml"
            figure.text(
                (left + column_width - 0.15) / width, (y + 0.01) / height, text, ha="right", fontsize=8, color=INK
            )


def _sides(orientation: Orientation) -> list[str]:
    if orientation.known:
        return ["Radiological convention: the patient's right", "is on the image's left."]
    return ["Sides not known: shown as if the voxels were in", "the order of BraTS files (left, back, head)."]
