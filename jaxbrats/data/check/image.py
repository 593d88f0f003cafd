"""What is measured of one image, and what is doubtful about it though it can be used."""

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

import nibabel as nib
import numpy as np

from jaxbrats.data.check.findings import Finding, warning
from jaxbrats.data.raw.geometry import Frame, frame_of
from jaxbrats.data.raw.nifti import AFFINE_TOLERANCE, Grid, Volume

# Voxels looked at where a sample will do.
_SAMPLE = 100_000
# A brain that was cut out has air around it: most of the outermost voxels are 0, though it may touch the volume's end.
_MOST_OF_BORDER = 0.5
_FEW_VALUES = 8
# A single bright artefact takes the range of min-max from everything else.
_QUANTILE, _LEAST_SHARE_OF_RANGE = 0.999, 0.05
_SPACINGS_MM = (0.1, 10.0)
_RIGHT_ANGLE_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class FileFacts:
    """What a file holds.

    Attributes:
        path: The file.
        shape: Voxels (X, Y, Z).
        frame: Orientation and spacing.
        dtype: Number type in the file; None for a segmentation, whose labels alone matter.
        minimum: Least value; of a segmentation the least project label.
        maximum: Greatest value.
        content: Hexadecimal digest of shape and voxels: the same for the same volume, however it is compressed.
    """

    path: str
    shape: tuple[int, int, int]
    frame: Frame
    dtype: str | None
    minimum: float
    maximum: float
    content: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return dataclasses.asdict(self) | {"shape": list(self.shape), "frame": self.frame.to_dict()}


def facts_of(grid: Grid, data: np.ndarray, dtype: str | None, minimum: float, maximum: float) -> FileFacts:
    """The facts of a volume (X, Y, Z) that was read."""
    frame = frame_of(grid.affine)
    frame = Frame(frame.orientation, tuple(round(size, 4) for size in frame.spacing_mm))
    content = hashlib.sha256(str((grid.shape, data.dtype.str)).encode())
    content.update(data.ravel("K"))
    return FileFacts(str(grid.path), grid.shape, frame, dtype, minimum, maximum, content.hexdigest()[:32])


def doubts(volume: Volume, case: str, normalization: str) -> Iterator[Finding]:
    """Warnings about an image that preprocessing takes."""
    for kind, problem, hint in (*_background(volume), *_intensities(volume, normalization), *_geometry(volume)):
        yield warning(kind, problem, case=case, file=volume.path, hint=hint)


_Doubt = tuple[str, str, str]


def _background(volume: Volume) -> Iterator[_Doubt]:
    data = volume.data
    faces = [face for axis in range(3) for face in (data.take(0, axis), data.take(-1, axis))]
    present = sum(map(np.count_nonzero, faces)) / sum(face.size for face in faces)
    if present > _MOST_OF_BORDER:
        middle = float(np.median(np.concatenate([face.ravel() for face in faces])))
        problem = f"{present:.0%} of the voxels at its border are not 0 (their median is {middle:g})"
        yield "background", problem, "Strip the skull and set the background to 0, as BraTS does"


def _intensities(volume: Volume, normalization: str) -> Iterator[_Doubt]:
    flat = volume.data.ravel("K")
    sample = flat[:: max(1, flat.size // _SAMPLE)]
    values = np.unique(sample)
    if values.size <= _FEW_VALUES:
        yield "intensity", f"has only {values.size} different values, as a segmentation has", "Is this the image?"
    bulk = float(np.quantile(sample[sample != 0], _QUANTILE, method="lower")) if sample.any() else volume.maximum
    share = (bulk - volume.minimum) / (volume.maximum - volume.minimum)
    if normalization == "minmax" and share < _LEAST_SHARE_OF_RANGE:
        problem = f"{_QUANTILE:.1%} of its brain lie below {bulk:g}, but a few voxels reach {volume.maximum:g}"
        yield "intensity", problem, "Clip these voxels, or use --normalization=zscore: min-max would darken all else"


def _geometry(volume: Volume) -> Iterator[_Doubt]:
    header, affine = volume.header, volume.affine
    (sform, sform_code), (qform, qform_code) = header.get_sform(coded=True), _qform(header)
    if not sform_code and not qform_code:
        yield "geometry", "its header does not say how the patient lies (no sform, no qform)", "Convert it again"
    if sform_code and qform_code and not np.allclose(sform, qform, rtol=0, atol=_tolerance(volume)):
        apart = _farthest(sform, qform, volume.data.shape)
        problem = f"its sform and qform lie up to {apart:.3g} mm apart; the sform is used"
        yield "geometry", problem, "Correct the wrong one"
    spacing = nib.affines.voxel_sizes(affine)
    axes = affine[:3, :3] / spacing
    if not np.allclose(axes.T @ axes, np.eye(3), rtol=0, atol=_RIGHT_ANGLE_TOLERANCE):
        problem = "its axes are not at right angles, so that volumes in mm^3 and distances in mm will be off"
        yield "geometry", problem, "Resample it to a grid of right angles"
    if spacing.min() < _SPACINGS_MM[0] or spacing.max() > _SPACINGS_MM[1]:
        shown = " x ".join(f"{size:g}" for size in spacing)
        yield "geometry", f"its voxels measure {shown} mm", "Is the unit of its header right?"


def _qform(header: nib.Nifti1Header) -> tuple[np.ndarray | None, int]:
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            return header.get_qform(coded=True)
    except (ValueError, nib.spatialimages.HeaderDataError):
        return None, 0  # a quaternion that is none; the sform is used


def _tolerance(volume: Volume) -> float:
    """Quaternions are 32-bit: they place a far corner less precisely than the sform does."""
    return max(AFFINE_TOLERANCE, 1e-5 * float(np.abs(volume.affine).max()))


def _farthest(first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]) -> float:
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape) - 1)
    with np.errstate(over="ignore", invalid="ignore"):  # a damaged qform may hold any number
        apart = nib.affines.apply_affine(first, corners) - nib.affines.apply_affine(second, corners)
        return float(np.linalg.norm(apart, axis=1).max())
