"""A patient's files as the network is to see them, and the way back to the voxels of the files.

The volumes are normalised as the training cases were, turned to their orientation and, where the voxels are of another
size, resampled to their spacing.
"""

import dataclasses
import math
from collections.abc import Sequence

import nibabel as nib
import numpy as np

from jaxbrats.config.data import Crop
from jaxbrats.data.array_box import BRAIN, brain_region
from jaxbrats.data.boxes import CropBox, paste
from jaxbrats.data.check.image import doubts
from jaxbrats.data.preprocessing import Preprocessing, preprocess_images
from jaxbrats.data.raw import geometry
from jaxbrats.data.raw.cases import Case
from jaxbrats.data.raw.geometry import Frame, same_spacing
from jaxbrats.data.raw.nifti import Volume
from jaxbrats.data.sources import Sources, sources_of, with_checksums
from jaxbrats.system.errors import InputError

MODES = ("window", "crop")

# What a finding of `jaxbrats check` means for a prediction.
_CONSEQUENCES = {
    "background": "The network expects a background of 0 and may find tumour where there is none, so do not trust this "
    "segmentation. Strip the skull and set the background to 0, as BraTS does, and predict again",
    "intensity": "Normalised, it is unlike the images the network was trained on, so do not trust this segmentation. "
    "Check that it is the image it should be, clip stray bright voxels, and predict again",
    "geometry": "Orientation, voxel size and so the segmentation may be wrong. Correct its header and predict again",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Patient:
    """A case, read and prepared.

    Attributes:
        case: Name of the case.
        image: Normalised modalities in the box, `(X, Y, Z, C)`, turned to the training orientation.
        box: Where the image lies in the turned volume.
        affine: `(4, 4)` of the image, in mm.
        orientation: Orientation of the image such as 'LPS'; None for the files' own.
        header: Header of the first modality that is there, whose voxels a segmentation is written on.
        sources: The files that were read, with checksums.
        missing: Modalities that are not there, whose channels are 0.
        warnings: What is doubtful about the images, and what that means for the segmentation.
    """

    case: str
    image: np.ndarray
    box: CropBox
    affine: np.ndarray
    orientation: str | None
    header: nib.Nifti1Header
    sources: Sources
    missing: tuple[str, ...]
    warnings: tuple[InputError, ...]

    @property
    def spacing_mm(self) -> np.ndarray:
        """Voxel size of the image along each axis."""
        return nib.affines.voxel_sizes(self.affine)

    def on_file(self, array: np.ndarray, background: float | Sequence[float] = 0) -> np.ndarray:
        """An array of the box `(X, Y, Z, ...)` on the voxels of the file, with `background` outside the box."""
        whole = paste(array, self.box, background)
        if self.orientation is None:
            return whole
        return geometry.undo_reorient(whole, self.header.get_best_affine(), self.orientation)


def read_patient(
    case: Case, settings: Preprocessing, frame: Frame | None, mode: str, missing_allowed: bool = False
) -> tuple[Patient, np.ndarray]:
    """Reads and prepares a case.

    Args:
        case: Whose files.
        settings: Preprocessing of the run.
        frame: Orientation and spacing of the training cases; None takes the files' voxels as they are.
        mode: 'window' takes the brain's bounding box, 'crop' the box that training took, which may be the same.
        missing_allowed: Whether modalities, but not all, may be missing; their channels are then 0.

    Returns:
        The patient, and the image at the training spacing `(X, Y, Z, C)`: what the network is given. Apart, so that
        who keeps the patient does not keep a second image.

    Raises:
        InputError: modalities are missing, or the files cannot be used, see `preprocess_images`.
    """
    settings = dataclasses.replace(settings, incomplete=missing_allowed)
    try:
        present = settings.present(case)
    except InputError as error:
        hint = "The network was not trained with modality dropout (augment.modality_dropout) and needs them all"
        hint = "The network can do without some of them, not without all" if missing_allowed else hint
        raise InputError(error.problem, case=case.name, file=error.file, hint=hint) from error
    missing = tuple(modality for modality in settings.modalities if modality not in present)
    sources = with_checksums(sources_of(case, present, None, labels=False), case)
    warnings = [_without(case.name, missing)] if missing else []

    def inspect(volumes: Sequence[Volume]) -> CropBox:
        for volume in volumes:
            warnings.extend(_warnings(volume, case.name, settings.normalization))
        return _choose_box(volumes, settings.crop, frame, mode)

    image, box, header = preprocess_images(case, settings, frame and frame.orientation, inspect)
    affine, network_input = header.get_best_affine(), image
    if frame is not None:
        affine = geometry.reoriented_affine(affine, header.get_data_shape()[:3], frame.orientation)
        network_input = geometry.resample(image, _input_shape(box, affine, settings.crop, frame, mode))
    affine = affine @ nib.affines.from_matvec(np.eye(3), np.array(box.origin))
    orientation = frame and frame.orientation
    patient = Patient(case.name, image, box, affine, orientation, header, sources, missing, tuple(warnings))
    return patient, network_input


def _without(case: str, missing: Sequence[str]) -> InputError:
    problem = f"has no {' and no '.join(missing)}, so it is segmented from the other modalities alone"
    return InputError(problem, case=case, hint="Add what is missing, where there is any, and predict again")


def _warnings(volume: Volume, case: str, normalization: str) -> list[InputError]:
    return [
        InputError(finding.what.problem, case=case, file=volume.path, hint=_CONSEQUENCES[finding.kind])
        for finding in doubts(volume, case, normalization)
    ]


def _choose_box(volumes: Sequence[Volume], crop: Crop, frame: Frame | None, mode: str) -> CropBox:
    """What is looked at of a patient, as large as the arrays that the network was trained on at least."""
    shape, spacing = volumes[0].data.shape, nib.affines.voxel_sizes(volumes[0].affine)
    least = (1, 1, 1) if crop == BRAIN else crop
    if crop != BRAIN and frame is not None and not same_spacing(spacing, frame.spacing_mm):
        sides = zip(crop, frame.spacing_mm, spacing, strict=True)
        least = tuple(math.ceil(size * trained / own) for size, trained, own in sides)
    if mode == "crop" and crop != BRAIN:
        return CropBox.about_centre(shape, least)
    return CropBox.about(brain_region(volume.data for volume in volumes), shape, least)


def _input_shape(box: CropBox, affine: np.ndarray, crop: Crop, frame: Frame, mode: str) -> tuple[int, int, int]:
    """Size of the box in voxels of the training spacing."""
    spacing = nib.affines.voxel_sizes(affine)
    if same_spacing(spacing, frame.spacing_mm):
        return box.size
    shape = geometry.resampled_shape(box.size, spacing, frame.spacing_mm)
    if crop == BRAIN:
        return shape
    return crop if mode == "crop" else tuple(map(max, shape, crop))
