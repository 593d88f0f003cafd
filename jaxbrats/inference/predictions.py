"""What a network predicted for preprocessed cases, as NIfTI on the voxels of each case's source files, and back.

The arrays are a crop of the source's volume, turned and resampled where most cases lie otherwise, and hold no header;
the manifest's record of the case tells where the crop lay. The folders of the Keras notebook have no manifest: there
the volume is the array, its voxels 1 mm wide.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import nibabel as nib
import numpy as np

from jaxbrats.data.boxes import CropBox, crop, paste
from jaxbrats.data.labels import BRATS_2023
from jaxbrats.data.raw import nifti
from jaxbrats.data.raw.alignment import Alignment
from jaxbrats.data.raw.cases import VolumeFile
from jaxbrats.system.errors import InputError


def write_prediction(path: str | pathlib.Path, labels: np.ndarray, record: Mapping[str, Any] | None) -> None:
    """Writes the labels of a preprocessed case on the voxels of its source; what lies outside the crop is background.

    Args:
        path: Ends with .nii.gz.
        labels: Project labels `(X, Y, Z)` of the case's array.
        record: The manifest's of the case, with `shape`, `affine`, `crop_origin` and `file`; None where there is none.

    Raises:
        OSError: the file cannot be written.
    """
    box, alignment = _place(labels.shape, record)
    on_file = alignment.labels_on_file(paste(labels, box))
    nifti.write_labels(path, on_file, _header(alignment.file_shape, alignment.file_affine))


def as_written(labels: np.ndarray, record: Mapping[str, Any] | None) -> np.ndarray:
    """Labels `(X, Y, Z)` of an array as `read_prediction` gives back what `write_prediction` wrote of them.

    Other than they were where the array's voxels are not the file's.
    """
    box, alignment = _place(labels.shape, record)
    return crop(alignment.labels(alignment.labels_on_file(paste(labels, box))), box)


def read_prediction(
    path: str | pathlib.Path, case: str, shape: tuple[int, int, int], record: Mapping[str, Any] | None
) -> np.ndarray:
    """Reads what `write_prediction` wrote.

    Args:
        path: The file.
        case: Name for error messages.
        shape: `(X, Y, Z)` of the case's array.
        record: As for `write_prediction`.

    Returns:
        uint8 labels `(X, Y, Z)` on the voxels of the array.

    Raises:
        InputError: the file is missing or unreadable, holds something other than labels, or lies on other voxels.
    """
    path = pathlib.Path(path)
    box, alignment = _place(shape, record)
    expected, affine = alignment.file_shape, alignment.file_affine
    labels, found = nifti.read_labels(VolumeFile(path), case, BRATS_2023)
    if labels.shape != expected or not np.allclose(found, affine, rtol=0, atol=nifti.AFFINE_TOLERANCE):
        sizes = ["x".join(map(str, one)) for one in (expected, labels.shape)]
        raise InputError(
            f"expected {sizes[0]} voxels with the affine of the case's source, found {sizes[1]}"
            + (" with another affine" if labels.shape == expected else ""),
            case=case,
            file=path,
            hint="Run jaxbrats evaluate again",
        )
    return crop(alignment.labels(labels), box)


def _place(shape: tuple[int, ...], record: Mapping[str, Any] | None) -> tuple[CropBox, Alignment]:
    """Where an array lies in its source's volume, and how that lies on the source's voxels."""
    if record is None:
        return CropBox((0, 0, 0), tuple(shape), tuple(shape)), Alignment.to(None, shape, np.eye(4))
    alignment = Alignment.from_record(record)
    return CropBox(tuple(record["crop_origin"]), tuple(shape), alignment.shape), alignment


def _header(shape: tuple[int, int, int], affine: np.ndarray) -> nib.Nifti1Header:
    """A header in scanner coordinates, mm, without the qform where that cannot say the same as the affine."""
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_zooms(nib.affines.voxel_sizes(affine))
    header.set_xyzt_units("mm")
    header.set_sform(affine, "scanner")
    try:
        with np.errstate(invalid="ignore", divide="ignore"):
            header.set_qform(affine, "scanner")
        faithful = np.allclose(header.get_qform(), affine, rtol=0, atol=nifti.AFFINE_TOLERANCE)
    except nib.spatialimages.HeaderDataError:
        faithful = False
    if not faithful:
        header.set_qform(None)
    return header
