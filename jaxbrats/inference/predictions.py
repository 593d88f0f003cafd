"""What a network predicted for preprocessed cases, as NIfTI on the voxels of each case's source files, and back.

The arrays are a crop of the source's volume and hold no header; the manifest's record of the case tells where the crop
lay. The folders of the Keras notebook have no manifest: there the volume is the array, its voxels 1 mm wide.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import nibabel as nib
import numpy as np

from jaxbrats.data.labels import BRATS_2023
from jaxbrats.data.preprocessing import CropBox, crop, paste
from jaxbrats.data.raw import nifti
from jaxbrats.data.raw.cases import VolumeFile
from jaxbrats.system.errors import InputError


def write_prediction(path: str | pathlib.Path, labels: np.ndarray, record: Mapping[str, Any] | None) -> None:
    """Writes the labels of a preprocessed case on the voxels of its source; what lies outside the crop is background.

    Args:
        path: Ends with .nii.gz.
        labels: Project labels `(X, Y, Z)` of the case's array.
        record: The manifest's of the case, with `shape`, `affine` and `crop_origin`; None where there is none.

    Raises:
        OSError: the file cannot be written.
    """
    box, affine = _place(labels.shape, record)
    nifti.write_labels(path, paste(labels, box), _header(box.volume, affine))


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
    box, affine = _place(shape, record)
    labels, found = nifti.read_labels(VolumeFile(path), case, BRATS_2023)
    if labels.shape != box.volume or not np.allclose(found, affine, rtol=0, atol=nifti.AFFINE_TOLERANCE):
        sizes = ["x".join(map(str, one)) for one in (box.volume, labels.shape)]
        raise InputError(
            f"expected {sizes[0]} voxels with the affine of the case's source, found {sizes[1]}"
            + (" with another affine" if labels.shape == box.volume else ""),
            case=case,
            file=path,
            hint="Run jaxbrats evaluate again",
        )
    return crop(labels, box)


def _place(shape: tuple[int, ...], record: Mapping[str, Any] | None) -> tuple[CropBox, np.ndarray]:
    """Where an array lies in its source, and the source's affine `(4, 4)`."""
    if record is None:
        return CropBox((0, 0, 0), tuple(shape), tuple(shape)), np.eye(4)
    box = CropBox(tuple(record["crop_origin"]), tuple(shape), tuple(record["shape"]))
    return box, np.array(record["affine"], float)


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
