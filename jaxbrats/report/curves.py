"""Training curves: loss, IoU and region Dice over epochs, from the records of a run's `metrics.jsonl`."""

import pathlib
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxbrats.data.labels import LABEL_NAMES, REGIONS
from jaxbrats.report.colours import COLOURS, SPLIT_COLOURS
from jaxbrats.report.figures import INK, QUIET, page, write_line, write_png

TUMOUR_LABELS = LABEL_NAMES[1:]
_MOST_POINTS = 2000
_LOG_FROM_RATIO = 100.0
# Inches.
_HEIGHT, _LEFT = 4.4, 0.75


def plot_curves(metrics: Sequence[dict], folder: str | pathlib.Path, *, run_name: str = "") -> list[pathlib.Path]:
    """Draws `loss.png`, `iou.png` and `dice.png`; a figure for which there is no number yet is left out.

    Training records are drawn faintly, as they are, and over them the mean of each epoch; validation records are drawn
    at the end of their epoch.

    Args:
        metrics: Records with `step`, `epoch` (counted from 1) and `split` ("train" or "val"), and, where they were
            measured, `loss`, `iou` by label and, for "val", `region_dice` and `mean_region_dice`. Of two records with
            the same split and step, as a resumed run writes them, the later one counts.
        folder: Where the figures go; made if missing.
        run_name: Named in the titles.

    Returns:
        The files written, in the order above.
    """
    train, val = records_of(metrics, "train"), records_of(metrics, "val")
    draw = {"loss": _loss_figure, "iou": _iou_figure, "dice": _dice_figure}
    drawn = {name: make(train, val, run_name) for name, make in draw.items()}
    folder = pathlib.Path(folder)
    return [write_png(figure, folder / f"{name}.png") for name, figure in drawn.items() if figure is not None]


def records_of(metrics: Sequence[dict], split: str) -> list[dict]:
    """The records of one split by increasing step, one for each step: the one written last."""
    latest = {record["step"]: record for record in metrics if record.get("split") == split}
    return [latest[step] for step in sorted(latest)]


def best_record(val: Sequence[dict]) -> dict | None:
    """The validation record with the highest mean region Dice, of equals the last, which is the one that Orbax takes.

    None where no record has that score.
    """
    scores = _series(val, "mean_region_dice")
    if not np.isfinite(scores).any():
        return None
    return val[int(np.flatnonzero(scores == np.nanmax(scores))[-1])]


def epoch_positions(records: Sequence[dict]) -> np.ndarray:
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


def epoch_means(records: Sequence[dict], values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def _number(record: dict, *keys: str) -> float:
    value = record
    for key in keys:
        value = (value or {}).get(key)
    return float("nan") if value is None else float(value)


def _series(records: Sequence[dict], *keys: str) -> np.ndarray:
    return np.array([_number(record, *keys) for record in records], float)


def _mean_iou(records: Sequence[dict]) -> np.ndarray:
    values = np.stack([_series(records, "iou", label) for label in TUMOUR_LABELS])
    finite = np.isfinite(values)
    return _ratio(np.where(finite, values, 0).sum(axis=0), finite.sum(axis=0))


def _loss_figure(train: list[dict], val: list[dict], run_name: str) -> Figure | None:
    losses = np.concatenate([_series(train, "loss"), _series(val, "loss")])
    finite = losses[np.isfinite(losses)]
    if not len(finite):
        return None
    figure = page(6.4, _HEIGHT)
    _title(figure, "Loss", run_name)
    axes = _axes(figure, left=_LEFT, width=5.4)
    _draw_splits(axes, train, _series(train, "loss"), val, _series(val, "loss"))
    if finite.min() > 0 and finite.max() > _LOG_FROM_RATIO * finite.min():
        axes.set_yscale("log")
    axes.set_ylabel("loss")
    _legend(axes, columns=3)
    missing = len(losses) - len(finite)
    if missing:
        note = f"Not drawn: {missing} of {len(losses)} records, whose loss is not a finite number."
        write_line(figure, _LEFT, 0.08, note, 5.4, fontsize=8, color=QUIET)
    return figure


def _iou_figure(train: list[dict], val: list[dict], run_name: str) -> Figure | None:
    mean_train, mean_val = _mean_iou(train), _mean_iou(val)
    if not np.isfinite(np.concatenate([mean_train, mean_val])).any():
        return None
    figure = page(10.4, _HEIGHT)
    _title(figure, "Intersection over union (IoU)", run_name)
    axes = _axes(figure, left=_LEFT, width=4.4)
    _draw_splits(axes, train, mean_train, val, mean_val)
    axes.set_ylabel(f"mean IoU of {', '.join(TUMOUR_LABELS)} (0 to 1)")
    axes.set_ylim(0, 1)
    _legend(axes, columns=3)

    axes = _axes(figure, left=5.8, width=4.4)
    for label in TUMOUR_LABELS:
        epochs, means = epoch_means(train, _series(train, "iou", label))
        _draw(axes, epochs, means, color=COLOURS[label], linestyle="--", label=f"{label}, training")
        _draw(axes, _epochs(val), _series(val, "iou", label), color=COLOURS[label], label=f"{label}, validation")
    axes.set_ylabel("IoU of each label (0 to 1)")
    axes.set_ylim(0, 1)
    _legend(axes, columns=3)
    return figure


def _dice_figure(train: list[dict], val: list[dict], run_name: str) -> Figure | None:
    del train  # region Dice is measured on whole validation cases only
    best = best_record(val)
    if best is None:
        return None
    figure = page(6.4, _HEIGHT)
    _title(figure, "Region Dice, validation", run_name)
    axes = _axes(figure, left=_LEFT, width=5.4)
    for region in REGIONS:
        _draw(axes, _epochs(val), _series(val, "region_dice", region), color=COLOURS[region], label=region)
    _draw(axes, _epochs(val), _series(val, "mean_region_dice"), color=INK, linewidth=2.2, label="mean")
    epoch, score = best["epoch"], _number(best, "mean_region_dice")
    axes.axvline(epoch, color=QUIET, linewidth=1, linestyle=":")
    star = {"linestyle": "", "marker": "*", "markersize": 13, "color": INK, "markeredgecolor": "white", "zorder": 5}
    axes.plot([epoch], [score], label=f"best: epoch {epoch}, mean {score:.3f}", **star)
    axes.set_ylabel("Dice (0 to 1)")
    axes.set_ylim(0, 1)
    _legend(axes, columns=5)
    return figure


def _draw_splits(
    axes: Axes, train: list[dict], train_values: np.ndarray, val: list[dict], val_values: np.ndarray
) -> None:
    if train:
        colour = SPLIT_COLOURS["train"]
        epochs, means = epoch_means(train, train_values)
        if len(train) > len(epochs):
            x, y = thin(epoch_positions(train), train_values)
            axes.plot(x, y, color=colour, alpha=0.5, linewidth=0.7, label="training, steps")
        _draw(axes, epochs, means, color=colour, linewidth=2.0, label="training, epoch mean")
    _draw(axes, _epochs(val), val_values, color=SPLIT_COLOURS["val"], linewidth=2.0, label="validation")


def _draw(axes: Axes, x: np.ndarray, y: np.ndarray, **style: object) -> None:
    """One line over epochs, joined over epochs without a number; nothing where no epoch has one."""
    finite = np.isfinite(y)
    if not finite.any():
        return
    # A single epoch is a dot; over hundreds of epochs dots would hide the line.
    marker = "o" if finite.sum() <= 60 else ""
    axes.plot(x[finite], y[finite], **{"marker": marker, "markersize": 3.5, "linewidth": 1.5, **style})


def _epochs(records: Sequence[dict]) -> np.ndarray:
    return np.array([record["epoch"] for record in records], float)


def _title(figure: Figure, title: str, run_name: str) -> None:
    line = write_line(figure, _LEFT, _HEIGHT - 0.34, title, 4.0, fontsize=12, fontweight="bold")
    if run_name:
        start = line.get_window_extent(figure.canvas.get_renderer()).x1 / figure.dpi + 0.15
        room = figure.get_figwidth() - start - 0.2
        write_line(figure, start, _HEIGHT - 0.34, run_name, room, fontsize=10, color=QUIET)


def _axes(figure: Figure, left: float, width: float) -> Axes:
    page_width, page_height = figure.get_size_inches()
    axes = figure.add_axes((left / page_width, 0.72 / page_height, width / page_width, 2.8 / page_height))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E3E6E9", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    return axes


def _legend(axes: Axes, columns: int) -> None:
    """Above the axes, where it covers no curve however the run went."""
    where = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.3, "borderpad": 0.0}
    axes.legend(**where, ncols=columns, frameon=False, fontsize=8.5, columnspacing=1.2, handlelength=2.6)
