"""How the report's pages name things and write numbers."""

import math
from collections.abc import Callable
from typing import NamedTuple

from jaxbrats.data.labels import ED, ET, LABEL_TITLES, NCR
from jaxbrats.evaluation.surfaces import MISSING_MM

MODALITY_TITLES = {"t1n": "T1", "t1c": "T1 with contrast", "t2w": "T2", "t2f": "FLAIR"}
REGION_TITLES = {
    "WT": "whole tumour (WT)",
    "TC": "tumour core (TC)",
    "ET": LABEL_TITLES[ET],
    "NCR": LABEL_TITLES[NCR],
    "ED": LABEL_TITLES[ED],
}
NOTHING = "-"


def score(value: float) -> str:
    """A score from 0 to 1."""
    return NOTHING if math.isnan(value) else f"{value:.3f}"


def distance(value: float) -> str:
    """Millimetres."""
    return NOTHING if math.isnan(value) else f"{value:.1f}"


def millilitres(mm3: float) -> str:
    """A volume in ml, small ones to the cubic millimetre."""
    if math.isnan(mm3):
        return NOTHING
    ml = mm3 / 1000
    return f"{ml:.1f}" if ml >= 10 or ml == 0 else f"{ml:.2f}" if ml >= 0.1 else f"{ml:.3f}"


def count(value: float) -> str:
    """A number of lesions."""
    return NOTHING if math.isnan(value) else f"{value:.0f}"


class Column(NamedTuple):
    """A column of a score table.

    Attributes:
        metric: Name in the score table's CSV.
        title: Above the column.
        write: Number to text.
        worst: Which values are bad: "low", "high", or "" where neither is.
        meaning: Explains the title.
    """

    metric: str
    title: str
    write: Callable[[float], str]
    worst: str
    meaning: str


COLUMNS = (
    Column("dice", "Dice", score, "low", "Overlap with the reference: 1 is perfect, 0 is none"),
    Column(
        "hd95_mm", "HD95, mm", distance, "high",
        f"95th percentile of the distances between the two surfaces; {MISSING_MM:g} where one of them is missing",
    ),
    Column("lesions_tp", "Found", count, "", "Lesions of the reference that the prediction meets"),
    Column("lesions_fn", "Missed", count, "high", "Lesions of the reference that the prediction does not meet"),
    Column("lesions_fp", "False positives", count, "high", "Predicted lesions that meet none of the reference"),
    Column("volume_ref_mm3", "Volume, truth, ml", millilitres, "", "Volume in the reference"),
    Column("volume_pred_mm3", "Volume, predicted, ml", millilitres, "", "Volume in the prediction"),
    Column("sensitivity", "Sensitivity", score, "low", "Share of the reference that was predicted"),
    Column("specificity", "Specificity", score, "low", "Share of all other voxels that were left out"),
    Column("iou", "IoU", score, "low", "Intersection over union"),
    Column("asd_mm", "Mean distance, mm", distance, "high", "Average distance between the two surfaces"),
    Column("surface_dice", "Surface Dice", score, "low", "Share of both surfaces within 1 mm of the other"),
    Column("lesion_dice", "Lesion Dice", score, "low", "Mean of the lesions' Dice; false positives count 0"),
    Column(
        "lesion_hd95_mm", "Lesion HD95, mm", distance, "high",
        f"Mean of the lesions' HD95; misses and false positives count {MISSING_MM:g}",
    ),
)  # fmt: skip
# Numbers of lesions that are red where they are not 0.
FAULTS = ("lesions_fn", "lesions_fp")
