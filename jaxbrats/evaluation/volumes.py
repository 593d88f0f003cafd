"""What was scored of a case, read again to be looked at: image, truth and prediction on the same voxels."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from jaxbrats.data.arrays import ArrayCase, channels_present, read_image, read_labels
from jaxbrats.data.boxes import CropBox
from jaxbrats.data.labels import BRATS_2023
from jaxbrats.data.preprocessing import Preprocessing, preprocess_images
from jaxbrats.data.raw import geometry, nifti
from jaxbrats.data.raw.cases import Case, VolumeFile
from jaxbrats.data.raw.nifti import Grid, Volume
from jaxbrats.inference.predictions import read_prediction


class Volumes(NamedTuple):
    """A case's image, truth and prediction.

    Attributes:
        image: Normalised modalities, float32 `(X, Y, Z, C)`.
        truth: Reference labels, uint8 `(X, Y, Z)`.
        prediction: Predicted labels, uint8 `(X, Y, Z)`.
        affine: `(4, 4)` of all three, in mm; the unit matrix where it is not known.
    """

    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    affine: np.ndarray

    @property
    def present(self) -> list[int]:
        """The channels whose modalities are there, see `channels_present`."""
        return channels_present(self.image)


@dataclasses.dataclass(frozen=True)
class ScoredArrays:
    """A case that was scored on its preprocessed arrays.

    Attributes:
        case: Its arrays.
        prediction: The segmentation that was written of it.
    """

    case: ArrayCase
    prediction: pathlib.Path

    @property
    def name(self) -> str:
        """The case's."""
        return self.case.name

    def read(self) -> Volumes:
        """Reads what was scored.

        Raises:
            InputError: a file of it cannot be used.
        """
        image, truth = read_image(self.case), read_labels(self.case)
        prediction = read_prediction(self.prediction, self.name, truth.shape, self.case.record)
        return Volumes(image, truth, prediction, affine_of_array(self.case.record))


@dataclasses.dataclass(frozen=True)
class ScoredFiles:
    """A case that was scored on its own files; of these the box is read that holds brain and labels.

    Attributes:
        case: Its files.
        preprocessing: How its image is made.
        prediction: The segmentation that was written of it.
    """

    case: Case
    preprocessing: Preprocessing
    prediction: pathlib.Path

    @property
    def name(self) -> str:
        """The case's."""
        return self.case.name

    def read(self) -> Volumes:
        """As of `ScoredArrays`."""
        truth, affine = nifti.read_labels(self.case.labels, self.name, self.case.label_map)
        prediction, found = nifti.read_labels(VolumeFile(self.prediction), self.name, BRATS_2023)
        first, second = Grid(self.case.labels.path, truth.shape, affine), Grid(self.prediction, prediction.shape, found)
        nifti.check_geometry(self.name, first, second, "Run jaxbrats evaluate again")

        def box_of_all(volumes: Sequence[Volume]) -> CropBox:
            inside = (truth > 0) | (prediction > 0)
            for volume in volumes:
                inside |= volume.data != 0
            return CropBox.about(geometry.bounding_box(inside), inside.shape, (1, 1, 1))

        image, box, _ = preprocess_images(self.case, self.preprocessing, choose_box=box_of_all)
        affine = affine @ nib.affines.from_matvec(np.eye(3), np.array(box.origin))
        return Volumes(image, truth[box.in_volume], prediction[box.in_volume], affine)


# Either can be sent to a worker process.
ScoredCase = ScoredArrays | ScoredFiles


def affine_of_array(record: Mapping[str, Any] | None) -> np.ndarray:
    """Affine `(4, 4)` of a case's array: the file's, moved to the crop's corner. 1 mm where no manifest tells."""
    if record is None:
        return np.eye(4)
    return np.array(record["affine"]) @ nib.affines.from_matvec(np.eye(3), np.array(record["crop_origin"]))
