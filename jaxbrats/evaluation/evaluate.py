"""From cases to the rows of the score table: predicted as `jaxbrats predict` does, scored as `jaxbrats score` does."""

import contextlib
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import nibabel as nib
import numpy as np

from jaxbrats.data.arrays import ArrayCase, read_image, read_labels
from jaxbrats.data.labels import BRATS_2023, REGIONS
from jaxbrats.data.raw import nifti
from jaxbrats.data.raw.cases import Case, VolumeFile
from jaxbrats.evaluation import metrics, tables
from jaxbrats.evaluation.volumes import affine_of_array
from jaxbrats.inference.network import Network
from jaxbrats.inference.postprocess import postprocess
from jaxbrats.inference.predict import predict_cases
from jaxbrats.inference.predictions import as_written, read_prediction, write_prediction
from jaxbrats.inference.predictor import Predictor
from jaxbrats.system.errors import InputError


class Predicted(NamedTuple):
    """A case, predicted.

    Attributes:
        case: Name of the case.
        labels: Predicted labels, uint8 `(X, Y, Z)`.
        truth: Reference labels, uint8 `(X, Y, Z)`.
        spacing_mm: Voxel size along each axis.
    """

    case: str
    labels: np.ndarray
    truth: np.ndarray
    spacing_mm: tuple[float, float, float]


class CaseScores(NamedTuple):
    """Name of a case and its rows of the score table."""

    case: str
    rows: list[tables.Row]


def predict_files(
    cases: Sequence[Case], network: Network, folder: pathlib.Path | None
) -> Iterator[Predicted | InputError]:
    """Predicts whole volumes on the voxels of the cases' own files, so that all tumour counts.

    Args:
        cases: What to predict; all have segmentations.
        network: What predicts.
        folder: Where the predictions are left, `CASE.nii.gz`; one that is there is read and not made again. None for
            nowhere.

    Yields:
        For each case what was predicted, or what is wrong with it.
    """
    there = _predicted_before([case.name for case in cases], folder)
    results = predict_cases([case for case in cases if case.name not in there], Predictor.of(network), network, folder)
    for case in cases:
        result = None if case.name in there else next(results)
        if isinstance(result, InputError):
            yield result
            continue
        with _of_this_case(case.name) as problems:
            truth, affine = nifti.read_labels(case.labels, case.name, case.label_map)
            if result is None:
                labels, _ = nifti.read_labels(VolumeFile(there[case.name]), case.name, BRATS_2023)
            else:
                labels = result.file_labels
        yield problems[0] if problems else Predicted(case.name, labels, truth, _spacing(affine))


def predict_arrays(
    cases: Sequence[ArrayCase], network: Network, folder: pathlib.Path | None
) -> Iterator[Predicted | InputError]:
    """As `predict_files`, of arrays, where the files they were made from are not known: what is outside is not seen."""
    predictor, there = Predictor.of(network), _predicted_before([case.name for case in cases], folder)
    for case in cases:
        spacing = _spacing(affine_of_array(case.record))
        with _of_this_case(case.name) as problems:
            truth = read_labels(case)
            if case.name in there:
                labels = read_prediction(there[case.name], case.name, truth.shape, case.record)
            else:
                labels = postprocess(predictor.labels(read_image(case)), spacing, network.postprocessing)
        if problems:
            yield problems[0]
            continue
        if case.name not in there:
            if folder is not None:
                write_prediction(folder / f"{case.name}.nii.gz", labels, case.record)
            labels = as_written(labels, case.record)
        yield Predicted(case.name, labels, truth, spacing)


def _predicted_before(names: Iterable[str], folder: pathlib.Path | None) -> dict[str, pathlib.Path]:
    """Case -> its prediction, where it is there."""
    paths = {} if folder is None else {name: folder / f"{name}.nii.gz" for name in names}
    return {name: path for name, path in paths.items() if path.exists()}


def score(results: Iterable[Predicted | InputError]) -> Iterator[CaseScores | InputError]:
    """Scores what was predicted; passes on what could not be."""
    for result in results:
        if isinstance(result, InputError):
            yield result
            continue
        with _of_this_case(result.case) as problems:
            scores = metrics.score_case(result.labels, result.truth, result.spacing_mm)
        yield problems[0] if problems else CaseScores(result.case, tables.case_rows(result.case, scores))


@contextlib.contextmanager
def _of_this_case(case: str) -> Iterator[list[InputError]]:
    """Catches what is the trouble of one case, not of all; yields where it is put."""
    problems: list[InputError] = []
    try:
        yield problems
    except InputError as problem:
        problems.append(problem)
    except MemoryError:
        problems.append(InputError("does not fit in memory", case=case, hint="Use a machine with more"))


def _spacing(affine: np.ndarray) -> tuple[float, float, float]:
    return tuple(nib.affines.voxel_sizes(affine).tolist())


def region_dice(rows: Iterable[tables.Row]) -> dict[str, dict[str, float]]:
    """Dice of the regions WT, TC and ET: case -> region -> value."""
    dice: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["region"] in REGIONS:
            dice.setdefault(str(row["case"]), {})[str(row["region"])] = float(row["dice"])
    return dice
