"""The viewer in a case's page: its controls and panels, which the page's scripts bring to life."""

from collections.abc import Sequence
from typing import Any

from jaxbrats.data.labels import LABEL_NAMES, LABEL_TITLES, REGIONS
from jaxbrats.report.colours import COLOURS
from jaxbrats.report.overlays import PLANES, largest_slices
from jaxbrats.report.pages.markup import Markup, json_block, tag
from jaxbrats.report.pages.scene import Scene, pack

SCRIPTS = ("volume.js", "drawing.js", "viewer.js")
# Apart by lightness too, and unlike any grey of an image.
ERROR_COLOURS = {"agreed": "#E8ECEF", "missed": "#FF4FC3", "extra": "#7BE34B"}
_ERROR_TITLES = {"agreed": "both agree", "missed": "missed: truth alone", "extra": "false positive: prediction alone"}


def viewer(scene: Scene, modalities: Sequence[str]) -> Markup:
    """The viewer with its data.

    Args:
        scene: Of the case.
        modalities: Titles of its images.
    """
    across, down, _ = zip(*PLANES.values(), strict=True)
    extent = [size * step for size, step in zip(scene.truth.shape, scene.spacing_mm, strict=True)]
    # One scale for the three: widths in proportion to millimetres, heights that of the tallest.
    shape = f"--columns:{' '.join(f'{extent[axis]:.0f}fr' for axis in across)};"
    shape += f"--tallest:{sum(extent[axis] for axis in across) / max(extent[axis] for axis in down):.3f}"
    return tag(
        "section",
        _toolbar(modalities),
        tag("div", [_panel(plane, extent) for plane in PLANES], class_="planes", style=shape),
        tag("p", tag("span", "Reading the volumes …", id="point"), tag("b", id="lesion"), class_="point"),
        tag("div", _legends(), tag("p", id="drawn"), class_="legends"),
        tag("noscript", tag("p", "The viewer needs JavaScript.", class_="point")),
        _help(scene),
        json_block("scene", pack(scene, modalities) | _meaning(scene)),
        class_="viewer",
        id="viewer",
        aria_label="Viewer",
    )


def _meaning(scene: Scene) -> dict[str, Any]:
    """What the script knows of labels and colours, and where it begins: at the most tumour."""
    begin = scene.truth if scene.truth.any() else scene.prediction
    return {
        "start": largest_slices(begin),
        "colours": [COLOURS[name] for name in LABEL_NAMES],
        "labelTitles": LABEL_TITLES,
        "regions": REGIONS,
        "errors": ERROR_COLOURS,
    }


def _toolbar(modalities: Sequence[str]) -> Markup:
    layers = {"truth": "Truth", "prediction": "Prediction", "errors": "Errors"}
    return tag(
        "div",
        _group("Image", [(title, {"data_modality": number}) for number, title in enumerate(modalities)], 0),
        _group("Show", [(title, {"data_layer": name}) for name, title in layers.items()], 0, 1),
        _group("Region", [(region, {"data_region": region}) for region in REGIONS], 0),
        _group("Lesion", [("←", {"data_turn": -1}), ("→", {"data_turn": 1})]),
        _group("Zoom", [(f"{zoom}x", {"data_zoom": zoom}) for zoom in (1, 2, 4)], 0),
        tag(
            "div",
            _slider("Opacity", "opacity", 0, 100, 5, 40),
            _slider("Brightness", "brightness", -0.8, 0.8, 0.05, 0),
            _slider("Contrast", "contrast", -1.5, 1.5, 0.05, 0),
            tag("button", "Reset", type="button", id="reset", class_="quiet-button", title="Brightness and contrast"),
            class_="sliders",
        ),
        class_="toolbar",
    )


def _group(title: str, buttons: Sequence[tuple[str, dict[str, Any]]], *pressed: int) -> Markup:
    made = [
        tag(
            "button",
            text,
            type="button",
            aria_pressed=("true" if number in pressed else "false") if pressed else None,
            **data,
        )
        for number, (text, data) in enumerate(buttons)
    ]
    return tag(
        "div", tag("span", title), tag("div", made, class_="segments", role="group", aria_label=title), class_="control"
    )


def _slider(title: str, identity: str, low: float, high: float, step: float, value: float) -> Markup:
    slider = tag("input", type="range", id=identity, min=low, max=high, step=step, value=value)
    return tag("label", tag("span", title), slider, class_="control")


def _panel(plane: str, extent: Sequence[float]) -> Markup:
    across, down, _ = PLANES[plane]
    picture = tag("canvas", class_="picture", tabindex=0, role="img", aria_label=f"{plane} slice")
    profile = tag("canvas", class_="profile", aria_hidden="true")
    slider = tag("input", type="range", min=0, max=0, step=1, aria_label=f"{plane} slice")
    ratio = f"--ratio:{extent[across]:.0f}/{extent[down]:.0f}"
    return tag("figure", picture, profile, slider, tag("figcaption", plane), data_plane=plane, style=ratio)


def _legends() -> list[Markup]:
    labels = [_entry(COLOURS[name], title) for name, title in zip(LABEL_NAMES[1:], LABEL_TITLES[1:], strict=True)]
    errors = [_entry(ERROR_COLOURS[kind], title) for kind, title in _ERROR_TITLES.items()]
    return [
        tag("ul", labels, class_="legend", id="label-legend"),
        tag("ul", errors, class_="legend", id="error-legend", hidden=True),
    ]


def _entry(colour: str, text: str) -> Markup:
    return tag("li", tag("i", class_="swatch", style=f"background:{colour}"), text)


def _help(scene: Scene) -> Markup:
    sides = (
        "Radiological convention: the patient's right is on the image's left."
        if scene.to_world is not None
        else "Sides not known: shown as if the voxels were in the order of BraTS files (left, back, head)."
    )
    lines = [
        sides,
        "Click a picture to move the planes; then the wheel, arrows and Page Up/Down go through it. Keys: T truth, "
        "P prediction, E errors, 1 to 9 image.",
        "Above each slider: how much of the region is in each slice, predicted (filled) and true (line).",
        "Images are cut to the head, reduced to 254 greys and compressed for the page; labels are exact.",
    ]
    if scene.step > 1:
        lines.append(f"Of this large volume one voxel in {scene.step} is shown along each axis.")
    return tag("details", tag("summary", "About the pictures"), [tag("p", line) for line in lines], class_="help")
