"""From a file's voxel order to the way radiologists look at a patient, and back to the file's slice numbers."""

import dataclasses
from collections.abc import Sequence

import nibabel as nib
import numpy as np

from jaxbrats.data.raw.geometry import frame_of

# Volumes are shown from axes that run to the patient's left, back and feet: every plane is then a slice drawn from the
# top down, with the patient's right (or, in the sagittal plane, the front) on the image's left.
DISPLAY_AXES = "LPI"
# What lies at the beginning and the end of each.
DISPLAY_ENDS = ("RL", "AP", "SI")


@dataclasses.dataclass(frozen=True)
class Orientation:
    """How the voxels of a volume lie in the patient.

    Attributes:
        affine: Voxel indices to NIfTI's millimetres, x to the right, y to the front, z up, `(4, 4)`.
        known: Whether sides and positions are known, or only the voxels' size.
    """

    affine: np.ndarray
    known: bool = True

    @classmethod
    def unknown(cls, spacing_mm: Sequence[float]) -> "Orientation":
        """That of BraTS files (to the left, back, head) for want of a better, with voxels of this size."""
        x, y, z = spacing_mm
        return cls(np.diag([-x, -y, z, 1.0]), known=False)

    @classmethod
    def of(cls, affine: np.ndarray) -> "Orientation":
        """That of an affine `(4, 4)`; the unit matrix stands for an affine that is not known.

        Raises:
            InputError: the affine is not finite, or maps an axis of the volume to no direction.
        """
        if np.array_equal(affine, np.eye(4)):
            return cls.unknown((1.0, 1.0, 1.0))
        frame_of(affine)
        return cls(affine)

    def display(self, volume: np.ndarray) -> np.ndarray:
        """A view of a volume `(X, Y, Z)` with axes to the left, back and feet, or the nearest to them."""
        return nib.orientations.apply_orientation(volume, self.to_display())

    def display_spacing(self) -> np.ndarray:
        """Size of a voxel along the display axes, mm, `(3,)`."""
        spacing = np.empty(3)
        spacing[self.to_display()[:, 0]] = nib.affines.voxel_sizes(self.affine)
        return spacing

    def to_display(self) -> np.ndarray:
        """For each axis of the file: the display axis it becomes, and -1 if it is turned round, `(3, 2)`."""
        own = nib.orientations.io_orientation(self.affine)
        return nib.orientations.ornt_transform(own, nib.orientations.axcodes2ornt(DISPLAY_AXES)).astype(int)

    def name_slice(self, axis: int, index: int, shape: Sequence[int]) -> str:
        """A slice by its index in the file, from 0, and by its position in the patient: "k = 91, z = 91 mm".

        Args:
            axis: Display axis that the slice is perpendicular to.
            index: Along that axis, of the displayed volume.
            shape: Of the displayed volume.
        """
        transform = self.to_display()
        own = int(np.flatnonzero(transform[:, 0] == axis)[0])
        # The position is that of the slice's middle, which matters if the affine is oblique.
        voxel = (np.array(shape)[transform[:, 0]] - 1) / 2
        voxel[own] = index if transform[own, 1] == 1 else shape[axis] - 1 - index
        name = f"{'ijk'[own]} = {int(voxel[own])}"
        if self.known:
            # Adding 0 after rounding turns -0 into 0.
            name += f", {'xyz'[axis]} = {np.round(nib.affines.apply_affine(self.affine, voxel)[axis]) + 0.0:.0f} mm"
        return name
