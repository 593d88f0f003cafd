"""Curves: what they show of the records, and that they cope with whatever records there are."""

import json

import numpy as np
import pytest
from matplotlib.image import imread

from jaxbrats.report import curves
from jaxbrats.report.colours import COLOURS

pytestmark = pytest.mark.usefixtures("full_size")

# Not a formula, and not one that Matplotlib could set.
NAME = r"run_1 $\frac{$"


def record(step, epoch, split="train", loss=1.0, dice=None, **more):
    iou = {"background": 0.99, "NCR": 0.2, "ED": 0.4, "ET": 0.6}
    made = {"step": step, "epoch": epoch, "split": split, "loss": loss, "iou": iou, **more}
    if dice is not None:
        made |= {"region_dice": {"WT": dice + 0.1, "TC": dice, "ET": dice - 0.1}, "mean_region_dice": dice}
    return made


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are written, by file name."""
    figures = {}
    write = curves.write_png

    def keep(figure, path):
        figures[path.name] = figure
        return write(figure, path)

    monkeypatch.setattr(curves, "write_png", keep)
    return figures


def lines(figure, axes=0):
    return {line.get_label(): line for line in figure.axes[axes].get_lines()}


def test_of_records_with_one_step_the_last_counts():
    metrics = [record(10, 1, loss=9.0), record(20, 1), record(10, 1, loss=3.0), record(20, 1, "val", loss=5.0)]
    assert [(kept["step"], kept["loss"]) for kept in curves.records_of(metrics, "train")] == [(10, 3.0), (20, 1.0)]
    assert [kept["loss"] for kept in curves.records_of(metrics, "val")] == [5.0]


def test_the_best_epoch_has_the_highest_mean_and_of_equals_is_the_last():
    val = [record(epoch, epoch, "val", dice=dice) for epoch, dice in enumerate([0.3, 0.7, float("nan"), 0.7, 0.6], 1)]
    assert curves.best_record(val)["epoch"] == 4
    assert curves.best_record([record(1, 1, "val"), record(2, 2, "val", dice=float("nan"))]) is None
    assert curves.best_record([]) is None


def test_steps_lie_evenly_within_their_epochs():
    records = [record(step, (step - 1) // 40 + 1) for step in range(10, 121, 10)]
    np.testing.assert_allclose(curves.epoch_positions(records), np.arange(1, 13) / 4)
    # Epoch 3 has only begun: its one record is a quarter through.
    np.testing.assert_allclose(curves.epoch_positions(records[:9]), np.arange(1, 10) / 4)
    # The log begins later, and epochs 6 and 7 have no record.
    late = [record(410, 5), record(420, 5), record(600, 8)]
    positions = curves.epoch_positions(late)
    assert np.all(np.diff(positions) > 0)
    assert positions[1] == 5
    assert positions[2] == 8


def test_epoch_means_leave_out_what_is_not_a_number():
    records = [record(1, 1), record(2, 1), record(3, 2), record(4, 2), record(5, 4)]
    epochs, means = curves.epoch_means(records, np.array([1.0, 4.0, np.nan, 7.0, np.inf]))
    np.testing.assert_array_equal(epochs, [1, 2, 4])
    np.testing.assert_array_equal(means, [2.5, 7.0, np.nan])


def test_thinning_keeps_every_spike():
    rng = np.random.default_rng(0)
    x, y = np.arange(50_000.0), rng.normal(size=50_000)
    y[[777, 31_313]] = 50.0, -50.0
    y[1234] = np.nan
    thin_x, thin_y = curves.thin(x, y, most=200)
    assert len(thin_x) <= 200
    assert np.all(np.diff(thin_x) > 0)
    np.testing.assert_array_equal(thin_y, y[thin_x.astype(int)])
    assert {777.0, 31_313.0} <= set(thin_x)
    # Nothing is moved or averaged: each stretch has its own lowest and highest value.
    for stretch in np.array_split(np.arange(50_000), 100):
        assert {np.nanmin(y[stretch]), np.nanmax(y[stretch])} <= set(thin_y)
    assert curves.thin(x[:200], y[:200], most=200)[0] is not None
    np.testing.assert_array_equal(curves.thin(x[:200], y[:200], most=200)[1], y[:200])


def test_the_curves_show_the_records(tmp_path, drawn):
    metrics = [record(step, (step + 1) // 2, loss=10.0 - step) for step in range(1, 7)]
    metrics += [
        record(2 * epoch, epoch, "val", loss=float(epoch), dice=[0.5, 0.8, 0.7][epoch - 1]) for epoch in (1, 2, 3)
    ]
    metrics = json.loads(json.dumps(metrics))
    written = curves.plot_curves(metrics, tmp_path / "figures", run_name=NAME)
    assert written == [tmp_path / "figures" / name for name in ("loss.png", "dice.png", "iou.png")]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["dice.png", "iou.png", "loss.png"]
    for path in written:
        height, width, _ = imread(path).shape
        assert (width, height) == tuple(np.round(drawn[path.name].get_size_inches() * 160))
        assert path.stat().st_size < 300_000
        assert NAME in [text.get_text() for text in drawn[path.name].texts]

    loss = lines(drawn["loss.png"])
    np.testing.assert_array_equal(loss["training, steps"].get_xydata(), [(s / 2, 10 - s) for s in range(1, 7)])
    np.testing.assert_array_equal(loss["training, epoch mean"].get_xydata(), [(1, 8.5), (2, 6.5), (3, 4.5)])
    np.testing.assert_array_equal(loss["validation"].get_xydata(), [(1, 1), (2, 2), (3, 3)])
    # The background is no part of the mean: (0.2 + 0.4 + 0.6) / 3.
    iou = lines(drawn["iou.png"])
    np.testing.assert_allclose(iou["mean, validation"].get_ydata(), 0.4)
    assert set(iou) == {
        f"{label}, {split}" for label in ("NCR", "ED", "ET", "mean") for split in ("training", "validation")
    }
    np.testing.assert_allclose(iou["ET, training"].get_ydata(), 0.6)
    assert iou["ET, training"].get_linestyle() == "--" and iou["ET, training"].get_color() == COLOURS["ET"]
    dice = lines(drawn["dice.png"])
    np.testing.assert_allclose(dice["WT"].get_ydata(), [0.6, 0.9, 0.8])
    assert dice["ET"].get_color() == COLOURS["ET"]
    np.testing.assert_array_equal(dice["best: epoch 2, mean 0.800"].get_xydata(), [(2, 0.8)])
    for figure in drawn.values():
        for axes in figure.axes:
            assert axes.get_xlabel() == "epoch"
            assert axes.get_ylabel()


def test_curves_of_what_there_is(tmp_path, drawn):
    def names(metrics):
        return [path.name for path in curves.plot_curves(metrics, tmp_path)]

    assert names([]) == []
    assert names([{"step": 1, "epoch": 1, "split": "test", "loss": 1.0}]) == []
    assert names([{"step": 1, "epoch": 1, "split": "train", "loss": 1.0}]) == ["loss.png"]
    assert names([record(1, 1)]) == ["loss.png", "iou.png"]
    assert set(lines(drawn["loss.png"])) == {"training, epoch mean"}
    # One epoch is one dot, which a line without markers would not show.
    assert lines(drawn["loss.png"])["training, epoch mean"].get_marker() == "o"
    assert names([record(1, 1, "val", dice=0.5)]) == ["loss.png", "dice.png", "iou.png"]
    assert names([5, [1], "x", {"split": "train"}, {"split": "val", "step": "a", "epoch": 1, "loss": 1.0}]) == []
    absent = {"step": 1, "epoch": 1, "split": "train", "loss": None, "iou": {"NCR": None, "ED": 0.5}}
    assert names([absent]) == ["iou.png"]
    assert lines(drawn["iou.png"])["mean, training"].get_ydata() == [0.5]


def test_a_loss_that_is_no_number_is_said_and_a_wide_range_is_logarithmic(tmp_path, drawn):
    losses = [1000.0, float("nan"), 1.0, float("inf")]
    curves.plot_curves([record(step, step, loss=loss) for step, loss in enumerate(losses, 1)], tmp_path)
    assert drawn["loss.png"].axes[0].get_yscale() == "log"
    assert any("2 of 4 records" in text.get_text() for text in drawn["loss.png"].texts)
