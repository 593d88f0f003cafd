import json
import math

import numpy as np
import pytest
from scipy import stats

from jaxbrats.evaluation import statistics


def rows(case, **dice):
    return [{"case": case, "region": region, "dice": value, "hd95_mm": 10 * value} for region, value in dice.items()]


def test_description_by_hand():
    described = statistics.describe([1, 2, 3, math.nan, 10])
    assert described["n"] == 4
    assert described["mean"] == 4
    assert described["median"] == 2.5
    assert described["sd"] == pytest.approx(math.sqrt((9 + 4 + 1 + 36) / 3))
    assert (described["q1"], described["q3"]) == (1.75, 4.75)
    assert 1 < described["ci_low"] < 4 < described["ci_high"] < 10


def test_what_so_few_cases_cannot_tell_is_none():
    assert set(statistics.describe([math.nan]).items()) >= {
        ("n", 0),
        ("mean", None),
        ("median", None),
        ("ci_low", None),
    }
    one = statistics.describe([0.5])
    assert (one["n"], one["mean"], one["sd"], one["median"], one["ci_low"]) == (1, 0.5, None, 0.5, None)
    same = statistics.describe([0.5, 0.5, 0.5])
    assert (same["sd"], same["ci_low"], same["ci_high"]) == (0, 0.5, 0.5)


@pytest.mark.parametrize("size", [2, 37, 2500])
def test_interval_is_scipys(size):
    """In three batches of resamples for the largest sample."""
    sample = np.random.default_rng(1).normal(size=size)
    batch = 4_000_000 // size
    rng = np.random.default_rng(0)
    expected = stats.bootstrap((sample,), np.mean, n_resamples=4000, batch=batch, method="percentile", rng=rng)
    found = statistics.describe(sample, resamples=4000)
    np.testing.assert_allclose((found["ci_low"], found["ci_high"]), expected.confidence_interval, rtol=1e-12)


def test_interval_is_seeded_and_near_the_normal_one():
    sample = np.random.default_rng(0).normal(5, 2, 400)
    first, again = statistics.describe(sample, seed=3), statistics.describe(sample, seed=3)
    assert first == again != statistics.describe(sample, seed=4)
    error = sample.std(ddof=1) / 20
    assert first["ci_low"] == pytest.approx(sample.mean() - 1.96 * error, abs=0.25 * error)
    assert first["ci_high"] == pytest.approx(sample.mean() + 1.96 * error, abs=0.25 * error)


def test_summary_is_of_each_region_and_metric_and_is_json():
    table = rows("A", ET=0.4, WT=0.8) + rows("B", WT=0.6, ET=math.nan)
    summary = statistics.summarise(table)
    assert list(summary) == ["WT", "ET"]
    assert list(summary["WT"]) == ["dice", "hd95_mm"]
    assert summary["WT"]["dice"]["mean"] == pytest.approx(0.7)
    assert summary["WT"]["hd95_mm"]["median"] == pytest.approx(7)
    assert (summary["ET"]["dice"]["n"], summary["ET"]["dice"]["mean"]) == (1, 0.4)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_printed_table():
    table = rows("A", WT=0.8, ET=0.4) + rows("B", WT=0.6, ET=math.nan)
    assert statistics.summary_table(statistics.summarise(table)).splitlines() == [
        "                                  dice                 hd95_mm",
        "region   cases    mean      sd  median    mean      sd  median",
        "WT           2  0.7000  0.1414  0.7000    7.00    1.41    7.00",
        "ET           1  0.4000       -  0.4000    4.00       -    4.00",
    ]


def test_comparison_pairs_cases_and_gives_the_exact_p():
    first = [row for number in range(6) for row in rows(f"{number}", WT=0.5)]
    second = [row for number in reversed(range(6)) for row in rows(f"{number}", WT=0.5 + 0.01 * (number + 1))]
    second += rows("only here", WT=0.0)
    dice, hd95 = statistics.compare(first, second)
    assert (dice["region"], dice["metric"], dice["n"]) == ("WT", "dice", 6)
    assert (dice["mean_first"], dice["mean_second"]) == (0.5, pytest.approx(0.535))
    assert dice["difference"] == pytest.approx(0.035)
    assert 0.01 < dice["ci_low"] < 0.035 < dice["ci_high"] < 0.06
    # All six differences of one sign: 2 of the 2^6 assignments of signs are as extreme.
    assert dice["p"] == pytest.approx(2 / 64)
    assert hd95["difference"] == pytest.approx(0.35)


def test_comparison_of_equals_and_of_nothing():
    table = rows("A", WT=0.5) + rows("B", WT=0.7)
    rounded = [{**row, "dice": row["dice"] * (1 + 1e-15)} for row in table]
    assert [row["p"] for row in statistics.compare(table, rounded)] == [1, 1]
    assert statistics.compare(table, rows("C", WT=0.5)) == []
    assert statistics.compare(table, rows("A", WT=math.nan)) == []
