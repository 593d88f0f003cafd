"""From patients' NIfTI files to segmentations on the voxels of these files.

The network's probabilities are brought back to the voxels of the files before labels are chosen, so that a segmentation
is as fine as the patient's own images.
"""

import concurrent.futures
import contextlib
import dataclasses
import errno
import functools
import itertools
import pathlib
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from jaxbrats.data.raw import geometry
from jaxbrats.data.raw.cases import Case
from jaxbrats.data.raw.nifti import write_labels, write_map
from jaxbrats.inference.network import Network
from jaxbrats.inference.patient import Patient, read_patient
from jaxbrats.inference.postprocess import postprocess
from jaxbrats.model.heads import Head
from jaxbrats.system.errors import InputError

MAPS = ("probabilities", "entropy")


@dataclasses.dataclass(frozen=True, eq=False)
class Segmentation:
    """What was predicted for a case.

    Attributes:
        patient: The case, its image and where that lies.
        path: The label file; None where nothing was to be written.
        file_labels: Labels `(X, Y, Z)` uint8 on the voxels of the case's own files.
        labels: Labels `(X, Y, Z)` uint8 of the patient's image.
    """

    patient: Patient
    path: pathlib.Path | None
    file_labels: np.ndarray
    labels: np.ndarray


def predict_cases(
    cases: Sequence[Case],
    predict: Callable[[np.ndarray], np.ndarray],
    network: Network,
    folder: pathlib.Path | None,
    *,
    mode: str = "window",
    convention: str = "2023",
    maps: Collection[str] = (),
) -> Iterator[Segmentation | InputError]:
    """Segments cases one after the other and writes `folder/CASE.nii.gz` on the voxels of each case's own files.

    All voxels outside the box that the network was given are background. The next case is read while the network is at
    work; no more than these two are held.

    Args:
        cases: What to segment; their segmentations, where they have any, are not read.
        predict: Image `(X, Y, Z, C)`, no smaller than the crop, to probabilities `(X, Y, Z, K)`, such as a `Predictor`.
        network: What tells how cases are prepared, what the probabilities mean and what is done to the labels, such as
            the first of an ensemble; see its `preprocessing`, `frame`, `missing_allowed`, `head` and `postprocessing`.
        folder: Where to write; None writes nothing.
        mode: 'window' predicts in the brain's bounding box, 'crop' in the crop about the centre that training used.
        convention: Number of the enhancing tumour in the files: '2023' writes 3, '2021' writes 4.
        maps: Some of `MAPS`. 'probabilities' writes CASE-probabilities.nii.gz `(X, Y, Z, K)`, 'entropy' the
            uncertainty in nats as CASE-entropy.nii.gz; see `entropy` of the head.

    Yields:
        For each case in turn what was predicted, or why it could not be: files that are missing or cannot be used,
        memory that does not suffice, a name too long to write. Such a case leaves no file behind.

    Raises:
        OSError: the folder cannot be written, because the disk is full or read-only, for example.
    """
    read = functools.partial(
        read_patient,
        settings=network.preprocessing,
        frame=network.frame,
        mode=mode,
        missing_allowed=network.missing_allowed,
    )
    with concurrent.futures.ThreadPoolExecutor(1) as reader:
        coming = None
        for case, following in itertools.zip_longest(cases, cases[1:]):
            reading = coming or reader.submit(read, case)
            coming = reader.submit(read, following) if following else None
            try:
                # Yielded without a name, so that it is not kept while the next case is at work.
                yield _segment(case.name, reading.result, predict, network, folder, convention, maps)
            except InputError as problem:
                # The frames of its traceback would keep the arrays of the case.
                problem.__traceback__ = problem.__cause__ = problem.__context__ = None
                yield problem
            del reading


def output_names(case: str, maps: Collection[str] = ()) -> list[str]:
    """Names of the files that `predict_cases` writes for a case."""
    return [*(f"{case}-{name}.nii.gz" for name in MAPS if name in maps), f"{case}.nii.gz"]


def _segment(
    name: str,
    read: Callable[[], tuple[Patient, np.ndarray]],
    predict: Callable[[np.ndarray], np.ndarray],
    network: Network,
    folder: pathlib.Path | None,
    convention: str,
    maps: Collection[str],
) -> Segmentation:
    with _of_this_case(name, "Use a machine with more"):
        patient, network_input = read()
    with _of_this_case(name, "Predict fewer windows at once (--batch), or use a machine with more"):
        probabilities = predict(network_input)
        if np.isnan(probabilities.min()):
            problem = "the network gives probabilities that are not numbers"
            raise InputError(problem, case=name, hint="Choose another --step, and look at the case's intensities")
    with _of_this_case(name, "Ask for no maps, or use a machine with more" if maps else "Use a machine with more"):
        probabilities = geometry.resample(probabilities, patient.box.size)
        labels = postprocess(network.head.labels(probabilities), patient.spacing_mm, network.postprocessing)
        file_labels = patient.on_file(labels)
        path = None
        if folder is not None:
            path = folder / f"{name}.nii.gz"
            with _all_or_none(folder, output_names(name, maps)):
                _write_maps(folder, patient, probabilities, maps, network.head)
                write_labels(path, file_labels, patient.header, convention)
    return Segmentation(patient, path, file_labels, labels)


def _write_maps(
    folder: pathlib.Path, patient: Patient, probabilities: np.ndarray, maps: Collection[str], head: Head
) -> None:
    if "entropy" in maps:
        whole = patient.on_file(head.entropy(probabilities))
        write_map(folder / f"{patient.case}-entropy.nii.gz", whole, patient.header)
    if "probabilities" in maps:
        whole = patient.on_file(probabilities, head.background)
        write_map(folder / f"{patient.case}-probabilities.nii.gz", whole, patient.header)


@contextlib.contextmanager
def _of_this_case(case: str, hint: str) -> Iterator[None]:
    """Turns what is the trouble of one case, not of all, into an `InputError`; `hint` is for too little memory."""
    try:
        yield
    except MemoryError as error:
        raise InputError("does not fit in memory", case=case, hint=hint) from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        hint = "Give the case's files a shorter name"
        raise InputError("its name is too long for the files to write", case=case, hint=hint) from error


@contextlib.contextmanager
def _all_or_none(folder: pathlib.Path, names: Sequence[str]) -> Iterator[None]:
    """Removes the files of a case again where one of them cannot be written."""
    try:
        yield
    except BaseException:
        for name in names:
            with contextlib.suppress(OSError):
                (folder / name).unlink()
        raise
