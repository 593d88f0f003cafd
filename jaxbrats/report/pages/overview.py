"""RUN/report.html: the run at a glance, its cases, the worst first, its false positives, and how it was made."""

import dataclasses
import datetime
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxbrats.data.labels import REGIONS, SCORED
from jaxbrats.evaluation.statistics import Summary
from jaxbrats.report.colours import COLOURS
from jaxbrats.report.overlays import DISCLAIMER
from jaxbrats.report.pages.case_page import CasePage, lesion_id
from jaxbrats.report.pages.charts import MOST_DOTS, Point, box_plot
from jaxbrats.report.pages.lesion_list import FALSE_POSITIVE, MISSED
from jaxbrats.report.pages.markup import Markup, link_to, page, tag
from jaxbrats.report.pages.score_table import score_tables, sortable_head
from jaxbrats.report.pages.settings_section import settings_section
from jaxbrats.report.pages.training_curves import curve_charts
from jaxbrats.report.pages.wording import (
    NOTHING,
    REGION_TITLES,
    CaseScores,
    count,
    distance,
    kind_badge,
    millilitres,
    score,
)

_SCRIPTS = ("table.js",)
# Lesions listed on the first page; every case's own page lists its own.
_MOST_LESIONS = 200


@dataclasses.dataclass(frozen=True)
class Run:
    """What a report is made from.

    Attributes:
        workdir: The run's folder.
        config: What its config.json holds.
        metrics: Records of its metrics.jsonl.
        cases: Scores, the worst case first; none where the run is not evaluated yet.
        evaluation: What its evaluation/summary.json holds; empty where there is none.
    """

    workdir: pathlib.Path
    config: Mapping[str, Any]
    metrics: Sequence[dict[str, Any]]
    cases: Sequence[CaseScores]
    evaluation: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Of the run."""
        return self.workdir.resolve().name


def overview(run: Run, pages: Mapping[str, CasePage], problems: Sequence[str]) -> str:
    """The first page.

    Args:
        run: What it tells of.
        pages: Case -> its page, for those that have one.
        problems: A line for each case that could not be shown.
    """
    sections = {
        "Cases": score_tables(run.cases, pages) if run.cases else _not_evaluated(),
        "Lesions": _lesions(run.cases, pages) if pages else None,
        "Distributions": _distributions(run.cases, pages),
        "Training": _figures(curve_charts(run.metrics)),
        "Settings": settings_section(run.config),
    }
    sections = {title: content for title, content in sections.items() if content is not None}
    links = [tag("a", title, href=f"#{title.lower()}") for title in sections]
    body = tag(
        "main",
        tag(
            "header",
            tag("p", "Segmentation report", class_="kicker"),
            tag("h1", run.name),
            tag("p", _subtitle(run), class_="quiet"),
        ),
        _tiles(run) if run.cases else None,
        tag("nav", links, class_="contents", aria_label="Contents"),
        _problems(problems) if problems else None,
        [tag("section", tag("h2", title), content, id=title.lower()) for title, content in sections.items()],
        tag("footer", _keep_together() if pages else None, tag("p", DISCLAIMER)),
    )
    return page(f"{run.name} · jaxbrats report", body, _SCRIPTS)


def _subtitle(run: Run) -> str:
    parts = []
    if run.cases:
        parts.append(f"{len(run.cases)} cases of {run.evaluation.get('data', 'unknown data')}")
    if "step" in run.evaluation:
        parts.append(f"checkpoint of step {run.evaluation['step']}")
    epochs = [record["epoch"] for record in run.metrics if "epoch" in record]
    if epochs:
        parts.append(f"{max(epochs)} epochs trained")
    parts.append(f"written {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC")
    return " · ".join(parts)


def _not_evaluated() -> Markup:
    return tag(
        "p", "Not evaluated yet: run ", tag("code", "jaxbrats evaluate --workdir=RUN"), ", then the report again."
    )


def _problems(problems: Sequence[str]) -> Markup:
    title = f"{len(problems)} not shown"
    return tag("details", tag("summary", title), tag("ul", [tag("li", line) for line in problems]), class_="problems")


def _keep_together() -> Markup:
    return tag(
        "p", "The cases' pages are in the folder ", tag("code", "report"), " beside this file: copy the two together."
    )


def _tiles(run: Run) -> Markup:
    """Dice of the three regions, and their lesions."""
    summary: Summary = run.evaluation.get("regions", {})
    tiles = []
    for region in REGIONS:
        dice, hd95 = (summary.get(region, {}).get(metric, {}) for metric in ("dice", "hd95_mm"))
        lines = [f"95 % interval {_interval(dice, score)}" if dice.get("ci_low") is not None else None]
        if hd95.get("median") is not None:
            lines.append(f"median HD95 {distance(hd95['median'])} mm")
        missed, false = (_total(run.cases, region, metric) for metric in ("lesions_fn", "lesions_fp"))
        if not math.isnan(false):
            found = _total(run.cases, region, "lesions_tp")
            lines.append(f"lesions: {count(found)} found, {count(missed)} missed, {count(false)} false positive")
        tiles.append(
            tag(
                "div",
                tag("p", f"Mean Dice, {REGION_TITLES[region]}", class_="what"),
                tag("p", _or_nothing(dice.get("mean"), score), class_="number"),
                [tag("p", line, class_="more") for line in lines if line],
                class_="tile",
                style=f"--colour:{COLOURS[region]}",
            )
        )
    return tag("div", tiles, class_="tiles")


def _interval(numbers: Mapping[str, Any], write: Any) -> str:
    return f"{write(numbers['ci_low'])} to {write(numbers['ci_high'])}"


def _or_nothing(value: float | None, write: Any) -> str:
    return NOTHING if value is None else write(value)


def _total(cases: Sequence[CaseScores], region: str, metric: str) -> float:
    values = [case.number(region, metric) for case in cases]
    known = [value for value in values if not math.isnan(value)]
    return sum(known) if known else math.nan


def _lesions(cases: Sequence[CaseScores], pages: Mapping[str, CasePage]) -> Markup:
    """Every missed and false positive lesion of WT, TC and ET, the largest first."""
    listed = [
        (case.name, region, number, lesion)
        for case in cases
        if case.name in pages
        for region, lesions in pages[case.name].lesions.items()
        for number, lesion in enumerate(lesions)
        if lesion.kind in (MISSED, FALSE_POSITIVE)
    ]
    if not listed:
        return tag("p", "No lesion was missed and none is a false positive.")
    listed.sort(key=lambda one: -one[3].volume_mm3)
    columns = {"Case": "text", "Volume, ml": "high", "Region": "text", "Lesion": "text"}
    head = [sortable_head(title, kind, sorted_now=kind == "high") for title, kind in columns.items()]
    rows = []
    for name, region, number, lesion in listed[:_MOST_LESIONS]:
        link = f"{link_to('report', f'{name}.html')}#show={lesion_id(region, number)}"
        rows.append(
            tag(
                "tr",
                tag("th", tag("a", name, href=link), scope="row", data_sort=name),
                tag("td", millilitres(lesion.volume_mm3), data_sort=f"{lesion.volume_mm3:.6g}"),
                tag("td", region, data_sort=region, class_="text"),
                tag("td", kind_badge(lesion.kind), data_sort=lesion.kind, class_="text"),
            )
        )
    told = "Lesions that were missed or are false positives, the largest first"
    told += f": {len(rows)} of them, each case's page lists its own." if len(listed) > len(rows) else "."
    table = tag("table", tag("thead", tag("tr", head)), tag("tbody", rows), class_="sortable")
    note = (
        "Regions are scored one by one, so that a lesion may be listed for several. Lesions are told apart as the "
        "BraTS 2023 glioma challenge does; those of up to 50 mm³ in the reference do not count."
    )
    return tag(
        "div",
        tag("p", told),
        tag("div", table, class_="scroll tall narrow", tabindex=0),
        tag("p", note, class_="quiet"),
    )


def _distributions(cases: Sequence[CaseScores], pages: Mapping[str, CasePage]) -> Markup | None:
    colours = {region: COLOURS[region] for region in SCORED}

    def groups(metric: str, write: Any) -> dict[str, list[Point]]:
        return {
            region: [
                Point(
                    f"{case.name}: {write(case.number(region, metric))}",
                    case.number(region, metric),
                    link_to("report", f"{case.name}.html") if case.name in pages else None,
                )
                for case in cases
            ]
            for region in SCORED
        }

    charts = [
        box_plot("Dice", groups("dice", score), colours, "Dice, 0 to 1", distances=False),
        box_plot("HD95, mm", groups("hd95_mm", distance), colours, "mm, logarithmic", distances=True),
    ]
    drawn = _figures([chart for chart in charts if chart is not None])
    if drawn is None:
        return None
    dots = "Each dot is a case" if len(cases) <= MOST_DOTS else "Each dot is a case beyond the whiskers"
    told = (
        f"{dots} and opens it. Boxes span the quartiles around the median; whiskers reach the furthest case "
        "within 1.5 times the box. An HD95 of 374 mm means that truth or prediction is empty and the other is not."
    )
    return tag("div", drawn, tag("p", told, class_="quiet"))


def _figures(charts: Sequence[Markup]) -> Markup | None:
    return tag("div", charts, class_="charts") if charts else None
