"""Training curves: loss, IoU and region Dice over epochs, from the records of a run's `metrics.jsonl`."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from jaxbrats.data.labels import LABEL_NAMES, REGIONS
from jaxbrats.report.colours import COLOURS, SPLIT_COLOURS
from jaxbrats.report.figures import INK, QUIET, chart, write_line, write_png

TUMOUR_LABELS = LABEL_NAMES[1:]
# Twice as many as a chart in the page has pixels to draw them in: one for the lowest, one for the highest of each.
_MOST_POINTS = 1000
_LOG_FROM_RATIO = 100.0
_SPLIT_LINES = {"training": "--", "validation": "-"}


def plot_curves(metrics: Sequence[Mapping], folder: str | pathlib.Path, *, run_name: str = "") -> list[pathlib.Path]:
    """Writes the figures of `curve_figures` as `loss.png`, `dice.png` and `iou.png`, and returns their paths.

    Args:
        metrics: As for `curve_figures`.
        folder: Where the figures go; made if missing.
        run_name: Named in the titles.
    """
    figures = curve_figures(metrics, run_name)
    return [write_png(figure, pathlib.Path(folder) / f"{name}.png") for name, figure in figures.items()]


def curve_figures(metrics: Sequence[Mapping], run_name: str = "") -> dict[str, Figure]:
    """Draws "loss", "dice" and "iou"; a figure for which there is no number yet is left out.

    Training records are drawn faintly, as they are, and over them the mean of each epoch; validation records are drawn
    at the end of their epoch.

    Args:
        metrics: Records with `step`, `epoch` (counted from 1) and `split` ("train" or "val"), and, where they were
            measured, `loss`, `iou` by label and, for "val", `region_dice` and `mean_region_dice`. Of two records with
            the same split and step, as a resumed run writes them, the later one counts; what is no record is left out.
        run_name: Named in the titles.
    """
    train, val = records_of(metrics, "train"), records_of(metrics, "val")
    drawn = {
        "loss": _loss_figure(train, val, run_name),
        "dice": _dice_figure(val, run_name),
        "iou": _iou_figure(train, val, run_name),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def records_of(metrics: Sequence[Any], split: str) -> list[Mapping]:
    """The records of one split by increasing step, one for each step: the one written last."""
    of_split = [record for record in metrics if isinstance(record, Mapping) and record.get("split") == split]
    whole = [one for one in of_split if all(math.isfinite(_number(one, key)) for key in ("step", "epoch"))]
    latest = {record["step"]: record for record in whole}
    return [latest[step] for step in sorted(latest)]


def best_record(val: Sequence[Mapping]) -> Mapping | None:
    """The validation record with the highest mean region Dice, of equals the last, which is the one that Orbax takes.

    None where no record has that score.
    """
    scores = _series(val, "mean_region_dice")
    if not np.isfinite(scores).any():
        return None
    return val[int(np.flatnonzero(scores == np.nanmax(scores))[-1])]


def epoch_positions(records: Sequence[Mapping]) -> np.ndarray:
    """Where each training record (N of them, by increasing step) lies in epochs: `(N,)`, epoch 1 spans 0 to 1.

    Steps run evenly from the end of one epoch to the end of the next. The last epoch, which may be under way, is taken
    to be at least as long as the one before.
    """
    steps = np.array([record["step"] for record in records], float)
    ends = {record["epoch"]: record["step"] for record in records}
    first_epoch = records[0]["epoch"]
    interval = np.diff(steps).min() if len(steps) > 1 else 1.0
    start = 0.0 if first_epoch == 1 else steps[0] - interval
    at_epoch = np.array([first_epoch - 1, *ends], float)
    at_step = np.array([start, *ends.values()], float)
    if len(at_step) > 2:
        epoch_length = (at_step[-2] - at_step[-3]) / (at_epoch[-2] - at_epoch[-3])
        at_step[-1] = max(at_step[-1], at_step[-2] + epoch_length * (at_epoch[-1] - at_epoch[-2]))
    return np.interp(steps, at_step, at_epoch)


def epoch_means(records: Sequence[Mapping], values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The epochs that occur, and over each one's records the mean of those of `values` `(N,)` that are finite."""
    epochs, group = np.unique([record["epoch"] for record in records], return_inverse=True)
    finite = np.isfinite(values)
    totals = np.bincount(group[finite], values[finite], minlength=len(epochs))
    return epochs, _ratio(totals, np.bincount(group[finite], minlength=len(epochs)))


def thin(x: np.ndarray, y: np.ndarray, most: int = _MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` points of a long curve, keeping the lowest and the highest of every stretch.

    So no spike is lost and none is made smaller, which taking every n-th point or averaging would do.
    """
    if len(x) <= most:
        return x, y
    kept = set()
    for stretch in np.array_split(np.arange(len(x)), most // 2):
        finite = stretch[np.isfinite(y[stretch])]
        if len(finite):
            kept |= {int(finite[np.argmin(y[finite])]), int(finite[np.argmax(y[finite])])}
    chosen = sorted(kept)
    return x[chosen], y[chosen]


def _ratio(totals: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Means, not a number where nothing was counted."""
    return np.divide(totals, counts, out=np.full(len(totals), np.nan), where=counts > 0)


def _number(record: Mapping, *keys: str) -> float:
    value: Any = record
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) else math.nan


def _series(records: Sequence[Mapping], *keys: str) -> np.ndarray:
    return np.array([_number(record, *keys) for record in records], float)


def _mean_iou(records: Sequence[Mapping]) -> np.ndarray:
    values = np.stack([_series(records, "iou", label) for label in TUMOUR_LABELS])
    finite = np.isfinite(values)
    return _ratio(np.where(finite, values, 0).sum(axis=0), finite.sum(axis=0))


def _loss_figure(train: Sequence[Mapping], val: Sequence[Mapping], run_name: str) -> Figure | None:
    train_losses, val_losses = _series(train, "loss"), _series(val, "loss")
    losses = np.concatenate([train_losses, val_losses])
    finite = losses[np.isfinite(losses)]
    if not len(finite):
        return None
    axes = _epoch_axes("Loss", run_name, "loss")
    if train:
        colour = SPLIT_COLOURS["train"]
        epochs, means = epoch_means(train, train_losses)
        if len(train) > len(epochs):
            x, y = thin(epoch_positions(train), train_losses)
            axes.plot(x, y, color=colour, alpha=0.5, linewidth=0.7, label="training, steps")
        _draw(axes, epochs, means, color=colour, linewidth=2.0, label="training, epoch mean")
    _draw(axes, _epochs(val), val_losses, color=SPLIT_COLOURS["val"], linewidth=2.0, label="validation")
    if finite.min() > 0 and finite.max() > _LOG_FROM_RATIO * finite.min():
        axes.set_yscale("log")
    _legend(axes, axes.get_lines())
    if missing := len(losses) - len(finite):
        note = f"Not drawn: {missing} of {len(losses)} records, whose loss is not a finite number."
        write_line(axes.figure, 0.1, 0.06, note, 3.0, fontsize=7, color=QUIET)
    return axes.figure


def _dice_figure(val: Sequence[Mapping], run_name: str) -> Figure | None:
    best = best_record(val)
    if best is None:
        return None
    axes = _epoch_axes("Region Dice, validation", run_name, "Dice")
    axes.set_ylim(0, 1)
    for region in REGIONS:
        _draw(axes, _epochs(val), _series(val, "region_dice", region), color=COLOURS[region], label=region)
    _draw(axes, _epochs(val), _series(val, "mean_region_dice"), color=INK, linewidth=2.2, label="mean")
    epoch, score = best["epoch"], _number(best, "mean_region_dice")
    star = {"linestyle": "", "marker": "*", "markersize": 12, "color": INK, "markeredgecolor": "white", "zorder": 5}
    axes.plot([epoch], [score], label=f"best: epoch {epoch}, mean {score:.3f}", **star)
    _legend(axes, axes.get_lines())
    axes.axvline(epoch, color=QUIET, linewidth=1, linestyle=":")
    return axes.figure


def _iou_figure(train: Sequence[Mapping], val: Sequence[Mapping], run_name: str) -> Figure | None:
    mean_train, mean_val = _mean_iou(train), _mean_iou(val)
    if not np.isfinite(np.concatenate([mean_train, mean_val])).any():
        return None
    axes = _epoch_axes("Intersection over union (IoU)", run_name, "IoU")
    axes.set_ylim(0, 1)
    lines = {label: (_series(train, "iou", label), _series(val, "iou", label)) for label in TUMOUR_LABELS}
    for name, (of_train, of_val) in (lines | {"mean": (mean_train, mean_val)}).items():
        style = {"color": COLOURS.get(name, INK), "linewidth": 2.2 if name == "mean" else 1.5}
        if train:
            _draw(axes, *epoch_means(train, of_train), linestyle="--", marker="", label=f"{name}, training", **style)
        _draw(axes, _epochs(val), of_val, label=f"{name}, validation", **style)
    # One entry for each colour and one for each kind of line say as much as one for each line.
    keys = [Line2D([], [], color=COLOURS.get(name, INK), linewidth=2.2, label=name) for name in (*lines, "mean")]
    keys += [Line2D([], [], color=QUIET, linestyle=line, label=name) for name, line in _SPLIT_LINES.items()]
    _legend(axes, keys)
    return axes.figure


def _draw(axes: Axes, x: np.ndarray, y: np.ndarray, **style: object) -> None:
    """One line over epochs, joined over epochs without a number; nothing where no epoch has one."""
    finite = np.isfinite(y)
    if not finite.any():
        return
    # A single epoch is a dot; over hundreds of epochs dots would hide the line.
    marker = "o" if finite.sum() <= 40 else ""
    style = {"marker": marker, "markersize": 3.0, "linewidth": 1.5} | style
    axes.plot(x[finite], y[finite], **(style | {"marker": "o"} if finite.sum() == 1 else style))


def _epochs(records: Sequence[Mapping]) -> np.ndarray:
    return np.array([record["epoch"] for record in records], float)


def _epoch_axes(title: str, run_name: str, y_label: str) -> Axes:
    axes = chart(title, run_name)
    axes.set_xlabel("epoch")
    axes.set_ylabel(y_label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    return axes


def _legend(axes: Axes, keys: Sequence[Line2D]) -> None:
    """Above the axes, where it covers no curve however the run went."""
    where = {"loc": "lower left", "bbox_to_anchor": (-0.01, 1.0), "borderaxespad": 0.4, "borderpad": 0.0}
    style = {"fontsize": 8.5, "labelcolor": QUIET, "columnspacing": 1.2, "handlelength": 1.8, "handletextpad": 0.5}
    axes.legend(handles=list(keys), ncols=len(keys), frameon=False, **where, **style)
