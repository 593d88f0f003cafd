"""The hard cohort: what networks fail at, in proportions that a small cohort of patients doesn't have.

Tumours have any size from a few hundred mm^3 on, spread evenly on a log scale, and up to four lesions. A third takes up
no contrast agent and another sixth less than 0.5 ml. A quarter hardly stands out on T2f, and aged white matter, bright
there without being tumour, is common. Patients with an even number were imaged by scanner A, which is that of the usual
cohort, the others by B.
"""

import numpy as np

from jaxbrats.synthetic import phantom
from jaxbrats.synthetic.scan import Scanner
from jaxbrats.synthetic.tumour import Lesion, TumourPlan, draw_stretch, free_centre, radius_mm

# B suppresses fluid on T2f badly and images soon after the contrast agent is given, which normalisation doesn't undo.
# It has less contrast but on t1n, a stronger bias field, more noise and thick slices.
SCANNERS = {
    "A": Scanner(),
    "B": Scanner(
        factors={"fluid": (1.0, 1.0, 0.8, 2.2), "enhancing": (1.0, 0.9, 1.0, 1.0), "vessel": (1.0, 1.2, 1.0, 1.0)},
        gamma=(1.3, 0.75, 0.7, 0.7),
        bias=0.2,
        noise=1.5,
        blur_mm=(0.5, 0.5, 1.5),
    ),
}
_LARGEST_ML, _SMALLEST_ML, _SMALLEST_SATELLITE_ML = 150.0, 0.4, 0.25
_SOLID = 3.0  # a rim that leaves no necrosis
# From this radius on edema strays as in the usual cohort; in smaller lesions it would lose touch with the core.
_RADIUS_OF_FULL_SPREAD_MM = 25.0
_REACH_MM = 12.0


def scanner_of(patient: int) -> str:
    """The scanner that a patient was imaged by, at all time points."""
    return "AB"[patient % 2]


def plan_tumour(outline: phantom.Outline, rng: np.random.Generator) -> TumourPlan:
    """Draws number, place, size and kind of a patient's lesions, the largest first."""
    kind = str(rng.choice(["none", "focus", "rim"], p=[1 / 3, 1 / 6, 1 / 2]))
    count = int(rng.choice([1, 2, 3, 4], p=[0.4, 0.25, 0.2, 0.15]))
    t2f_contrast = float(rng.uniform(0.45, 0.6) if rng.random() < 0.25 else rng.uniform(0.7, 1.0))
    count = max(count, 2) if kind == "focus" else count
    largest_ml = _log_uniform(rng, _SMALLEST_ML, _LARGEST_ML)
    volumes_ml = [largest_ml, *(largest_ml * _log_uniform(rng, 0.02, 0.6) for _ in range(count - 1))]
    volumes_ml = [max(volume, _SMALLEST_SATELLITE_ML) for volume in volumes_ml]
    cores_ml = [volume * rng.uniform(0.28, 0.55) for volume in volumes_ml]
    rims = [
        _draw_rim(rng, core) if kind == "rim" and (n == 0 or rng.random() < 0.7) else 0.0
        for n, core in enumerate(cores_ml)
    ]
    if kind == "focus":
        # One small solid focus beside a tumour that doesn't enhance.
        cores_ml[-1], rims[-1] = float(rng.uniform(0.1, 0.4)), _SOLID
        volumes_ml[-1] = 2.5 * cores_ml[-1]
    # Half of the further lesions are satellites, near the largest; the others lie anywhere.
    reaches = [_REACH_MM if rng.random() < 0.5 else np.inf for _ in volumes_ml]
    drifts, stretches = rng.standard_normal((count, 3)), [draw_stretch(rng) for _ in range(count)]
    lesions: list[Lesion] = []
    for n, (volume, core) in enumerate(zip(volumes_ml, cores_ml, strict=True)):
        radius = radius_mm(volume)
        centre = free_centre(outline, rng, radius, lesions, reaches[n])
        edema_centre = centre + 0.12 * radius * drifts[n]
        places = tuple(centre.tolist()), tuple(edema_centre.tolist())
        spread = min(1.0, radius / _RADIUS_OF_FULL_SPREAD_MM)
        lesions.append(Lesion(*places, float(core), float(volume - core), stretches[n], rims[n], spread))
    return TumourPlan(tuple(lesions), t2f_contrast)


def _draw_rim(rng: np.random.Generator, core_ml: float) -> float:
    # Small cores have not outgrown their vessels.
    return _SOLID if core_ml < 0.5 else float(rng.uniform(0.2, 0.6))


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
