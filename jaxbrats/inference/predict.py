"""From patients' NIfTI files to NIfTI segmentations.

A patient's volumes are normalised as the training cases were, turned to their orientation and, where the voxels are of
another size, resampled to their spacing. The network's probabilities are brought back to the voxels of the files before
labels are chosen, so that a segmentation is as fine as the patient's own images.
"""

import concurrent.futures
import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Collection, Iterator, Sequence

import nibabel as nib
import numpy as np

from jaxbrats.data.labels import BACKGROUND
from jaxbrats.data.preprocessing import CropBox, Preprocessing, paste, preprocess_images
from jaxbrats.data.raw import geometry
from jaxbrats.data.raw.cases import Case
from jaxbrats.data.raw.geometry import Frame, same_spacing
from jaxbrats.data.raw.nifti import Volume, write_labels, write_map
from jaxbrats.inference.postprocess import Postprocessing, postprocess
from jaxbrats.system.errors import InputError

MODES = ("window", "crop")
MAPS = ("probabilities", "entropy")


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """What was predicted for a case, in the box of its volume that was looked at, in the training orientation.

    Attributes:
        case: Its name.
        path: The file written.
        image: Normalised modalities, `(X, Y, Z, C)`.
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
    *,
    frame: Frame | None = None,
    mode: str = "window",
    postprocessing: Postprocessing | None = None,
    convention: str = "2023",
    maps: Collection[str] = (),
) -> Iterator[Segmentation | InputError]:
    """Segments cases one after the other and writes `folder/CASE.nii.gz` on the voxels of each case's own files.

    Of the voxels outside the box that the network saw, all are background. The next case is read while the network is
    at work.

    Args:
        cases: What to segment; their segmentations, where they have any, are not read.
        predict: Image `(X, Y, Z, C)`, no smaller than the crop, to probabilities `(X, Y, Z, K)`.
        settings: Preprocessing of the run.
        folder: Where to write.
        frame: Orientation and spacing of the training cases; None predicts on the files' voxels as they are.
        mode: 'window' predicts in the brain's bounding box, 'crop' in the crop about the centre that training used.
        postprocessing: What is done to the labels; None for nothing.
        convention: Number of the enhancing tumour in the files: '2023' writes 3, '2021' writes 4.
        maps: Some of `MAPS`. 'probabilities' writes CASE-probabilities.nii.gz `(X, Y, Z, K)`, 'entropy' the
            uncertainty in nats, 0 to ln K, as CASE-entropy.nii.gz.

    Yields:
        For each case in turn what was predicted, or what is wrong with it.

    Raises:
        OSError: a file cannot be written.
    """
    read = functools.partial(_read, settings=settings, frame=frame, mode=mode)
    with concurrent.futures.ThreadPoolExecutor(1) as reader:
        coming = None
        for case, following in zip(cases, [*cases[1:], None], strict=True):
            reading = coming or reader.submit(read, case)
            coming = reader.submit(read, following) if following else None
            try:
                patient = reading.result()
                probabilities = geometry.resample(predict(patient.seen), patient.box.size)
            except InputError as problem:
                yield problem
                continue
            except MemoryError:
                hint = "Lower --batch, or use a machine with more"
                yield InputError("does not fit in memory", case=case.name, hint=hint)
                continue
            labels = np.argmax(probabilities, axis=-1).astype(np.uint8)
            if postprocessing is not None:
                labels = postprocess(labels, nib.affines.voxel_sizes(patient.affine), postprocessing)
            _write_maps(folder, case.name, patient, probabilities, maps)
            path = folder / f"{case.name}.nii.gz"
            write_labels(path, patient.on_file(labels), patient.header, convention)
            yield Segmentation(case.name, path, patient.image, labels, patient.affine)


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Entropy of class probabilities `(..., K)` in nats, 0 where one is certain, ln K where all are equal."""
    least = np.finfo(probabilities.dtype).tiny
    return -np.sum(probabilities * np.log(np.maximum(probabilities, least)), axis=-1)


@dataclasses.dataclass(frozen=True, eq=False)
class _Patient:
    """A case as read.

    Attributes:
        image: Normalised modalities in the box, `(X, Y, Z, C)`, turned to the training orientation.
        seen: The same at the training spacing: what the network sees.
        box: Of the turned volume.
        affine: `(4, 4)` of the box.
        orientation: Of the box; None for the file's own.
        header: Of the file to write.
    """

    image: np.ndarray
    seen: np.ndarray
    box: CropBox
    affine: np.ndarray
    orientation: str | None
    header: nib.Nifti1Header

    def on_file(self, array: np.ndarray, background: float | Sequence[float] = 0) -> np.ndarray:
        """An array of the box on the voxels of the file, `background` outside the box."""
        whole = paste(array, self.box, background)
        if self.orientation is None:
            return whole
        return geometry.undo_reorient(whole, self.header.get_best_affine(), self.orientation)


def _read(case: Case, settings: Preprocessing, frame: Frame | None, mode: str) -> _Patient:
    choose_box = functools.partial(_choose_box, crop=settings.crop, frame=frame, mode=mode)
    image, box, header = preprocess_images(case, settings, frame and frame.orientation, choose_box)
    affine, seen = header.get_best_affine(), image
    if frame is not None:
        affine = geometry.reoriented_affine(affine, header.get_data_shape()[:3], frame.orientation)
        seen = geometry.resample(image, _seen_shape(box, affine, settings.crop, frame, mode))
    affine = affine @ nib.affines.from_matvec(np.eye(3), np.array(box.origin))
    return _Patient(image, seen, box, affine, frame and frame.orientation, header)


def _choose_box(volumes: Sequence[Volume], crop: tuple[int, int, int], frame: Frame | None, mode: str) -> CropBox:
    """What is looked at of a patient, as large as what the network was trained on at least."""
    least, spacing = crop, nib.affines.voxel_sizes(volumes[0].affine)
    if frame is not None and not same_spacing(spacing, frame.spacing_mm):
        sides = zip(crop, frame.spacing_mm, spacing, strict=True)
        least = tuple(math.ceil(size * trained / own) for size, trained, own in sides)
    if mode == "crop":
        return CropBox.about_centre(volumes[0].data.shape, least)
    brain = volumes[0].data != 0
    for volume in volumes[1:]:
        brain |= volume.data != 0
    return CropBox.about(geometry.bounding_box(brain), brain.shape, least)


def _seen_shape(
    box: CropBox, affine: np.ndarray, crop: tuple[int, int, int], frame: Frame, mode: str
) -> tuple[int, int, int]:
    """Size of the box in voxels of the training spacing."""
    spacing = nib.affines.voxel_sizes(affine)
    if same_spacing(spacing, frame.spacing_mm):
        return box.size
    if mode == "crop":
        return crop
    shape = geometry.resampled_shape(box.size, spacing, frame.spacing_mm)
    return tuple(max(size, least) for size, least in zip(shape, crop, strict=True))


def _write_maps(
    folder: pathlib.Path, name: str, patient: _Patient, probabilities: np.ndarray, maps: Collection[str]
) -> None:
    if "probabilities" in maps:
        certain = np.eye(probabilities.shape[-1])[BACKGROUND]
        whole = patient.on_file(probabilities, background=certain)
        write_map(folder / f"{name}-probabilities.nii.gz", whole, patient.header)
    if "entropy" in maps:
        whole = patient.on_file(entropy(probabilities))
        write_map(folder / f"{name}-entropy.nii.gz", whole, patient.header)
