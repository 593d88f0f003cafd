"""How the report's pages name things and write numbers."""

import dataclasses
import math
from collections.abc import Callable, Sequence

from jaxbrats.data.labels import ED, ET, LABEL_TITLES, NCR, REGIONS
from jaxbrats.evaluation.surfaces import MISSING_MM
from jaxbrats.evaluation.tables import Row
from jaxbrats.report.pages.markup import Markup, tag

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


def kind_badge(kind: str) -> Markup:
    """A lesion's kind, one of `lesion_list.KINDS`."""
    return tag("span", kind, class_=f"kind {kind.replace(' ', '-')}")


@dataclasses.dataclass(frozen=True)
class Column:
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
FAULTS = ("lesions_fn", "lesions_fp")


@dataclasses.dataclass(frozen=True)
class CaseScores:
    """The score table's rows of one case.

    Attributes:
        name: Of the case.
        regions: WT, TC, ET, NCR, ED -> row, for those that there are.
    """

    name: str
    regions: dict[str, Row]

    def number(self, region: str, metric: str) -> float:
        """A score; not a number where there is none."""
        return float(self.regions.get(region, {}).get(metric, math.nan))

    @property
    def mean_dice(self) -> float:
        """Of WT, TC and ET."""
        return sum(self.number(region, "dice") for region in REGIONS) / len(REGIONS)


def by_case(rows: Sequence[Row]) -> list[CaseScores]:
    """A score table's cases, the worst mean Dice first."""
    cases: dict[str, dict[str, Row]] = {}
    for row in rows:
        cases.setdefault(str(row["case"]), {})[str(row["region"])] = row
    scored = [CaseScores(name, regions) for name, regions in cases.items()]
    return lowest_first(scored, lambda case: case.mean_dice)


def lowest_first(cases: Sequence[CaseScores], value: Callable[[CaseScores], float]) -> list[CaseScores]:
    """Cases by increasing value; those that have none last, as the tables' own sorting puts them."""
    return sorted(cases, key=lambda case: math.inf if math.isnan(value(case)) else value(case))


def table_columns(rows: Sequence[Row]) -> list[Column]:
    """The columns that a score table has."""
    return [column for column in COLUMNS if any(column.metric in row for row in rows)]
