"""Where voxels lie: turning volumes to an orientation, resampling them to a spacing, and the way back.

A network learns the order and the size of the voxels that it sees (`Frame`). All arrays of a cohort are therefore in
the frame that most of its cases have, and a patient who was scanned or stored otherwise is brought to it, in training
as in prediction; what was predicted is brought back.
"""

import collections
import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np

from jaxbrats.data.labels import NUM_CLASSES, SHARES, WHOLE
from jaxbrats.system.errors import InputError

# Spacings that differ less than this are taken as equal: 1 % is 1 voxel in 100.
_SPACING_TOLERANCE = 0.01


@dataclasses.dataclass(frozen=True)
class Frame:
    """Orientation and spacing of voxels.

    Attributes:
        orientation: Towards which side of the patient each axis runs: 'LPS' (left, posterior, superior) for BraTS.
        spacing_mm: Size of a voxel along each axis.
    """

    orientation: str
    spacing_mm: tuple[float, float, float]

    def __str__(self) -> str:
        return f"{self.orientation}, {' x '.join(f'{size:.4g}' for size in self.spacing_mm)} mm"

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"orientation": self.orientation, "spacing_mm": list(self.spacing_mm)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Frame":
        """From what `to_dict` gave.

        Raises:
            InputError: the values are not a valid frame.
        """
        problem = f"expected an orientation such as LPS and a spacing in mm for each axis, found {values}"
        try:
            frame = cls(str(values["orientation"]), tuple(float(size) for size in values["spacing_mm"]))
            axes = nib.orientations.axcodes2ornt(frame.orientation)[:, 0]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(problem) from error
        if sorted(axes) != [0, 1, 2] or len(frame.spacing_mm) != 3 or not min(frame.spacing_mm) > 0:
            raise InputError(problem)
        return frame

    def is_like(self, other: "Frame") -> bool:
        """Whether voxels of both frames need no turning and no resampling to match."""
        return self.orientation == other.orientation and same_spacing(self.spacing_mm, other.spacing_mm)


def same_spacing(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether two spacings are equal to 1 % along every axis."""
    return bool(np.allclose(first, second, rtol=_SPACING_TOLERANCE, atol=0))


def frame_of(affine: np.ndarray) -> Frame:
    """The frame of a volume by its affine `(4, 4)`; of an oblique one the nearest orientation.

    Raises:
        InputError: the affine is not finite, or maps an axis of the volume to no direction.
    """
    if not np.isfinite(affine).all():
        raise InputError("has an affine with values that are not finite", hint="Export it again")
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # numbers whose squares overflow
        axes = nib.orientations.io_orientation(affine)
        spacing = nib.affines.voxel_sizes(affine)
    if not np.isfinite(axes).all() or not np.isfinite(spacing).all():
        rows = "; ".join(" ".join(f"{x:g}" for x in row) for row in np.asarray(affine)[:3])
        raise InputError(f"expected an affine with three independent axes, found [{rows}]", hint="Export it again")
    return Frame("".join(nib.orientations.ornt2axcodes(axes)), tuple(float(size) for size in spacing))


def common_frame(frames: Iterable[Frame], spacing_mm: Sequence[float] | None = None) -> Frame | None:
    """The orientation that most volumes have, and the median spacing of these, or `spacing_mm`.

    None where there is no volume.
    """
    by_orientation = collections.defaultdict(list)
    for frame in frames:
        by_orientation[frame.orientation].append(frame.spacing_mm)
    if not by_orientation:
        return None
    orientation = max(by_orientation, key=lambda name: len(by_orientation[name]))
    if spacing_mm is not None:
        return Frame(orientation, tuple(spacing_mm))
    # The lower median is a spacing that some volume has.
    spacing = map(statistics.median_low, zip(*by_orientation[orientation], strict=True))
    return Frame(orientation, tuple(round(size, 4) for size in spacing))


def reorient(array: np.ndarray, affine: np.ndarray, orientation: str) -> np.ndarray:
    """Turns a volume so that its axes run as `orientation` says.

    Args:
        array: `(X, Y, Z, ...)`.
        affine: `(4, 4)` of the array.
        orientation: Such as 'LPS'.

    Returns:
        A view of the array, axes exchanged and reversed.
    """
    return nib.orientations.apply_orientation(array, _turn(affine, orientation))


def reoriented_affine(affine: np.ndarray, shape: Sequence[int], orientation: str) -> np.ndarray:
    """The affine `(4, 4)` that a volume of `shape` (X, Y, Z) has after `reorient`."""
    return affine @ nib.orientations.inv_ornt_aff(_turn(affine, orientation), shape)


def undo_reorient(array: np.ndarray, affine: np.ndarray, orientation: str) -> np.ndarray:
    """Undoes `reorient`.

    Args:
        array: `(X, Y, Z, ...)` with axes as `orientation` says.
        affine: As `reorient` was given.
        orientation: As `reorient` was given.

    Returns:
        A view of the array.
    """
    there = nib.orientations.axcodes2ornt(orientation)
    back = nib.orientations.ornt_transform(there, nib.orientations.io_orientation(affine))
    return nib.orientations.apply_orientation(array, back)


def _turn(affine: np.ndarray, orientation: str) -> np.ndarray:
    own = nib.orientations.io_orientation(affine)
    return nib.orientations.ornt_transform(own, nib.orientations.axcodes2ornt(orientation))


def resampled_shape(
    shape: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float]
) -> tuple[int, int, int]:
    """The number of voxels of `target_mm` that comes nearest to the extent of `shape` voxels of `spacing_mm`."""
    return tuple(
        max(round(size * own / target), 1) for size, own, target in zip(shape, spacing_mm, target_mm, strict=True)
    )


def resample(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Resamples a volume to another number of voxels over the same extent.

    Linear interpolation between voxel centres along each axis; where voxels grow, each is the mean of what it covers,
    weighted by a triangle, so that nothing finer than the new voxels is left to alias. Values stay within the range of
    the input, and channels that sum to 1 still do.

    Args:
        array: `(X, Y, Z, ...)` float32.
        shape: The new X, Y, Z.

    Returns:
        `(*shape, ...)` float32, C-contiguous; the array itself where nothing changes.
    """
    return _weighted(array, shape, interpolation_weights)


def _weighted(array: np.ndarray, shape: Sequence[int], weights_of: Callable[[int, int], np.ndarray]) -> np.ndarray:
    for axis, size in enumerate(shape):
        if size != array.shape[axis]:
            weights = weights_of(array.shape[axis], size)
            array = np.moveaxis(np.tensordot(weights, array, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(array)


def resample_labels(labels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Resamples labels `(X, Y, Z)` uint8 to another number of voxels over the same extent.

    Each label is interpolated as a mask, as `resample` does, and a voxel gets the one that has most of it: nnU-Net's
    way (Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z, supplementary note on resampling). Where two
    have the same, the lower one.
    """
    if tuple(shape) == labels.shape:
        return labels
    resampled, most = np.zeros(shape, np.uint8), np.zeros(shape, np.float32)
    for label in range(NUM_CLASSES):
        share = resample((labels == label).astype(np.float32), shape)
        np.copyto(resampled, label, where=share > most)
        np.maximum(most, share, out=most)
    return resampled


def covered(labels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Labels `(X, Y, Z)` to soft labels `(*shape, 3)` of another number of voxels over the same extent.

    What part of each new voxel NCR, ED and ET cover, in 255ths, rounded down so that no voxel has more than its whole.
    A rim of enhancing tumour that is thinner than a voxel has no voxel of its own in `resample_labels`; here it has
    parts of some.
    """
    soft = np.empty((*shape, len(SHARES)), np.uint8)
    for channel, label in enumerate(SHARES):
        soft[..., channel] = WHOLE * _weighted((labels == label).astype(np.float32), shape, overlap_weights) + 1e-3
    return soft


def resampled_affine(affine: np.ndarray, shape: Sequence[int], resampled: Sequence[int]) -> np.ndarray:
    """The affine `(4, 4)` that a volume of `shape` has after it was resampled to the shape `resampled`."""
    scale = np.divide(shape, resampled)
    return affine @ nib.affines.from_matvec(np.diag(scale), (scale - 1) / 2)


def interpolation_weights(old: int, new: int) -> np.ndarray:
    """The weight of each of `old` voxels in each of `new` voxels over the same extent, float32 `(new, old)`."""
    scale = old / new
    centres = (np.arange(new) + 0.5) * scale - 0.5
    distance = np.abs(centres[:, None] - np.arange(old)[None])
    weights = np.maximum(1 - distance / max(scale, 1), 0)
    # At the ends a part of the triangle hangs over.
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def overlap_weights(old: int, new: int) -> np.ndarray:
    """What part of each of `new` voxels each of `old` voxels over the same extent covers, float32 `(new, old)`."""
    edges = np.linspace(0, old, new + 1)
    first, last = edges[:-1, None], edges[1:, None]
    voxel = np.arange(old)[None]
    overlap = np.maximum(np.minimum(last, voxel + 1) - np.maximum(first, voxel), 0)
    return (overlap * (new / old)).astype(np.float32)


def bounding_box(mask: np.ndarray) -> tuple[slice, slice, slice]:
    """The smallest box of voxels that holds a mask `(X, Y, Z)`; the whole volume where the mask is empty."""
    box = [slice(0, size) for size in mask.shape]
    # The axis that is slowest in memory first: it is the quickest to reduce to, and what it cuts off is not read again.
    for axis in np.argsort(np.abs(mask.strides))[::-1]:
        where = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if len(where):
            box[axis] = slice(int(where[0]), int(where[-1]) + 1)
            mask = mask[(slice(None),) * axis + (box[axis],)]
    return tuple(box)
