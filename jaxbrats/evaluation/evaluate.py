"""Scores of predicted cases: from arrays to the rows of the score table."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import nibabel as nib
import numpy as np

from jaxbrats.data.arrays import ArrayCase, identify, read_image, read_labels
from jaxbrats.data.labels import REGIONS
from jaxbrats.evaluation import metrics, tables
from jaxbrats.evaluation.volumes import affine_of_array
from jaxbrats.system.errors import InputError

Predict = Callable[[np.ndarray], np.ndarray]


class CaseScores(NamedTuple):
    """A case that was predicted and scored.

    Attributes:
        case: The case, identified.
        labels: What was predicted, uint8 `(X, Y, Z)`, on the voxels of its array.
        rows: Its rows of the score table.
    """

    case: ArrayCase
    labels: np.ndarray
    rows: list[tables.Row]


def score_cases(
    cases: Iterable[ArrayCase], predict: Predict, check: Callable[[ArrayCase], None]
) -> Iterator[CaseScores | InputError]:
    """Predicts and scores each case.

    Args:
        cases: What to score.
        predict: From an image `(X, Y, Z, C)` to labels `(X, Y, Z)`.
        check: Raises where an identified case is not one to be scored.

    Yields:
        For each case its scores, or what is wrong with it.
    """
    for case in cases:
        try:
            case = identify(case)
            check(case)
            labels, truth = predict(read_image(case)), read_labels(case)
            spacing = tuple(nib.affines.voxel_sizes(affine_of_array(case.record)).tolist())
            rows = tables.case_rows(case.name, metrics.score_case(labels, truth, spacing))
        except InputError as problem:
            yield problem
            continue
        except MemoryError:
            yield InputError("does not fit in memory", case=case.name, hint="Use a machine with more")
            continue
        yield CaseScores(case, labels, rows)


def region_dice(rows: Iterable[tables.Row]) -> dict[str, dict[str, float]]:
    """Dice of the regions WT, TC and ET: case -> region -> value."""
    dice: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["region"] in REGIONS:
            dice.setdefault(str(row["case"]), {})[str(row["region"])] = float(row["dice"])
    return dice
