"""From cases to the rows of the score table: predicted as `jaxbrats predict` does, scored as `jaxbrats score` does."""

import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import nibabel as nib

from jaxbrats.data.arrays import ArrayCase, read_image, read_labels
from jaxbrats.data.labels import REGIONS
from jaxbrats.data.raw import nifti
from jaxbrats.data.raw.cases import Case
from jaxbrats.evaluation import metrics, tables
from jaxbrats.evaluation.volumes import affine_of_array
from jaxbrats.inference.network import Network
from jaxbrats.inference.predict import predict_cases
from jaxbrats.inference.predictions import write_prediction
from jaxbrats.inference.predictor import Predictor
from jaxbrats.system.errors import InputError


class CaseScores(NamedTuple):
    """Name of a case and its rows of the score table."""

    case: str
    rows: list[tables.Row]


def score_files(
    cases: Sequence[Case], network: Network, folder: pathlib.Path | None
) -> Iterator[CaseScores | InputError]:
    """Predicts whole volumes and scores them on the voxels of the cases' own files, so that all tumour counts.

    Args:
        cases: What to score; all have segmentations.
        network: What predicts.
        folder: Where the predictions are left, `CASE.nii.gz`; None for nowhere.

    Yields:
        For each case its scores, or what is wrong with it.
    """
    predictor = Predictor([network], network.window)
    results = predict_cases(cases, predictor, network.preprocessing, folder, frame=network.frame, head=network.head)
    for case, result in zip(cases, results, strict=True):
        if isinstance(result, InputError):
            yield result
            continue
        try:
            truth, affine = nifti.read_labels(case.labels, case.name, case.label_map)
            spacing = tuple(nib.affines.voxel_sizes(affine).tolist())
            rows = tables.case_rows(case.name, metrics.score_case(result.file_labels, truth, spacing))
        except InputError as problem:
            yield problem
        else:
            yield CaseScores(case.name, rows)


def score_arrays(
    cases: Iterable[ArrayCase], network: Network, folder: pathlib.Path | None
) -> Iterator[CaseScores | InputError]:
    """Predicts and scores arrays, where the files they were made from are not known: tumour outside a crop is not seen.

    Args:
        cases: What to score.
        network: What predicts.
        folder: Where the predictions are left, `CASE.nii.gz`; None for nowhere.

    Yields:
        For each case its scores, or what is wrong with it.
    """
    predictor = Predictor([network], network.window)
    for case in cases:
        try:
            labels, truth = predictor.labels(read_image(case)), read_labels(case)
            spacing = tuple(nib.affines.voxel_sizes(affine_of_array(case.record)).tolist())
            rows = tables.case_rows(case.name, metrics.score_case(labels, truth, spacing))
        except InputError as problem:
            yield problem
            continue
        except MemoryError:
            yield InputError("does not fit in memory", case=case.name, hint="Use a machine with more")
            continue
        if folder is not None:
            write_prediction(folder / f"{case.name}.nii.gz", labels, case.record)
        yield CaseScores(case.name, rows)


def region_dice(rows: Iterable[tables.Row]) -> dict[str, dict[str, float]]:
    """Dice of the regions WT, TC and ET: case -> region -> value."""
    dice: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["region"] in REGIONS:
            dice.setdefault(str(row["case"]), {})[str(row["region"])] = float(row["dice"])
    return dice
