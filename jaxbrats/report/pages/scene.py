"""What a viewer shows of a case, made small: grey values in bytes, the brain's box alone, images compressed.

Images are WebP mosaics of axial slices, which every browser decodes; they lose a little, as photographs do, because
lossless images of 30 cases would take more than 100 MB. Labels are exact.
"""

import dataclasses
import gzip
import io
import math
from collections.abc import Sequence
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from jaxbrats.report.orientation import DISPLAY_AXES, DISPLAY_ENDS, Orientation
from jaxbrats.report.pages.markup import data_uri

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


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
    """The volumes of a case on display axes, which run to the patient's left, back and feet.

    Attributes:
        images: For each modality uint8 (X, Y, Z), 0 outside of the brain.
        windows: For each modality the grey values to show black and white at first.
        truth: uint8 labels (X, Y, Z).
        prediction: uint8 labels (X, Y, Z).
        spacing_mm: Of a voxel along the display axes.
        to_source: (3, 4), from indices of these volumes to voxels of the source's volume.
        to_world: (3, 4), from indices of these volumes to millimetres right, front, up; None where sides are not known.
        step: Every how manieth voxel of the source is shown.
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
        """The index, of those shown, that is nearest to a voxel of the source's volume."""
        inverse = np.linalg.inv(nib.affines.from_matvec(self.to_source[:, :3], self.to_source[:, 3]))
        index = np.rint(nib.affines.apply_affine(inverse, source_voxel)).astype(int)
        return tuple(np.clip(index, 0, np.array(self.truth.shape) - 1).tolist())


def make_scene(
    image: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    orientation: Orientation,
    crop_origin: Sequence[int] = (0, 0, 0),
) -> Scene:
    """Turns a case's arrays into what the viewer shows.

    Args:
        image: `(X, Y, Z, C)` as the network sees it.
        truth: Labels `(X, Y, Z)`.
        prediction: Labels `(X, Y, Z)`.
        orientation: Of the arrays, whose affine is that of the crop.
        crop_origin: Voxel of the source's volume that is the arrays' first.
    """
    box = _box(image, truth, prediction)
    shown = math.prod(side.stop - side.start for side in box) * image.shape[-1]
    step = math.ceil((shown / PAGE_VOXELS) ** (1 / 3))
    box = tuple(slice(side.start, side.stop, step) for side in box)
    volumes = [orientation.display(volume[box]) for volume in (*np.moveaxis(image, -1, 0), truth, prediction)]
    shape = [len(range(side.start, side.stop, step)) for side in box]

    transform = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(orientation.affine), nib.orientations.axcodes2ornt(DISPLAY_AXES)
    )
    to_box = nib.orientations.inv_ornt_aff(transform, shape)
    to_array = nib.affines.from_matvec(np.eye(3) * step, [side.start for side in box]) @ to_box
    to_source = nib.affines.from_matvec(np.eye(3), crop_origin) @ to_array
    greys = [_quantise(volume) for volume in volumes[:-2]]
    return Scene(
        images=[grey for grey, _ in greys],
        windows=[window for _, window in greys],
        truth=volumes[-2],
        prediction=volumes[-1],
        spacing_mm=tuple((orientation.display_spacing() * step).tolist()),
        to_source=to_source[:3],
        to_world=(orientation.affine @ to_array)[:3] if orientation.known else None,
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
    mosaics = [mosaic(image) for image in scene.images]
    for quality in _QUALITIES:
        images = [_encode(one, quality) for one in mosaics]
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


def _encode(picture: np.ndarray, quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "WEBP", quality=quality)
    return file.getvalue()


def _box(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> tuple[slice, slice, slice]:
    """What holds anything, with a little margin; all of the volume where nothing does."""
    occupied = (truth != 0) | (prediction != 0)
    for channel in np.moveaxis(image, -1, 0):
        occupied |= channel != 0
    sides = []
    for axis, size in enumerate(occupied.shape):
        where = np.flatnonzero(occupied.any(axis=tuple({0, 1, 2} - {axis})))
        first, last = (where[0], where[-1] + 1) if len(where) else (0, size)
        sides.append(slice(max(int(first) - _MARGIN, 0), min(int(last) + _MARGIN, size)))
    return tuple(sides)


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
