"""RUN/report.html: the run at a glance, its cases, the worst first, its false positives, and how it was made."""

import dataclasses
import datetime
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from jaxbrats.data.labels import REGIONS, SCORED
from jaxbrats.report.boxes import MOST_DOTS, box_plot
from jaxbrats.report.colours import COLOURS
from jaxbrats.report.curves import curve_figures
from jaxbrats.report.figures import Point, to_svg, write_png
from jaxbrats.report.lesions import FALSE_POSITIVE, MISSED
from jaxbrats.report.pages.case_page import CasePage, lesion_id, page_path
from jaxbrats.report.pages.html import link_to, render
from jaxbrats.report.pages.score_table import CaseScores, Head, score_tables
from jaxbrats.report.pages.wording import NOTHING, REGION_TITLES, count, distance, millilitres, score

# Lesions listed on the first page; every case's own page lists its own.
_MOST_LESIONS = 200
_CURVE_TITLES = {
    "loss": ("Loss", "Loss of training steps, its mean in each epoch, and loss of the validation cases, over epochs."),
    "dice": ("Region Dice", "Dice of WT, TC and ET of the validation cases, and their mean, over epochs."),
    "iou": (
        "Intersection over union",
        "Intersection over union of each label in training and validation, over epochs.",
    ),
}
# What lists every case of the run: the sides are told by their number.
_SIDES = ("train", "val")
_LISTS = (*_SIDES, "cases")


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
    metrics: Sequence[Mapping[str, Any]]
    cases: Sequence[CaseScores]
    evaluation: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.workdir.resolve().name


def overview(run: Run, pages: Mapping[str, CasePage], problems: Sequence[str]) -> str:
    """The first page. Its box plots are left in RUN/figures too, as scores_dice.png and scores_hd95.png.

    Args:
        run: The run.
        pages: Case -> its page, for those that have one.
        problems: A line for each case that could not be shown.
    """
    links = {name: link_to("report", page_path(run.workdir, name).name) for name in pages}
    lesions = _lesions(run.cases, pages, links)
    return render(
        "overview",
        ("table.js",),
        name=run.name,
        subtitle=_subtitle(run),
        tiles=[_tile(run, region) for region in REGIONS] if run.cases else [],
        problems=problems,
        cases=run.cases,
        pages=pages,
        links=links,
        tables=score_tables(run.cases) if run.cases else [],
        lesions=lesions[:_MOST_LESIONS],
        lesions_left_out=len(lesions) > _MOST_LESIONS,
        lesion_head=[
            Head("Case", "text"),
            Head("Volume, ml", "high", sorted=True),
            Head("Region", "text"),
            Head("Lesion", "text"),
        ],
        boxes=_boxes(run, links),
        every_case_is_a_dot=len(run.cases) <= MOST_DOTS,
        curves=[Markup(to_svg(figure, *_CURVE_TITLES[name])) for name, figure in curve_figures(run.metrics).items()],
        settings=_settings(run.config, run.evaluation),
    )


def _subtitle(run: Run) -> str:
    parts = []
    if run.cases:
        parts.append(f"{len(run.cases)} cases of {run.evaluation.get('data', 'unknown data')}")
    if "step" in run.evaluation:
        parts.append(f"checkpoint of step {run.evaluation['step']}")
    epochs = [record["epoch"] for record in run.metrics if isinstance(record.get("epoch"), int)]
    if epochs:
        parts.append(f"{max(epochs)} epochs trained")
    parts.append(f"written {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC")
    return " · ".join(parts)


def _tile(run: Run, region: str) -> dict[str, Any]:
    """Dice of a region, and its lesions."""
    numbers = run.evaluation.get("regions", {}).get(region, {})
    dice, hd95 = numbers.get("dice", {}), numbers.get("hd95_mm", {})
    lines = []
    if dice.get("ci_low") is not None:
        lines.append(f"95 % interval {score(dice['ci_low'])} to {score(dice['ci_high'])}")
    if hd95.get("median") is not None:
        lines.append(f"median HD95 {distance(hd95['median'])} mm")
    found, missed, false = (_total(run.cases, region, f"lesions_{one}") for one in ("tp", "fn", "fp"))
    if not math.isnan(false):
        lines.append(f"lesions: {count(found)} found, {count(missed)} missed, {count(false)} false positive")
    mean = NOTHING if dice.get("mean") is None else score(dice["mean"])
    return {"title": REGION_TITLES[region], "number": mean, "lines": lines, "colour": COLOURS[region]}


def _total(cases: Sequence[CaseScores], region: str, metric: str) -> float:
    values = [case.number(region, metric) for case in cases]
    known = [value for value in values if not math.isnan(value)]
    return sum(known) if known else math.nan


def _lesions(
    cases: Sequence[CaseScores], pages: Mapping[str, CasePage], links: Mapping[str, str]
) -> list[dict[str, str]]:
    """Every missed and false positive lesion of WT, TC and ET, the largest first."""
    listed = [
        (case.name, region, number, lesion)
        for case in cases
        if case.name in pages
        for region, lesions in pages[case.name].lesions.items()
        for number, lesion in enumerate(lesions)
        if lesion.kind in (MISSED, FALSE_POSITIVE)
    ]
    return [
        {
            "case": name,
            "link": f"{links[name]}#show={lesion_id(region, number)}",
            "ml": millilitres(lesion.volume_mm3),
            "mm3": f"{lesion.volume_mm3:.6g}",
            "region": region,
            "kind": lesion.kind,
        }
        for name, region, number, lesion in sorted(listed, key=lambda one: -one[3].volume_mm3)
    ]


def _boxes(run: Run, links: Mapping[str, str]) -> list[Markup]:
    """Box plots of Dice and HD95 for the page; each is written as a PNG file too."""

    def groups(metric: str, write: Callable[[float], str]) -> dict[str, list[Point]]:
        values = {region: [(case.name, case.number(region, metric)) for case in run.cases] for region in SCORED}
        return {
            region: [Point(f"{name}: {write(value)}", value, links.get(name)) for name, value in scores]
            for region, scores in values.items()
        }

    charts = {
        "dice": ("Dice", groups("dice", score), "Dice", False),
        "hd95": ("HD95", groups("hd95_mm", distance), "mm, logarithmic", True),
    }
    drawn = []
    for name, (title, points, y_label, distances) in charts.items():
        made = box_plot(title, points, y_label, distances=distances)
        if made is not None:
            figure, dots = made
            write_png(figure, run.workdir / "figures" / f"scores_{name}.png")
            description = f"A box plot of the {title} of all cases, for {', '.join(SCORED)}."
            drawn.append(Markup(to_svg(figure, f"{title} of all cases", description, dots)))
    return drawn


def _settings(config: Mapping[str, Any], evaluation: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What config.json holds, group by group, with what the evaluation was really made with; what is not there is left
    out.
    """
    predicted_with = {name: evaluation[name] for name in ("inference", "postprocessing") if name in evaluation}
    settings = config.get("settings", {}) | predicted_with
    groups = {"Training": {name: value for name, value in settings.items() if not isinstance(value, Mapping)}}
    groups |= {name.capitalize(): value for name, value in settings.items() if isinstance(value, Mapping)}
    data = config.get("data", {})
    arrays = {name: value for name, value in data.items() if name not in _LISTS}
    arrays |= {f"{name} cases": len(data[name]) for name in _SIDES if name in data}
    code = config.get("code", {})
    commit = f"{code.get('commit') or 'unknown'}{', modified' if code.get('modified') else ''}"
    made_with = {"jaxbrats": code.get("version", "unknown"), "commit": commit, **config.get("machine", {})}
    groups |= {"Arrays": arrays, "Made with": made_with | config.get("versions", {})}
    return {title: {name: _text(value) for name, value in group.items()} for title, group in groups.items() if group}


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"
