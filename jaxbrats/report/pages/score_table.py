"""The score tables of a report: all regions in short, and each region with every metric. Sorted in the browser."""

import math
from collections.abc import Callable, Mapping, Sequence

from jaxbrats.data.labels import REGIONS, SCORED
from jaxbrats.report.pages.case_page import CasePage
from jaxbrats.report.pages.markup import Markup, link_to, tag
from jaxbrats.report.pages.wording import (
    FAULTS,
    REGION_TITLES,
    CaseScores,
    Column,
    count,
    distance,
    lowest_first,
    millilitres,
    score,
    table_columns,
)

_OVERVIEW = "Overview"


def score_tables(cases: Sequence[CaseScores], pages: Mapping[str, CasePage]) -> Markup:
    """The tables, of which one is shown at a time, with the means to choose it and to find cases.

    Args:
        cases: The worst first.
        pages: Case -> its page, for those that have one.
    """
    tables = {_OVERVIEW: _overview(cases, pages)} | {
        region: _region(region, cases, pages) for region in SCORED if any(region in case.regions for case in cases)
    }
    tabs = [
        tag("button", name, type="button", data_table=name, aria_pressed="true" if name == _OVERVIEW else "false",
            title=REGION_TITLES.get(name))
        for name in tables
    ]  # fmt: skip
    controls = tag(
        "div",
        tag("div", tabs, class_="segments light", role="group", aria_label="Table"),
        tag("input", type="search", id="filter", placeholder="Find a case", aria_label="Find a case"),
        tag("label", tag("input", type="checkbox", id="faulty"), "with missed or false positive lesions only"),
        tag("span", f"{len(cases)} cases", id="shown", class_="quiet", aria_live="polite"),
        class_="controls",
    )
    shown = [
        tag("div", table, class_="scroll tall", tabindex=0, data_of=name, hidden=name != _OVERVIEW)
        for name, table in tables.items()
    ]
    note = tag(
        "p",
        "The worst case is first: click a column's title to sort by it, again to turn the order round. "
        "The same numbers: ",
        tag("a", "cases.csv", href="evaluation/cases.csv"),
        ".",
        class_="quiet",
    )
    return tag("div", controls, shown, note, id="scores")


def _overview(cases: Sequence[CaseScores], pages: Mapping[str, CasePage]) -> Markup:
    head = [
        sortable_head("Case", "text"),
        sortable_head("Mean Dice", "low", sorted_now=True, meaning="Of WT, TC and ET"),
    ]
    head += [sortable_head(f"Dice {region}", "low", meaning=REGION_TITLES[region]) for region in REGIONS]
    head += [sortable_head(f"HD95 {region}, mm", "high", meaning=REGION_TITLES[region]) for region in REGIONS]
    head += [
        sortable_head("WT truth, ml", "high", meaning="Volume of the whole tumour in the reference"),
        sortable_head("WT predicted, ml", "high", meaning="Volume of the whole tumour in the prediction"),
        sortable_head(
            "Missed WT · TC · ET", "high", meaning="Lesions of the reference that the prediction does not meet"
        ),
        sortable_head(
            "False positives WT · TC · ET", "high", meaning="Predicted lesions that meet none of the reference"
        ),
    ]
    rows = []
    for case in cases:
        cells = [_cell(case.mean_dice, score, bar=True)]
        cells += [_cell(case.number(region, "dice"), score, bar=True) for region in REGIONS]
        cells += [_cell(case.number(region, "hd95_mm"), distance) for region in REGIONS]
        cells += [_cell(case.number("WT", metric), millilitres) for metric in ("volume_ref_mm3", "volume_pred_mm3")]
        cells += [_counts(case, metric) for metric in FAULTS]
        rows.append(_row(case, pages, cells, picture=True))
    return _table(head, rows)


def _region(region: str, cases: Sequence[CaseScores], pages: Mapping[str, CasePage]) -> Markup:
    columns = table_columns([case.regions[region] for case in cases if region in case.regions])
    head = [sortable_head("Case", "text")]
    for column in columns:
        head.append(sortable_head(column.title, column.worst or "high", column.metric == "dice", column.meaning))
    rows = [
        _row(case, pages, [_region_cell(case.number(region, column.metric), column) for column in columns])
        for case in lowest_first(cases, lambda case: case.number(region, "dice"))
    ]
    return _table(head, rows)


def _table(head: Sequence[Markup], rows: Sequence[Markup]) -> Markup:
    return tag("table", tag("thead", tag("tr", head)), tag("tbody", rows), class_="sortable")


def sortable_head(title: str, kind: str, sorted_now: bool = False, meaning: str | None = None) -> Markup:
    """A column's title, which sorts its table.

    Args:
        title: What the column holds.
        kind: "text", or which of its numbers come first at a click: the "low" or the "high".
        sorted_now: Whether the rows are in that order already.
        meaning: Explains the title.
    """
    return tag(
        "th",
        tag("button", title, type="button", title=meaning),
        scope="col",
        data_kind=kind,
        class_=kind,
        aria_sort=("descending" if kind == "high" else "ascending") if sorted_now else None,
    )


def _row(case: CaseScores, pages: Mapping[str, CasePage], cells: Sequence[Markup], picture: bool = False) -> Markup:
    name: object = case.name
    if case.name in pages:
        # In one table of the six: they are most of the page's weight.
        image = tag("img", src=pages[case.name].thumbnail, alt="", loading="lazy") if picture else None
        name = tag("a", image, tag("span", case.name), href=link_to("report", f"{case.name}.html"))
    faults = [case.number(region, metric) for region in REGIONS for metric in FAULTS]
    faulty = any(number > 0 for number in faults)
    return tag("tr", tag("th", name, scope="row", data_sort=case.name), cells, data_case=case.name, data_faulty=faulty)


def _region_cell(value: float, column: Column) -> Markup:
    return _cell(value, column.write, bar=column.metric == "dice", fault=column.metric in FAULTS and value > 0)


def _cell(value: float, write: Callable[[float], str], bar: bool = False, fault: bool = False) -> Markup:
    finite = math.isfinite(value)
    style = f"--share:{value:.3f}" if bar and finite else None
    class_ = "bar" if style else "fault" if fault else None
    return tag("td", write(value), data_sort=f"{value:.9g}" if finite else "", style=style, class_=class_)


def _counts(case: CaseScores, metric: str) -> Markup:
    numbers = [case.number(region, metric) for region in REGIONS]
    total = sum(numbers)
    text = " · ".join(count(number) for number in numbers)
    return tag(
        "td", text, data_sort=f"{total:.0f}" if math.isfinite(total) else "", class_="fault" if total > 0 else None
    )
