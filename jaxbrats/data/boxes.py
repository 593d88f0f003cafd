"""Boxes of voxels: cutting them out of a volume and putting them back."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class CropBox:
    """A box of voxels cut out of a volume.

    Attributes:
        origin: Voxel of the volume that is the box's first; negative where the box begins outside.
        size: Size of the box (X, Y, Z).
        volume: Shape of the volume (X, Y, Z).
    """

    origin: tuple[int, int, int]
    size: tuple[int, int, int]
    volume: tuple[int, int, int]

    @classmethod
    def about_centre(cls, volume: tuple[int, int, int], size: tuple[int, int, int]) -> "CropBox":
        """The box about the centre of a volume: 56:184, 56:184, 13:141 for 128 of 240, 240, 155."""
        origin = tuple((whole - part) // 2 for whole, part in zip(volume, size, strict=True))
        return cls(origin, tuple(size), tuple(volume))

    @classmethod
    def about(
        cls, region: tuple[slice, slice, slice], volume: tuple[int, int, int], least: tuple[int, int, int]
    ) -> "CropBox":
        """The box of a region, grown about its middle where it is smaller than `least`.

        It is moved back into the volume where it would grow beyond an end of it; where the volume itself is too small,
        it lies about the volume's centre.
        """
        origin, size = [], []
        for inside, whole, wanted in zip(region, volume, least, strict=True):
            length = max(inside.stop - inside.start, wanted)
            start = inside.start - (length - (inside.stop - inside.start)) // 2
            origin.append(min(max(start, 0), whole - length) if length <= whole else (whole - length) // 2)
            size.append(length)
        return cls(tuple(origin), tuple(size), tuple(volume))

    @property
    def in_volume(self) -> tuple[slice, slice, slice]:
        """The voxels of the volume that lie in the box."""
        sides = zip(self.origin, self.size, self.volume, strict=True)
        return tuple(slice(max(start, 0), max(min(start + size, whole), 0)) for start, size, whole in sides)

    @property
    def in_box(self) -> tuple[slice, slice, slice]:
        """The same voxels, as voxels of the box."""
        sides = zip(self.in_volume, self.origin, strict=True)
        return tuple(slice(inside.start - start, inside.stop - start) for inside, start in sides)


def crop(array: np.ndarray, box: CropBox) -> np.ndarray:
    """Cuts `box` out of an array (X, Y, Z, ...), with zeros where the box lies outside. Returns a new array."""
    cropped = np.zeros(box.size + array.shape[3:], array.dtype)
    cropped[box.in_box] = array[box.in_volume]
    return cropped


def paste(cropped: np.ndarray, box: CropBox, background: float | Sequence[float] = 0) -> np.ndarray:
    """Puts what `crop` cut out back in its place; elsewhere is `background`, one number or one for each channel."""
    array = np.full(box.volume + cropped.shape[3:], background, cropped.dtype)
    array[box.in_volume] = cropped[box.in_box]
    return array
