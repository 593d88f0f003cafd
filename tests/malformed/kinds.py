"""What a kind of bad (or odd but valid) input is, and the sound files that it is made of."""

import dataclasses
import gzip
import pathlib
from collections.abc import Callable

import nibabel as nib
import numpy as np

# What should come of a kind. SAME: taken, and the arrays are bit for bit those of the sound case; for inputs that only
# store the same thing otherwise.
SAME, ACCEPTED, SKIPPED, REFUSED = "accepted, same arrays", "accepted", "skipped", "refused"

SHAPE = (9, 8, 7)
AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 2, -7], [0, 0, 0, 1]])
MODALITIES = ("t1n", "t1c", "t2w", "t2f")
GOOD, ODD = "BraTS-GLI-00001-000", "BraTS-GLI-00002-000"


@dataclasses.dataclass(frozen=True)
class Files:
    """The sound files that a kind spoils.

    Attributes:
        folder: The whole cohort, or the folder of arrays.
        image: One image of the case to spoil.
        labels: Its segmentation.
    """

    folder: pathlib.Path
    image: pathlib.Path
    labels: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of bad or odd input.

    Attributes:
        name: In plain words.
        spoil: Turns sound files into it.
        expected: What should come of it.
        says: Part of the line that refuses it, or of the warning of `jaxbrats check`.
        needs_user: Whether it is about permissions, which do not hold for root.
    """

    name: str
    spoil: Callable[[Files], None]
    expected: str
    says: str = ""
    needs_user: bool = False


def image_voxels(seed: int) -> np.ndarray:
    """int16 `(X, Y, Z)`: zeros around a box of tissue."""
    array = np.zeros(SHAPE, np.int16)
    array[1:8, 1:7, 1:6] = np.random.default_rng(seed).integers(1, 1000, (7, 6, 5))
    return array


def label_voxels(seed: int) -> np.ndarray:
    """uint8 `(X, Y, Z)`: a tumour of all labels in the middle of the tissue."""
    array = np.zeros(SHAPE, np.uint8)
    array[3:6, 2:5, 2:5] = np.random.default_rng(seed).integers(1, 4, (3, 3, 3))
    array[3, 2, 2:5] = 1, 2, 3
    return array


def nifti(array: np.ndarray, affine: np.ndarray = AFFINE, image: type = nib.Nifti1Image) -> bytes:
    """A NIfTI file, not compressed, with sform and qform."""
    made = image(array, affine, dtype=array.dtype)
    made.set_sform(affine, 1)
    made.set_qform(affine, 1)
    return made.to_bytes()


def write(path: pathlib.Path, content: bytes) -> None:
    """Writes a NIfTI file, compressed as its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, 1, mtime=0) if path.name.lower().endswith(".gz") else content)


def content_of(path: pathlib.Path) -> bytearray:
    """The decompressed bytes of a sound .nii.gz file."""
    return bytearray(gzip.decompress(path.read_bytes()))


def voxels_of(path: pathlib.Path) -> np.ndarray:
    """The voxels of a sound file."""
    return np.asanyarray(nib.load(path).dataobj)


def write_case(folder: pathlib.Path, name: str, seed: int) -> Files:
    """Writes a sound case in the form of BraTS 2023."""
    for offset, modality in enumerate(MODALITIES):
        write(folder / name / f"{name}-{modality}.nii.gz", nifti(image_voxels(seed + offset)))
    write(folder / name / f"{name}-seg.nii.gz", nifti(label_voxels(seed)))
    return Files(folder, folder / name / f"{name}-t1c.nii.gz", folder / name / f"{name}-seg.nii.gz")


def write_cohort(folder: pathlib.Path) -> Files:
    """Writes two sound cases, `GOOD` and `ODD`; returns the files of `ODD`, which are to be spoilt."""
    write_case(folder, GOOD, seed=10)
    return write_case(folder, ODD, seed=20)
