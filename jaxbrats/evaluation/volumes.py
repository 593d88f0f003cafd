"""What was scored of a case, read again to be looked at: image, truth and prediction on the same voxels."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from jaxbrats.data.arrays import ArrayCase, read_image, read_labels
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


@dataclasses.dataclass(frozen=True)
class ScoredCase:
    """A case that was scored on its preprocessed arrays.

    Attributes:
        case: Its arrays.
        record: The manifest's record of it; None where there is no manifest.
        prediction: The segmentation that was written of it.
    """

    case: ArrayCase
    record: Mapping[str, Any] | None
    prediction: pathlib.Path

    @property
    def name(self) -> str:
        """The case's."""
        return self.case.name

    def read(self) -> Volumes:
        """Reads what was scored.

        Raises:
            InputError: an array or the prediction cannot be used.
        """
        image, truth = read_image(self.case), read_labels(self.case)
        prediction = read_prediction(self.prediction, self.name, truth.shape, self.record)
        return Volumes(image, truth, prediction, affine_of_array(self.record))


def affine_of_array(record: Mapping[str, Any] | None) -> np.ndarray:
    """Affine `(4, 4)` of a case's array: the file's, moved to the crop's corner. 1 mm where no manifest tells."""
    if record is None:
        return np.eye(4)
    return np.array(record["affine"]) @ nib.affines.from_matvec(np.eye(3), np.array(record["crop_origin"]))
