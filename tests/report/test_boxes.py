"""Box plots and SVG: boxes at the quartiles, cases behind the dots, and nothing of a name becomes markup."""

import math
from xml.etree import ElementTree

import numpy as np
import pytest

from jaxbrats.report.boxes import box_plot
from jaxbrats.report.curves import curve_figures
from jaxbrats.report.figures import Point, file_stem, to_svg


def points(values, link="report/{}.html"):
    return [Point(f"case {number}", value, link.format(number)) for number, value in enumerate(values)]


def drawn_box(figure):
    """Quartiles, median and whiskers' ends of the only box."""
    (axes,) = figure.axes
    (box,) = [patch for patch in axes.patches if len(patch.get_path().vertices) > 4]
    heights = box.get_path().vertices[:, 1]
    low, high, median = (line.get_ydata() for line in axes.get_lines())
    return heights.min(), heights.max(), median[0], low[1], high[1]


def test_a_box_is_drawn_at_the_quartiles():
    values = [0.5, 0.6, 0.7, 0.8, 0.9, 0.05]  # 0.05 is further than 1.5 boxes away
    figure, dots = box_plot("Dice", {"WT": points(values)}, "Dice")
    assert drawn_box(figure) == pytest.approx((0.525, 0.775, 0.65, 0.5, 0.9))
    (scatter,) = figure.axes[0].collections
    np.testing.assert_allclose(scatter.get_offsets()[:, 1], values)
    assert [dot.value for dot in dots] == values


def test_of_many_cases_those_beyond_the_whiskers_are_dots():
    _, dots = box_plot("Dice", {"WT": points([0.8, 0.9] * 40 + [0.1])}, "Dice")
    assert [dot.value for dot in dots] == [0.1]


def test_distances_are_logarithmic_and_hold_a_complete_miss():
    figure, _ = box_plot("HD95", {"WT": points([0.0, 374.0, math.nan])}, "mm", distances=True)
    (axes,) = figure.axes
    ticks = [int(label.get_text()) for label in axes.get_yticklabels()]
    assert ticks == [0, 1, 2, 5, 10, 20, 50, 100, 200, 374]
    bottom, one, top = (axes.transData.transform((0, value))[1] for value in (0, 1, 374))
    assert (one - bottom) / (top - bottom) == pytest.approx(math.log(2) / math.log(375))
    near, _ = box_plot("HD95", {"WT": points([0.4])}, "mm", distances=True)
    assert [label.get_text() for label in near.axes[0].get_yticklabels()] == ["0", "1"]


def test_nothing_is_drawn_of_nothing():
    assert box_plot("Dice", {"WT": points([math.nan]), "TC": []}, "Dice") is None


def test_every_dot_opens_its_case_and_no_name_becomes_markup():
    hostile = '<script>alert(1)</script>" onload="x\x1b[31m'
    cases = [Point(hostile, 0.5, "report/%3Cb%3E.html"), Point("b", 0.7, None), Point("c", 0.9, "report/c.html")]
    figure, dots = box_plot("Dice", {"WT": cases, "TC": [], "ET": cases[2:]}, "Dice")
    text = to_svg(figure, "Dice <b>", "Boxes of & all", dots)
    root = ElementTree.fromstring(text)
    assert [(link.get("href"), link.find("title").text) for link in root.iter("a")] == [
        ("report/%3Cb%3E.html", hostile.replace("\x1b", "\\x1b")),
        ("report/c.html", "c"),
        ("report/c.html", "c"),
    ]
    assert "b" in [title.text for title in root.iter("title")]
    assert root.get("aria-label") == "Dice <b>" and root.find("desc").text == "Boxes of & all"
    assert not list(root.iter("script")) and not list(root.iter("style"))


def test_charts_are_the_same_each_time_and_small_and_their_text_is_text():
    metrics = [
        {"step": step, "epoch": 1 + step // 1000, "split": "train", "loss": 2 + math.sin(step)}
        for step in range(20_000)
    ]
    one, other = (to_svg(curve_figures(metrics)["loss"], "Loss", "Over epochs") for _ in range(2))
    assert one == other and len(one) < 60_000
    texts = {"".join(text.itertext()) for text in ElementTree.fromstring(one).iter("text")}
    assert {"Loss", "loss", "epoch", "training, steps"} <= texts


def test_charts_of_one_page_share_no_identifier():
    metrics = [
        {"step": 1, "epoch": 1, "split": "val", "loss": 1.0, "region_dice": {"WT": 0.5}, "mean_region_dice": 0.5}
    ]
    figures = curve_figures(metrics)
    assert list(figures) == ["loss", "dice"]
    roots = [ElementTree.fromstring(to_svg(figure, name, "")) for name, figure in figures.items()]
    one, other = ({element.get("id") for element in root.iter() if element.get("id")} for root in roots)
    assert one and other and not one & other
    for root in roots:
        ids = [element.get("id") for element in root.iter() if element.get("id")]
        assert len(ids) == len(set(ids))
        assert {use.get("href")[1:] for use in root.iter("use")} <= set(ids)


def test_a_file_is_named_as_its_case_where_it_can_be():
    assert file_stem("BraTS-GLI-00001-000") == "BraTS-GLI-00001-000"
    assert file_stem("ü" * 100) == "ü" * 100
    for name in ("ü" * 101, "n" * 240, "a/b", "../x", "nul\0"):
        stem = file_stem(name)
        assert "/" not in stem and "\0" not in stem and len(stem.encode()) <= 200 and stem != file_stem(name + "2")
