"""The score tables of a report: all regions in short, and each region with every metric. Sorted in the browser."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from jaxbrats.data.labels import REGIONS, SCORED
from jaxbrats.evaluation.tables import Row
from jaxbrats.report.pages.wording import COLUMNS, FAULTS, REGION_TITLES, Column, count, distance, millilitres, score


@dataclasses.dataclass(frozen=True)
class CaseScores:
    """The score table's rows of one case.

    Attributes:
        name: The case's name.
        regions: WT, TC, ET, NCR, ED -> row, for those that there are.
    """

    name: str
    regions: Mapping[str, Row]

    def number(self, region: str, metric: str) -> float:
        """A score; not a number where there is none."""
        return float(self.regions.get(region, {}).get(metric, math.nan))

    @property
    def mean_dice(self) -> float:
        """Mean Dice of WT, TC and ET."""
        return sum(self.number(region, "dice") for region in REGIONS) / len(REGIONS)

    @property
    def has_lesion_errors(self) -> bool:
        """Whether a lesion of WT, TC or ET was missed or is a false positive."""
        return any(self.number(region, metric) > 0 for region in REGIONS for metric in FAULTS)


class Head(NamedTuple):
    """A column's title, which sorts its table.

    Attributes:
        title: What the column holds.
        kind: "text", or which of its numbers come first at a click: the "low" or the "high".
        meaning: Explains the title.
        sorted: Whether the rows are in that order already.
    """

    title: str
    kind: str
    meaning: str | None = None
    sorted: bool = False


class Cell(NamedTuple):
    """A number in a table.

    Attributes:
        text: What is shown.
        key: What is sorted by; empty where there is no number.
        share: Length of the bar under a score, 0 to 1; None for no bar.
        fault: Whether it is red.
    """

    text: str
    key: str
    share: str | None = None
    fault: bool = False


class ScoreTable(NamedTuple):
    """A table of all cases.

    Attributes:
        name: On its tab.
        meaning: Explains the name.
        head: The columns; the first is the case.
        rows: Each case with its cells.
    """

    name: str
    meaning: str | None
    head: Sequence[Head]
    rows: Sequence[tuple[CaseScores, Sequence[Cell]]]


def by_case(rows: Sequence[Row]) -> list[CaseScores]:
    """A score table's cases, the worst mean Dice first."""
    cases: dict[str, dict[str, Row]] = {}
    for row in rows:
        cases.setdefault(str(row["case"]), {})[str(row["region"])] = row
    return _lowest_first([CaseScores(*case) for case in cases.items()], lambda case: case.mean_dice)


def table_columns(rows: Sequence[Row]) -> list[Column]:
    """The columns that a score table has."""
    return [column for column in COLUMNS if any(column.metric in row for row in rows)]


def score_tables(cases: Sequence[CaseScores]) -> list[ScoreTable]:
    """The overview and a table for each region that was scored.

    Args:
        cases: The worst first.
    """
    regions = [region for region in SCORED if any(region in case.regions for case in cases)]
    return [_overview(cases), *(_region(region, cases) for region in regions)]


def score_cell(case: CaseScores, region: str, column: Column) -> Cell:
    """One score of a case."""
    value = case.number(region, column.metric)
    return _cell(value, column.write, bar=column.metric == "dice", fault=column.metric in FAULTS and value > 0)


def _overview(cases: Sequence[CaseScores]) -> ScoreTable:
    head = [Head("Case", "text"), Head("Mean Dice", "low", "Of WT, TC and ET", sorted=True)]
    head += [Head(f"Dice {region}", "low", REGION_TITLES[region]) for region in REGIONS]
    head += [Head(f"HD95 {region}, mm", "high", REGION_TITLES[region]) for region in REGIONS]
    head += [
        Head("WT truth, ml", "high", "Volume of the whole tumour in the reference"),
        Head("WT predicted, ml", "high", "Volume of the whole tumour in the prediction"),
        Head("Missed WT · TC · ET", "high", "Lesions of the reference that the prediction does not meet"),
        Head("False positives WT · TC · ET", "high", "Predicted lesions that meet none of the reference"),
    ]
    rows = []
    for case in cases:
        cells = [_cell(case.mean_dice, score, bar=True)]
        cells += [_cell(case.number(region, "dice"), score, bar=True) for region in REGIONS]
        cells += [_cell(case.number(region, "hd95_mm"), distance) for region in REGIONS]
        cells += [_cell(case.number("WT", metric), millilitres) for metric in ("volume_ref_mm3", "volume_pred_mm3")]
        cells += [_counts(case, metric) for metric in FAULTS]
        rows.append((case, cells))
    return ScoreTable("Overview", None, head, rows)


def _region(region: str, cases: Sequence[CaseScores]) -> ScoreTable:
    columns = table_columns([case.regions[region] for case in cases if region in case.regions])
    head = [Head("Case", "text")]
    head += [Head(one.title, one.worst or "high", one.meaning, sorted=one.metric == "dice") for one in columns]
    lowest_first = _lowest_first(cases, lambda case: case.number(region, "dice"))
    rows = [(case, [score_cell(case, region, column) for column in columns]) for case in lowest_first]
    return ScoreTable(region, REGION_TITLES[region], head, rows)


def _lowest_first(cases: Sequence[CaseScores], value: Callable[[CaseScores], float]) -> list[CaseScores]:
    """Cases by increasing value; those that have none last, as the tables' own sorting puts them."""
    return sorted(cases, key=lambda case: math.inf if math.isnan(value(case)) else value(case))


def _cell(value: float, write: Callable[[float], str], bar: bool = False, fault: bool = False) -> Cell:
    finite = math.isfinite(value)
    return Cell(write(value), f"{value:.9g}" if finite else "", f"{value:.3f}" if bar and finite else None, fault)


def _counts(case: CaseScores, metric: str) -> Cell:
    numbers = [case.number(region, metric) for region in REGIONS]
    text = " · ".join(count(number) for number in numbers)
    total = sum(numbers)
    return Cell(text, f"{total:.0f}" if math.isfinite(total) else "", fault=total > 0)
