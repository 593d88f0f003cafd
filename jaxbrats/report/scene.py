"""What the viewer shows of a case, made small: grey values in bytes, the brain's box alone, images compressed.

Images are WebP mosaics of axial slices, which every browser decodes; they lose a little, as photographs do, because
lossless images of 30 cases would take more than 100 MB. Labels are exact.
"""

import base64
import dataclasses
import gzip
import io
import math
from collections.abc import Sequence
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image

from jaxbrats.data.labels import LABEL_NAMES
from jaxbrats.data.raw.geometry import bounding_box
from jaxbrats.report.colours import COLOURS
from jaxbrats.report.orientation import DISPLAY_ENDS, Orientation
from jaxbrats.report.overlays import largest_slices

# Compressed bytes of a page's volumes: with base64 and the page around them, 30 pages stay below 60 MB.
PAGE_BYTES = 1_400_000
# Voxels of all modalities together that a page shows; of larger volumes every second (third, ...) is shown, so that
# telephones can.
PAGE_VOXELS = 24_000_000
_QUALITIES = (92, 85, 75, 60, 40, 20, 5)
_MARGIN = 3
# Grey values are spread over this range of percentiles; the viewer's window begins with the narrower one.
_RANGE, _WINDOW = (0.1, 99.9), (1, 99)
_SAMPLE = 4_000_000
# WebP codes blocks of 16 x 16: in tiles of whole blocks, no slice leaks into its neighbour.
_BLOCK = 16
# Pixels of a thumbnail's longer side.
_THUMBNAIL = 112


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
    """The volumes of a case on display axes, which run to the patient's left, back and feet.

    Attributes:
        images: For each modality uint8 (X, Y, Z), 0 outside of the brain.
        windows: For each modality the grey values to show black and white at first.
        truth: uint8 labels (X, Y, Z).
        prediction: uint8 labels (X, Y, Z).
        spacing_mm: Of a voxel along the display axes.
        to_source: (3, 4), from indices of these volumes to voxels of the volume that was scored.
        to_world: (3, 4), from indices of these volumes to millimetres right, front, up; None where sides are not known.
        step: 1 where every voxel is shown along each axis, 2 where every second is, and so on.
    """

    images: list[np.ndarray]
    windows: list[tuple[int, int]]
    truth: np.ndarray
    prediction: np.ndarray
    spacing_mm: tuple[float, float, float]
    to_source: np.ndarray
    to_world: np.ndarray | None
    step: int

    def index_of(self, source_voxel: Sequence[int]) -> tuple[int, int, int]:
        """The index, of those shown, that is nearest to a voxel of the volume that was scored."""
        inverse = np.linalg.inv(nib.affines.from_matvec(self.to_source[:, :3], self.to_source[:, 3]))
        index = np.rint(nib.affines.apply_affine(inverse, source_voxel)).astype(int)
        return tuple(np.clip(index, 0, np.array(self.truth.shape) - 1).tolist())


def make_scene(
    image: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    orientation: Orientation,
) -> Scene:
    """Turns a case's volumes into what the viewer shows.

    Args:
        image: `(X, Y, Z, C)` as the network sees it.
        truth: Labels `(X, Y, Z)`.
        prediction: Labels `(X, Y, Z)`.
        orientation: How the volumes' voxels lie in the patient.
    """
    occupied = np.logical_or.reduce([volume != 0 for volume in (*np.moveaxis(image, -1, 0), truth, prediction)])
    box = [slice(max(side.start - _MARGIN, 0), side.stop + _MARGIN) for side in bounding_box(occupied)]
    box = [slice(*side.indices(size)) for side, size in zip(box, truth.shape, strict=True)]
    shown = math.prod(side.stop - side.start for side in box) * image.shape[-1]
    step = math.ceil((shown / PAGE_VOXELS) ** (1 / 3))
    box = tuple(slice(side.start, side.stop, step) for side in box)
    volumes = [orientation.display(volume[box]) for volume in (*np.moveaxis(image, -1, 0), truth, prediction)]
    shape = [len(range(side.start, side.stop, step)) for side in box]

    to_box = nib.orientations.inv_ornt_aff(orientation.to_display(), shape)
    to_source = nib.affines.from_matvec(np.eye(3) * step, [side.start for side in box]) @ to_box
    greys = [_quantise(volume) for volume in volumes[:-2]]
    return Scene(
        images=[grey for grey, _ in greys],
        windows=[window for _, window in greys],
        truth=volumes[-2],
        prediction=volumes[-1],
        spacing_mm=tuple((orientation.display_spacing() * step).tolist()),
        to_source=to_source[:3],
        to_world=(orientation.affine @ to_source)[:3] if orientation.known else None,
        step=step,
    )


def pack(scene: Scene, modalities: Sequence[str], most_bytes: int = PAGE_BYTES) -> dict[str, Any]:
    """A scene as JSON for the viewer's script.

    Args:
        scene: Of a case.
        modalities: Titles of its images.
        most_bytes: What images and labels together take at most, where the lowest quality allows it.
    """
    labels = gzip.compress((scene.truth | scene.prediction << 2).ravel("F").tobytes(), 6, mtime=0)
    mosaics = [Image.fromarray(mosaic(image)) for image in scene.images]
    for quality in _QUALITIES:
        images = [_webp(one, quality) for one in mosaics]
        if sum(map(len, images)) + len(labels) <= most_bytes:
            break
    across, down, count = scene.truth.shape
    return {
        "shape": [across, down, count],
        "spacing": list(scene.spacing_mm),
        "toSource": scene.to_source.tolist(),
        "toWorld": None if scene.to_world is None else scene.to_world.tolist(),
        "ends": None if scene.to_world is None else DISPLAY_ENDS,
        "columns": _columns(count),
        "tile": [_padded(across), _padded(down)],
        "modalities": [
            {"title": title, "window": list(window), "image": data_uri(data, "image/webp")}
            for title, window, data in zip(modalities, scene.windows, images, strict=True)
        ],
        # x fastest; bits 0 and 1 are the truth, 2 and 3 the prediction.
        "labels": data_uri(labels, "application/gzip"),
    }


def thumbnail(scene: Scene) -> str:
    """The axial slice with the most tumour, the prediction over the first image; a data URI."""
    index = largest_slices(scene.truth if scene.truth.any() else scene.prediction)[2]
    black, white = scene.windows[0]
    grey = (np.clip(scene.images[0][:, :, index].T, black, white) - black) / (white - black)
    labels = scene.prediction[:, :, index].T
    colours = np.array([to_rgb(COLOURS[name]) for name in LABEL_NAMES])
    over = np.where(labels[..., None] > 0, 0.45 * grey[..., None] + 0.55 * colours[labels], grey[..., None])
    extent = np.array(labels.shape[::-1]) * scene.spacing_mm[:2]
    size = np.maximum(1, np.rint(extent * _THUMBNAIL / extent.max())).astype(int)
    picture = Image.fromarray((over * 255).astype(np.uint8)).resize(tuple(size.tolist()))
    return data_uri(_webp(picture, 80), "image/webp")


def data_uri(data: bytes, kind: str) -> str:
    """`data` as an address that needs no file."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def mosaic(volume: np.ndarray) -> np.ndarray:
    """The slices along the last axis of a uint8 volume `(X, Y, Z)` as one picture `(down, across)`, row by row."""
    across, down, count = volume.shape
    columns, width, height = _columns(count), _padded(across), _padded(down)
    picture = np.zeros((math.ceil(count / columns), height, columns, width), np.uint8)
    for number in range(count):
        picture[number // columns, :down, number % columns, :across] = volume[:, :, number].T
    return picture.reshape(picture.shape[0] * height, columns * width)


def _columns(count: int) -> int:
    return math.ceil(math.sqrt(count))


def _padded(size: int) -> int:
    return math.ceil(size / _BLOCK) * _BLOCK


def _webp(picture: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=quality)
    return file.getvalue()


def _quantise(volume: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Grey values 1 to 255, 0 for voxels of exactly 0, which lie outside of the brain; and the window to begin with."""
    sparse = max(1, round((volume.size / _SAMPLE) ** (1 / 3)))
    sample = volume[::sparse, ::sparse, ::sparse]
    values = sample[sample != 0]
    if not len(values):
        return np.zeros(volume.shape, np.uint8), (0, 255)
    low, window_low, window_high, high = np.percentile(values, (_RANGE[0], *_WINDOW, _RANGE[1])).tolist()
    # One value only, such as a mask, is shown white.
    scale = 254 / (high - low) if high > low else 0.0

    def level(value: Any) -> Any:
        return np.clip(1 + (value - low) * scale, 1, 255) if scale else value * 0 + 255

    grey = np.where(volume == 0, 0, np.rint(level(volume))).astype(np.uint8)
    black, white = int(level(window_low)), math.ceil(level(window_high))
    return grey, (black, white) if black < white else (0, 255)
