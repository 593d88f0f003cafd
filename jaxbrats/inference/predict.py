"""From patients' NIfTI files to NIfTI segmentations."""

import concurrent.futures
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence

import nibabel as nib
import numpy as np

from jaxbrats.data.cases import Case
from jaxbrats.data.nifti import write_labels
from jaxbrats.data.preprocess import CropBox, Preprocessing, paste, preprocess_images
from jaxbrats.errors import InputError


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """What was predicted for a case.

    Attributes:
        case: Its name.
        path: The file written.
        image: What the network saw, `(X, Y, Z, C)`.
        labels: Its labels, `(X, Y, Z)`.
        affine: `(4, 4)` of both, in mm.
    """

    case: str
    path: pathlib.Path
    image: np.ndarray
    labels: np.ndarray
    affine: np.ndarray


def predict_cases(
    cases: Sequence[Case],
    predict: Callable[[np.ndarray], np.ndarray],
    settings: Preprocessing,
    folder: pathlib.Path,
    convention: str = "2023",
) -> Iterator[Segmentation | InputError]:
    """Segments cases one after the other and writes `folder/CASE.nii.gz` on the voxels of each case's own files.

    The network sees the crop it was trained on; voxels outside of it are background. The next case is read while the
    network is at work.

    Args:
        cases: What to segment; their segmentations, where they have any, are not read.
        predict: Image `(X, Y, Z, C)` to labels `(X, Y, Z)`, from `make_predict`.
        settings: Preprocessing of the run.
        folder: Where to write.
        convention: Number of the enhancing tumour in the files: '2023' writes 3, '2021' writes 4.

    Yields:
        For each case in turn what was predicted, or what is wrong with it.

    Raises:
        OSError: a file cannot be written.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as reader:
        coming = None
        for case, following in zip(cases, [*cases[1:], None], strict=True):
            read = coming or reader.submit(preprocess_images, case, settings)
            coming = reader.submit(preprocess_images, following, settings) if following else None
            try:
                image, box, header = read.result()
            except InputError as problem:
                yield problem
                continue
            labels = predict(image)
            path = folder / f"{case.name}.nii.gz"
            write_labels(path, paste(labels, box), header, convention)
            yield Segmentation(case.name, path, image, labels, _affine(header, box))


def _affine(header: nib.Nifti1Header, box: CropBox) -> np.ndarray:
    """The file's affine, moved to the crop's corner."""
    return header.get_best_affine() @ nib.affines.from_matvec(np.eye(3), np.array(box.origin))
