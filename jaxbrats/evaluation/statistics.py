"""Statistics of score tables: a cohort in a few numbers, and two runs compared case by case.

Confidence intervals are bootstrap percentile intervals of the mean (Efron and Tibshirani 1993, chapter 13), seeded.
Runs are compared with the Wilcoxon signed-rank test (Wilcoxon 1945). Undefined scores (NaN, empty cells) are left out
of each number, and a number that cannot be had from so few cases is None.
"""

import math
from collections.abc import Sequence

import numpy as np

from jaxbrats.data.labels import SCORED
from jaxbrats.evaluation import metrics
from jaxbrats.evaluation.tables import Row

# Of these the printed table tells, where a score table has them.
PRINTED = ("dice", "hd95_mm", "lesion_dice", "lesion_hd95_mm")

Summary = dict[str, dict[str, dict[str, float | int | None]]]


def describe(values: Sequence[float], resamples: int = 2000, seed: int = 0) -> dict[str, float | int | None]:
    """Describes a sample.

    Args:
        values: Numbers; NaN is left out.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        `n`, `mean`, `sd` (of a sample: n - 1), `median`, quartiles `q1` and `q3`, and the 95 % confidence interval of
        the mean, `ci_low` to `ci_high`. None where undefined: all but `n` of no values, sd and interval of one.
    """
    sample = np.asarray(values, float)
    sample = sample[~np.isnan(sample)]
    numbers = dict.fromkeys(("n", "mean", "sd", "median", "q1", "q3", "ci_low", "ci_high"))
    numbers["n"] = len(sample)
    if len(sample):
        q1, median, q3 = np.percentile(sample, (25, 50, 75)).tolist()
        numbers |= {"mean": float(sample.mean()), "median": median, "q1": q1, "q3": q3}
    if len(sample) > 1:
        low, high = _mean_interval(sample, resamples, seed)
        numbers |= {"sd": float(sample.std(ddof=1)), "ci_low": low, "ci_high": high}
    return numbers


def summarise(rows: Sequence[Row]) -> Summary:
    """Describes every metric of every region over the cases.

    Args:
        rows: A score table.

    Returns:
        region -> metric -> what `describe` returns, in the order of `data.labels.SCORED` and `metrics.COLUMNS`; plain
        values that JSON takes.
    """
    return {
        region: {
            metric: describe([row.get(metric, math.nan) for row in of_region])
            for metric in metrics.COLUMNS
            if any(metric in row for row in of_region)
        }
        for region in SCORED
        if (of_region := [row for row in rows if row["region"] == region])
    }


def summary_table(summary: Summary) -> str:
    """A summary as text: a line a region, and for each metric its mean, standard deviation and median."""
    columns = [metric for metric in PRINTED if any(metric in metrics_of for metrics_of in summary.values())]
    width = 24
    lines = [
        "".join([f"{'':14}", *(f"{metric:>{width}}" for metric in columns)]),
        "".join([f"{'region':<6}{'cases':>8}", *[f"{'mean':>8}{'sd':>8}{'median':>8}"] * len(columns)]),
    ]
    for region, metrics_of in summary.items():
        line = f"{region:<6}{max(numbers['n'] for numbers in metrics_of.values()):>8}"
        for metric in columns:
            numbers = metrics_of.get(metric, {})
            line += "".join(f"{_short(numbers.get(key), metric):>8}" for key in ("mean", "sd", "median"))
        lines.append(line)
    return "\n".join(lines)


def compare(first: Sequence[Row], second: Sequence[Row]) -> list[dict[str, str | float | int | None]]:
    """Compares two runs over the cases that both scored.

    Args:
        first: A score table.
        second: Another of the same cases.

    Returns:
        For each region and metric a dict: `region`, `metric`, `n` pairs, `mean_first`, `mean_second`, `difference`
        (mean of second - first), its 95 % interval `ci_low` to `ci_high`, and `p` of the two-sided Wilcoxon signed-rank
        test (1 where no pair differs). Not corrected for the number of comparisons.
    """
    tables = [{(row["case"], row["region"]): row for row in rows} for rows in (first, second)]
    compared = []
    for region in SCORED:
        keys = [key for key in tables[0] if key[1] == region and key in tables[1]]
        for metric in metrics.COLUMNS:
            pairs = np.array([[table[key].get(metric, math.nan) for table in tables] for key in keys], float)
            pairs = pairs.reshape(-1, 2)
            pairs = pairs[~np.isnan(pairs).any(axis=1)]
            if not len(pairs):
                continue
            difference = describe(pairs[:, 1] - pairs[:, 0])
            compared.append(
                {
                    "region": region,
                    "metric": metric,
                    "n": len(pairs),
                    "mean_first": float(pairs[:, 0].mean()),
                    "mean_second": float(pairs[:, 1].mean()),
                    "difference": difference["mean"],
                    "ci_low": difference["ci_low"],
                    "ci_high": difference["ci_high"],
                    "p": _wilcoxon(pairs[:, 0], pairs[:, 1]),
                }
            )
    return compared


def _mean_interval(sample: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    random, size = np.random.default_rng(seed), len(sample)
    batch = max(1, 4_000_000 // size)  # at most 32 MB of resampled values at a time, however many cases
    parts = [min(batch, resamples - begun) for begun in range(0, resamples, batch)]
    means = [sample[random.integers(0, size, (part, size))].mean(1) for part in parts]
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5)).tolist()
    return low, high


def _wilcoxon(first: np.ndarray, second: np.ndarray) -> float:
    from scipy import stats  # half a second, and only comparisons need it

    # Rounding alone must not make a difference: the test would rank it.
    same = np.isclose(first, second, rtol=1e-9, atol=1e-12)
    if same.all():
        return 1.0
    return float(stats.wilcoxon(np.where(same, 0.0, second - first)).pvalue)


def _short(value: float | None, metric: str) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if metric.endswith("_mm") else f"{value:.4f}"
