"""NIfTI files for tests: random labels, writing them and reading what was written."""

import pathlib

import nibabel as nib
import numpy as np

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def random_labels(seed: int, shape: tuple[int, int, int] = (12, 11, 10)) -> np.ndarray:
    """uint8: zeros around a box of all labels."""
    labels = np.zeros(shape, np.uint8)
    labels[2:9, 2:9, 2:9] = np.random.default_rng(seed).integers(0, 4, (7, 7, 7))
    return labels


def save(path: pathlib.Path, array: np.ndarray, affine: np.ndarray = LPS) -> None:
    """Writes an array in its own number type, and the folders that lead to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine, dtype=array.dtype), path)


def voxels(path: pathlib.Path) -> np.ndarray:
    """The voxels of a file in its own number type."""
    return np.asarray(nib.load(path).dataobj)
