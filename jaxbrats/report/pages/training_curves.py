"""The curves of a report: loss, Dice of the regions, IoU of the labels, over epochs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxbrats.data.labels import LABEL_NAMES, REGIONS
from jaxbrats.report import curves
from jaxbrats.report.colours import COLOURS, SPLIT_COLOURS
from jaxbrats.report.figures import INK
from jaxbrats.report.pages.charts import Line, line_chart
from jaxbrats.report.pages.markup import Markup

# As many as there are units across the drawing, twice: for the lowest and the highest.
_MOST_POINTS = 800


def curve_charts(metrics: Sequence[dict[str, Any]]) -> list[Markup]:
    """Charts of the records of `metrics.jsonl` for which there are numbers; see `curves.plot_curves`."""
    train, val = curves.records_of(metrics, "train"), curves.records_of(metrics, "val")
    charts = [_loss(train, val), _dice(val), _iou(train, val)]
    return [chart for chart in charts if chart is not None]


def _loss(train: list[dict], val: list[dict]) -> Markup | None:
    lines = []
    if train:
        values = _series(train, "loss")
        epochs, means = curves.epoch_means(train, values)
        if len(train) > len(epochs):
            x, y = curves.thin(curves.epoch_positions(train), values, _MOST_POINTS)
            lines.append(Line("training, steps", x, y, SPLIT_COLOURS["train"], "faint"))
        lines.append(Line("training, epoch mean", epochs, means, SPLIT_COLOURS["train"]))
    lines.append(Line("validation", _epochs(val), _series(val, "loss"), SPLIT_COLOURS["val"]))
    return line_chart("Loss", lines, "loss")


def _dice(val: list[dict]) -> Markup | None:
    lines = [Line(name, _epochs(val), _series(val, "region_dice", name), COLOURS[name]) for name in REGIONS]
    lines.append(Line("mean", _epochs(val), _series(val, "mean_region_dice"), INK))
    best = curves.best_record(val)
    if best:
        epoch, score = best["epoch"], best["mean_region_dice"]
        lines.append(Line(f"best: epoch {epoch}, mean {score:.3f}", np.array([epoch]), np.array([score]), INK, "star"))
    return line_chart("Dice of the validation cases", lines, "Dice, 0 to 1", (0, 1))


def _iou(train: list[dict], val: list[dict]) -> Markup | None:
    lines = []
    for name in LABEL_NAMES[1:]:
        if train:
            epochs, means = curves.epoch_means(train, _series(train, "iou", name))
            lines.append(Line(f"{name}, training", epochs, means, COLOURS[name], "dashed"))
        lines.append(Line(f"{name}, validation", _epochs(val), _series(val, "iou", name), COLOURS[name]))
    return line_chart("Intersection over union of the labels", lines, "IoU, 0 to 1", (0, 1))


def _series(records: Sequence[dict], *keys: str) -> np.ndarray:
    """A number of each record, not a number where it has none."""
    values = []
    for value in records:
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        values.append(float("nan") if value is None else float(value))
    return np.array(values, float)


def _epochs(records: Sequence[dict]) -> np.ndarray:
    return np.array([record["epoch"] for record in records], float)
