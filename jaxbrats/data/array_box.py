"""Which box of a case's volume becomes its array, and is looked at in prediction: the centre, or the brain."""

from collections.abc import Iterable

import numpy as np

from jaxbrats.config.data import Crop
from jaxbrats.data.boxes import CropBox
from jaxbrats.data.raw.geometry import bounding_box

BRAIN = "brain"

Region = tuple[slice, slice, slice]


def brain_region(volumes: Iterable[np.ndarray]) -> Region:
    """The smallest box of voxels beyond which every modality is 0, the background of skull-stripped images.

    nnU-Net's `crop_to_nonzero`. The whole volume where all is 0.

    Args:
        volumes: Voxels `(X, Y, Z)` of each modality.
    """
    brain = None
    for volume in volumes:
        brain = np.not_equal(volume, 0) if brain is None else np.logical_or(brain, volume != 0, out=brain)
    return bounding_box(brain)


def array_box(
    crop: Crop, shape: tuple[int, int, int], brain: Region | None, turned_shape: tuple[int, int, int]
) -> CropBox:
    """The box of a volume that becomes the array.

    Args:
        crop: Size of the crop about the centre, or 'brain'.
        shape: `(X, Y, Z)` of the volume, turned and resampled.
        brain: For 'brain', where it lies in the volume turned and not yet resampled.
        turned_shape: Shape of that.
    """
    if crop != BRAIN:
        return CropBox.about_centre(shape, crop)
    sides = list(zip(brain, shape, turned_shape, strict=True))
    origin = [side.start * new // old for side, new, old in sides]
    ends = [-(-side.stop * new // old) for side, new, old in sides]
    return CropBox(tuple(origin), tuple(np.subtract(ends, origin).tolist()), shape)
