"""Charts: curves and boxes drawn where their numbers are."""

import math
import re

import numpy as np
import pytest

from jaxbrats.report.pages import charts
from jaxbrats.report.pages.charts import Line, Point, box_plot, line_chart
from jaxbrats.report.pages.training_curves import curve_charts

TOP, BOTTOM = 12, charts.HEIGHT - 40


def attributes(markup, element, class_):
    """The attributes of the elements with a class, in order."""
    found = [dict(re.findall(r'([\w-]+)="([^"]*)"', one)) for one in re.findall(f"<{element} ([^>]*)>", markup)]
    return [one for one in found if one.get("class", "").split() == class_.split()]


def value_at(y):
    """The score that a height stands for, on an axis from 0 to 1."""
    return (BOTTOM - float(y)) / (BOTTOM - TOP)


def points(values):
    return [Point(f"case {number}: {value}", value, f"report/{number}.html") for number, value in enumerate(values)]


def test_a_box_is_drawn_at_the_quartiles():
    values = [0.5, 0.6, 0.7, 0.8, 0.9, 0.05]  # quartiles 0.525, 0.65, 0.775; 0.05 is further than 1.5 boxes away
    drawn = box_plot("Dice", {"WT": points(values)}, {"WT": "#123456"}, "Dice", distances=False)
    (box,) = attributes(drawn, "rect", "box")
    assert value_at(box["y"]) == pytest.approx(0.775, abs=1e-3)
    assert value_at(float(box["y"]) + float(box["height"])) == pytest.approx(0.525, abs=1e-3)
    (median,) = attributes(drawn, "line", "median")
    assert value_at(median["y1"]) == value_at(median["y2"]) == pytest.approx(0.65, abs=1e-3)
    low, high = attributes(drawn, "line", "whisker")
    assert value_at(low["y1"]) == pytest.approx(0.5, abs=1e-3)
    assert value_at(high["y2"]) == pytest.approx(0.9, abs=1e-3)
    dots = attributes(drawn, "circle", "dot")
    assert [value_at(dot["cy"]) for dot in dots] == pytest.approx(values, abs=1e-3)
    assert re.findall('href="([^"]*)"', drawn) == [f"report/{number}.html" for number in range(6)]


def test_of_many_cases_those_beyond_the_whiskers_are_dots():
    drawn = box_plot("Dice", {"WT": points([0.8, 0.9] * 40 + [0.1])}, {"WT": "#123456"}, "Dice", distances=False)
    (dot,) = attributes(drawn, "circle", "dot")
    assert value_at(dot["cy"]) == pytest.approx(0.1, abs=1e-3)


def test_distances_are_logarithmic_and_hold_a_complete_miss():
    drawn = box_plot("HD95", {"WT": points([0.0, 374.0])}, {"WT": "#123456"}, "mm", distances=True)
    heights = [float(dot["cy"]) for dot in attributes(drawn, "circle", "dot")]
    assert heights == pytest.approx([BOTTOM, TOP])
    assert re.findall(r">(\d+)</text>", drawn) == ["0", "1", "2", "5", "10", "20", "50", "100", "200", "374"]
    near = box_plot("HD95", {"WT": points([4.0, math.nan])}, {"WT": "#123456"}, "mm", distances=True)
    (dot,) = attributes(near, "circle", "dot")
    assert float(dot["cy"]) == pytest.approx(BOTTOM - (BOTTOM - TOP) * math.log(5) / math.log(6), abs=0.06)


def test_nothing_is_drawn_of_nothing():
    assert box_plot("Dice", {"WT": points([math.nan])}, {"WT": "#123456"}, "Dice", distances=False) is None
    assert line_chart("Loss", [Line("a", np.array([1.0]), np.array([math.nan]), "red")], "loss") is None


def test_a_curve_skips_what_is_not_finite():
    line = Line("a <b>", np.arange(1, 5.0), np.array([0.0, math.inf, 0.5, 1.0]), "#abcdef")
    drawn = line_chart("Dice", [line], "Dice", (0, 1))
    (curve,) = attributes(drawn, "polyline", "line solid")
    places = [tuple(map(float, place.split(","))) for place in curve["points"].split()]
    assert [value_at(y) for _, y in places] == pytest.approx([0, 0.5, 1], abs=1e-3)
    across = charts.WIDTH - 46 - 10
    assert [(x - 46) / across for x, _ in places] == pytest.approx([0.25, 0.75, 1], abs=1e-3)
    assert "a &lt;b&gt;" in drawn and "<b>" not in drawn


def test_a_wide_span_of_losses_is_drawn_in_logarithms():
    line = Line("a", np.arange(3.0), np.array([100.0, 1.0, 0.01]), "red")
    (curve,) = attributes(line_chart("Loss", [line], "loss"), "polyline", "line solid")
    heights = [float(place.split(",")[1]) for place in curve["points"].split()]
    assert heights[1] == pytest.approx((heights[0] + heights[2]) / 2, abs=0.1)


def test_charts_of_a_run():
    metrics = [
        {"step": 1, "epoch": 1, "split": "train", "loss": 2.0, "iou": {"NCR": 0.1, "ED": None, "ET": 0.3}},
        {"step": 2, "epoch": 1, "split": "train", "loss": 1.0, "iou": {"NCR": 0.1, "ED": 0.2, "ET": 0.3}},
        {"step": 2, "epoch": 1, "split": "val", "loss": 1.5, "region_dice": {"WT": 0.5, "TC": 0.4, "ET": 0.3},
         "mean_region_dice": 0.4},
    ]  # fmt: skip
    loss, dice, iou = curve_charts(metrics)
    assert "training, steps" in loss and "validation" in loss
    assert "best: epoch 1, mean 0.400" in dice and "★" in dice
    assert "ET, training" in iou and "ET, validation" not in iou
    assert curve_charts([]) == []
