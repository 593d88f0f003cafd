"""How fast are the scores of one case, beside the BraTS 2023 challenge's procedure done step by step?

    python experiments/benchmark_metrics.py [--pred=FILE.nii.gz --ref=FILE.nii.gz]

The two sides, on one core and from arrays in memory, in seconds of processor time (which other programs on the machine
disturb least):

- the challenge's procedure as the published script goes about it (https://github.com/rachitsaluja/BraTS-2023-Metrics):
  whole volumes, a dilation and two distance transforms for each lesion, DeepMind's `surface-distance`. Timed for WT, TC
  and ET, which is what the script scores, and for NCR and ED as well;
- jaxbrats' `score_case`: all five, with average surface distance and surface Dice, which the script doesn't give.

The numbers of both must agree to 1e-6 before anything is timed; then the sides take turns. A synthetic case with many
lesions is always timed, a pair of files when given. Needs the extra `test`. Writes benchmark_metrics.json and .md into
experiments/results.
"""

import pathlib
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable

import benchmarking
import cc3d
import nibabel as nib
import numpy as np
import surface_distance
from absl import flags
from scipy import ndimage

from jaxbrats import commands
from jaxbrats.data.labels import REGIONS, SCORED, region_mask
from jaxbrats.evaluation import tables
from jaxbrats.evaluation.lesions import CHALLENGES, Challenge
from jaxbrats.evaluation.metrics import UNIT_SPACING, score_case
from jaxbrats.evaluation.pairs import LabelFile
from jaxbrats.system import files
from jaxbrats.system.errors import InputError

FLAGS = flags.FlagValues()
flags.DEFINE_string("pred", None, "A predicted segmentation to time as well.", flag_values=FLAGS)
flags.DEFINE_string("ref", None, "Its reference.", flag_values=FLAGS)
flags.DEFINE_integer("repeats", 5, "Times each side is timed.", lower_bound=1, flag_values=FLAGS)
RESULTS = pathlib.Path(__file__).parent / "results"
CHALLENGE = "GLI"
TOLERANCE = 1e-6
PENALTY_MM = 374


def challenge_scores(
    pred_labels: np.ndarray, ref_labels: np.ndarray, spacing_mm: tuple, challenge: Challenge, regions: Iterable[str]
) -> dict:
    """Scores by the challenge's procedure, written from its description.

    Args:
        pred_labels: Predicted labels (X, Y, Z).
        ref_labels: Reference labels (X, Y, Z).
        spacing_mm: Voxel size.
        challenge: Dilation and the volume up to which lesions are left out.
        regions: Rows of `data.labels.SCORED`.
    """
    return {
        region: _region_scores(region_mask(pred_labels, region), region_mask(ref_labels, region), spacing_mm, challenge)
        for region in regions
    }


def _region_scores(pred: np.ndarray, ref: np.ndarray, spacing_mm: tuple, challenge: Challenge) -> dict:
    neighbours_18 = ndimage.generate_binary_structure(3, 2)
    both = np.count_nonzero(pred & ref)
    neither = np.count_nonzero(~pred & ~ref)
    pred_components = cc3d.connected_components(pred, connectivity=26)
    grown = ndimage.binary_dilation(ref, neighbours_18, iterations=challenge.dilation)
    ref_lesions = cc3d.connected_components(grown, connectivity=26) * ref

    dices, hd95s, found, lost, met = [], [], 0, 0, set()
    for number in range(1, int(ref_lesions.max()) + 1):
        lesion = ref_lesions == number
        reach = ndimage.binary_dilation(lesion, neighbours_18, iterations=challenge.dilation)
        here = [component for component in np.unique(pred_components[reach]) if component]
        met.update(here)
        matched = np.isin(pred_components, here)
        dice, hd95 = _dice(matched, lesion), _hd95(matched, lesion, spacing_mm)
        if np.count_nonzero(lesion) * np.prod(spacing_mm) > challenge.ignored_mm3:
            dices.append(dice)
            hd95s.append(hd95)
            found += bool(here)
            lost += not here
    false = len(set(np.unique(pred_components).tolist()) - met - {0})
    scored = len(dices) + false
    empty = not pred.any() and not ref.any()
    return {
        "dice": _dice(pred, ref),
        "sensitivity": both / ref.sum() if ref.any() else float(empty),
        "specificity": neither / (~ref).sum(),
        "volume_ref_mm3": ref.sum() * np.prod(spacing_mm),
        "volume_pred_mm3": pred.sum() * np.prod(spacing_mm),
        "hd95_mm": _hd95(pred, ref, spacing_mm),
        "lesion_dice": sum(dices) / scored if scored else 1.0,
        "lesion_hd95_mm": (sum(hd95s) + PENALTY_MM * false) / scored if scored else 0.0,
        "lesions_tp": found,
        "lesions_fp": false,
        "lesions_fn": lost,
    }


def _dice(pred: np.ndarray, ref: np.ndarray) -> float:
    total = pred.sum() + ref.sum()
    return 2 * (pred & ref).sum() / total if total else 1.0


def _hd95(pred: np.ndarray, ref: np.ndarray, spacing_mm: tuple) -> float:
    if not pred.any() or not ref.any():
        return PENALTY_MM * float(pred.any() or ref.any())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the package predates SciPy's present module names
        distances = surface_distance.compute_surface_distances(ref, pred, spacing_mm)
    return surface_distance.compute_robust_hausdorff(distances, 95)


def synthetic_pair(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A prediction and a reference of 240x240x155 voxels.

    Large and small lesions with core and enhancement, two of them close enough to be one; the prediction has other
    outlines, misses a lesion and invents some.
    """
    rng = np.random.default_rng(seed)
    volumes = np.zeros((2, 240, 240, 155), np.uint8)
    lesions = [  # centre, radius, in the prediction, in the reference
        ((90, 110, 80), 32, True, True),
        ((165, 90, 70), 17, True, True),
        ((165, 122, 70), 12, True, True),
        ((150, 170, 110), 9, True, True),
        ((70, 180, 60), 6, False, True),
        ((180, 160, 50), 4, True, True),
        ((100, 60, 120), 7, True, False),
        ((60, 60, 40), 2, True, False),
        ((190, 190, 90), 3, True, False),
    ]
    for centre, radius, *present in lesions:
        half = radius + 8
        offsets = np.mgrid[tuple(slice(-half, half + 1) for _ in range(3))]
        box = tuple(slice(place - half, place + half + 1) for place in centre)
        distance = np.sqrt((offsets**2).sum(0)) / radius
        for volume, there in zip(volumes, present, strict=True):
            # Bumps of a few voxels, of about a seventh of the radius.
            noise = ndimage.gaussian_filter(rng.standard_normal(distance.shape), 3)
            bumpy = distance + 0.14 * noise / noise.std()
            labels = np.select([bumpy < 0.4, bumpy < 0.65, bumpy < 1], [1, 3, 2], 0)
            volume[box] = np.where((labels > 0) & there, labels, volume[box])
    return volumes[0], volumes[1]


def largest_difference(ours: dict, theirs: dict) -> float:
    """The largest difference of any number that both sides give."""
    return max(abs(ours[region][name] - value) for region in theirs for name, value in theirs[region].items())


def measure(name: str, pred: np.ndarray, ref: np.ndarray, spacing_mm: tuple, repeats: int) -> dict:
    """Checks that both sides agree on a pair of label volumes, then times them in turns."""
    rules = CHALLENGES[CHALLENGE]
    sides: dict[str, Callable[[], dict]] = {
        "challenge, 3 regions": lambda: challenge_scores(pred, ref, spacing_mm, rules, REGIONS),
        "challenge, 5 regions": lambda: challenge_scores(pred, ref, spacing_mm, rules, SCORED),
        "jaxbrats, 5 regions": lambda: score_case(pred, ref, spacing_mm, CHALLENGE),
    }
    *theirs, ours = (function() for function in sides.values())
    difference = max(largest_difference(ours, scored) for scored in theirs)
    if not difference <= TOLERANCE:
        raise InputError(f"{name}: the two sides differ by {difference:g}; there is nothing to time")
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, function in sides.items():
            start = time.process_time()
            function()
            seconds[side].append(time.process_time() - start)
    medians = {side: statistics.median(times) for side, times in seconds.items()}
    *_, own = medians.values()
    return {
        "case": f"{name} ({'x'.join(map(str, pred.shape))})",
        "reference_lesions": {region: row["lesions_tp"] + row["lesions_fn"] for region, row in ours.items()},
        "largest_difference": difference,
        "seconds": {side: [round(value, 4) for value in times] for side, times in seconds.items()},
        "median_seconds": {side: round(value, 4) for side, value in medians.items()},
        "speedup": {side: round(value / own, 1) for side, value in medians.items()},
    }


def as_markdown(report: dict) -> str:
    """The report as a table."""
    lines = [
        "# Seconds to score one case on one core",
        "",
        f"| case | {' | '.join(report['cases'][0]['median_seconds'])} | largest difference |",
        "|---|---:|---:|---:|---:|",
    ]
    for case in report["cases"]:
        cells = [f"{value:.3f} ({case['speedup'][side]:.0f}x)" for side, value in case["median_seconds"].items()]
        lines.append(f"| {case['case']} | {' | '.join(cells)} | {case['largest_difference']:g} |")
    versions = ", ".join(f"{package} {version}" for package, version in report["versions"].items())
    return "\n".join(
        [
            *lines,
            "",
            f"Processor time, medians of {report['repeats']} runs, the sides taking turns, from arrays in memory; in "
            "brackets, how many times as long as jaxbrats. The challenge's own script scores 3 regions: WT, TC, ET. "
            "The 5 have NCR and ED as well, and jaxbrats adds average surface distance and surface Dice.",
            "",
            f"{report['processor']}, one core. Python {report['python']}, {versions}.",
            "",
            "`python experiments/benchmark_metrics.py`",
            "",
        ]
    )


def main() -> int:
    """Times, prints and writes the report."""
    if (FLAGS.pred is None) != (FLAGS.ref is None):
        raise InputError("--pred and --ref are given together")
    pairs = [("synthetic case with many lesions", *synthetic_pair(), UNIT_SPACING)]
    if FLAGS.pred is not None:
        (pred, _), (ref, affine) = (
            tables.read_label_file(LabelFile(pathlib.Path(path)), "benchmark") for path in (FLAGS.pred, FLAGS.ref)
        )
        pairs.insert(0, ("one real case", pred, ref, tuple(nib.affines.voxel_sizes(affine).tolist())))
    packages = ("numpy", "scipy", "connected-components-3d", "surface-distance")
    report = {
        **benchmarking.machine(packages),
        "challenge": CHALLENGE,
        "repeats": FLAGS.repeats,
        "cases": [measure(*pair, FLAGS.repeats) for pair in pairs],
    }
    files.write_json(RESULTS / "benchmark_metrics.json", report)
    files.write_text(RESULTS / "benchmark_metrics.md", as_markdown(report))
    print(as_markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(commands.run_program(sys.modules[__name__], "benchmark_metrics", sys.argv[1:]))
