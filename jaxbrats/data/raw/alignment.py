"""How the voxels of a file are brought to the frame of all arrays, and what lies on these back to the file's own."""

import concurrent.futures
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np

from jaxbrats.data.raw import geometry
from jaxbrats.data.raw.cases import Case
from jaxbrats.data.raw.geometry import Frame, frame_of
from jaxbrats.data.raw.voxels import read_header
from jaxbrats.system.errors import InputError

# Threads that wait for the headers of a network file system.
_READERS = 16
# More than any scanner makes: a spacing is in the wrong unit.
_MOST_VOXELS = 1 << 30


def cohort_frame(cases: Sequence[Case], spacing_mm: Sequence[float] | None) -> Frame | None:
    """The frame that the arrays of a cohort are given, from the headers of its segmentations.

    Cases without one are never trained on. Files that cannot be read are passed over, as they are refused later.

    Args:
        cases: All cases of the cohort, whichever of them are made now.
        spacing_mm: Spacing to be used in the place of the cases' own.

    Returns:
        None where no case has a segmentation whose header can be read.
    """

    def frame(case: Case) -> Frame | None:
        try:
            return frame_of(read_header(case.labels.path, case.name).get_best_affine())
        except InputError:
            return None

    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        frames = pool.map(frame, [case for case in cases if case.labels is not None])
        return geometry.common_frame((found for found in frames if found is not None), spacing_mm)


@dataclasses.dataclass(frozen=True, eq=False)
class Alignment:
    """A file's voxels turned, then resampled over the same extent.

    Attributes:
        file_shape: `(X, Y, Z)` of the file.
        file_affine: `(4, 4)` of the file, voxel index to mm.
        orientation: What the volume is turned to.
        shape: Of the volume turned and resampled.
        affine: `(4, 4)` of it.
    """

    file_shape: tuple[int, int, int]
    file_affine: np.ndarray
    orientation: str
    shape: tuple[int, int, int]
    affine: np.ndarray

    @classmethod
    def to(cls, frame: Frame | None, shape: Sequence[int], affine: np.ndarray) -> "Alignment":
        """Brings a file of this shape and affine to a frame; None leaves it as it is.

        Raises:
            InputError: it would have more voxels than any scanner makes.
        """
        shape, own = tuple(shape), frame_of(affine)
        if frame is None or own.is_like(frame):
            return cls(shape, affine, own.orientation, shape, affine)
        turned, turned_affine = shape, affine
        if own.orientation != frame.orientation:
            turned = geometry.reorient(np.broadcast_to(np.uint8(0), shape), affine, frame.orientation).shape
            turned_affine = geometry.reoriented_affine(affine, shape, frame.orientation)
        spacing = nib.affines.voxel_sizes(turned_affine)
        if geometry.same_spacing(spacing, frame.spacing_mm):
            return cls(shape, affine, frame.orientation, turned, turned_affine)
        resampled = geometry.resampled_shape(turned, spacing, frame.spacing_mm)
        if math.prod(resampled) > _MOST_VOXELS:
            problem = f"is {own}, and would have {'x'.join(map(str, resampled))} voxels in the cohort's frame, {frame}"
            raise InputError(problem, hint="Is the unit of its header right? Else choose a larger --spacing")
        new_affine = geometry.resampled_affine(turned_affine, turned, resampled)
        return cls(shape, affine, frame.orientation, resampled, new_affine)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Alignment":
        """From a case's record in a manifest, see `to_record`."""
        affine, file = np.array(record["affine"], float), record["file"]
        orientation = frame_of(affine).orientation
        return cls(tuple(file["shape"]), np.array(file["affine"], float), orientation, tuple(record["shape"]), affine)

    def to_record(self) -> dict[str, Any]:
        """As JSON holds it: shape, affine and voxel sizes (mm) of the volume, and of its file."""
        own = frame_of(self.file_affine)
        return {
            "shape": list(self.shape),
            "affine": self.affine.tolist(),
            "zooms": [float(size) for size in nib.affines.voxel_sizes(self.affine)],
            "file": {"shape": list(self.file_shape), "affine": self.file_affine.tolist()} | own.to_dict(),
        }

    @property
    def turns(self) -> bool:
        """Whether axes are exchanged or reversed."""
        return frame_of(self.file_affine).orientation != self.orientation

    @property
    def turned_shape(self) -> tuple[int, int, int]:
        """Shape of the volume turned and not yet resampled."""
        return self.turn(np.broadcast_to(np.uint8(0), self.file_shape)).shape

    def turn(self, array: np.ndarray) -> np.ndarray:
        """A volume `(X, Y, Z, ...)` of the file, turned: a view."""
        return geometry.reorient(array, self.file_affine, self.orientation) if self.turns else array

    def labels(self, labels: np.ndarray) -> np.ndarray:
        """Labels `(X, Y, Z)` of the file, turned and resampled."""
        return geometry.resample_labels(self.turn(labels), self.shape)

    def soft_labels(self, labels: np.ndarray) -> np.ndarray:
        """Labels `(X, Y, Z)` of the file, turned and resampled, as soft labels `(X, Y, Z, 3)`."""
        return geometry.covered(self.turn(labels), self.shape)

    def labels_on_file(self, labels: np.ndarray) -> np.ndarray:
        """Labels of the turned and resampled volume, on the voxels of the file."""
        labels = geometry.resample_labels(labels, self.turned_shape)
        return geometry.undo_reorient(labels, self.file_affine, self.orientation) if self.turns else labels
