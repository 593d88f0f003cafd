"""Gliomas for the phantom: one or several lesions of necrosis, enhancing rim and edema, as shares of every voxel.

A lesion is a warped ellipsoid (the core) inside a larger region that follows the white matter, as vasogenic edema does:
it spares cortex and nuclei, stops at fluid and hardly crosses the midline but through the corpus callosum. Levels are
chosen so that core and edema have the volumes drawn for them. Proportions are about those of BraTS: edema is the
largest part, then the enhancing tumour, then necrosis.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from jaxbrats.data import labels
from jaxbrats.synthetic import phantom


@dataclasses.dataclass(frozen=True)
class Lesion:
    """One focus of a tumour.

    Attributes:
        centre: Of the core, mm.
        edema_centre: Of the edema, mm.
        core_ml: Volume of core.
        edema_ml: Volume of edema.
        stretch: (3, 3) matrix of determinant 1: takes the lesion's ellipsoid to a sphere.
        rim: Mean thickness of the enhancing rim over the radius of the core; 0 where the core takes up no contrast
            agent: then all of it is labelled NCR, as in BraTS. From about 3 on there is no necrosis.
        spread: How far edema strays from an even margin, over what a large lesion's does.
    """

    centre: tuple[float, ...]
    edema_centre: tuple[float, ...]
    core_ml: float
    edema_ml: float
    stretch: tuple[tuple[float, ...], ...]
    rim: float
    spread: float = 1.0

    @property
    def radius_mm(self) -> float:
        """Of a sphere with the lesion's whole volume."""
        return radius_mm(self.core_ml + self.edema_ml)


@dataclasses.dataclass(frozen=True)
class TumourPlan:
    """What is drawn for a patient before any voxel is looked at.

    Attributes:
        lesions: At least one.
        t2f_contrast: How far it stands out from white matter on T2f, over what is typical.
    """

    lesions: tuple[Lesion, ...]
    t2f_contrast: float = 1.0

    @property
    def enhancing(self) -> bool:
        """Whether any lesion takes up contrast agent."""
        return any(lesion.rim > 0 for lesion in self.lesions)

    def grown(self, factor: float) -> "TumourPlan":
        """The same tumour with every volume times `factor`."""
        lesions = tuple(
            dataclasses.replace(lesion, core_ml=lesion.core_ml * factor, edema_ml=lesion.edema_ml * factor)
            for lesion in self.lesions
        )
        return dataclasses.replace(self, lesions=lesions)


def plan_tumour(outline: phantom.Outline, rng: np.random.Generator) -> TumourPlan:
    """Draws number, place, size and kind of a patient's lesions.

    About one in five has several lesions, one in ten does not enhance, and one in twenty is so small that it makes up
    less than 1 % of a BraTS volume's centre, where preprocessing skips it.
    """
    count = int(rng.choice([1, 2, 3], p=[0.8, 0.14, 0.06]))
    small = rng.random() < 0.05
    total_ml = rng.uniform(6, 14) if small else float(np.clip(160 * np.exp(0.38 * rng.standard_normal()), 85, 330))
    shares = np.array([3.0, 1.2, 0.8])[:count] * rng.uniform(0.8, 1.2, count)
    volumes_ml = total_ml * shares / shares.sum()
    cores_ml = volumes_ml * rng.uniform(0.28, 0.55, count)
    drifts, stretches = rng.standard_normal((count, 3)), [draw_stretch(rng) for _ in range(count)]
    enhancing, rim = rng.random() >= 0.1, float(rng.uniform(0.25, 0.5))
    # Last, because how many draws it takes to find free places may hang on the voxel size.
    lesions: list[Lesion] = []
    for volume_ml, core_ml, drift, stretch in zip(volumes_ml, cores_ml, drifts, stretches, strict=True):
        radius = radius_mm(volume_ml)
        centre = free_centre(outline, rng, radius, lesions)
        edema_centre = centre + 0.12 * radius * drift
        places = tuple(centre.tolist()), tuple(edema_centre.tolist())
        lesions.append(Lesion(*places, float(core_ml), float(volume_ml - core_ml), stretch, rim if enhancing else 0.0))
    return TumourPlan(tuple(lesions))


def mass_effect(outline: phantom.Outline, plan: TumourPlan) -> np.ndarray:
    """Where each voxel would lie without the tumour, mm, (3, N): lesions push what is around them away."""
    points = outline.points
    for lesion in plan.lesions:
        offset = _offset(outline, lesion.centre)
        reach = np.square(offset).sum(0) / (2 * (1.1 * lesion.radius_mm) ** 2)
        points = points - 0.3 * np.exp(-reach) * offset
    return points


@dataclasses.dataclass(frozen=True)
class Tumour:
    """Shares of a voxel, nested: 0 <= necrosis <= core <= whole <= 1. Vectors over the outline's voxels.

    Attributes:
        whole: Whole tumour (WT).
        core: Tumour core (TC): necrosis and enhancing tumour.
        necrosis: Necrosis, or all of a core that does not enhance (NCR).
        t2f_contrast: As planned.
    """

    whole: np.ndarray
    core: np.ndarray
    necrosis: np.ndarray
    t2f_contrast: float = 1.0

    def labels(self) -> np.ndarray:
        """The label of what fills more than half a voxel, uint8."""
        label = np.where(self.whole > 0.5, np.uint8(labels.ED), np.uint8(labels.BACKGROUND))
        label[self.core > 0.5] = labels.ET
        label[self.necrosis > 0.5] = labels.NCR
        return label


def draw_tumour(outline: phantom.Outline, head: phantom.Head, plan: TumourPlan, rng: np.random.Generator) -> Tumour:
    """Grows the planned lesions in a head.

    The shares of `whole` are what a rater could see: voxels of fluid and vessels inside the edema belong to the
    background, and edema that no path of edema joins to a core is left out.
    """
    grid, x = outline.grid, outline.points[0]
    voxel_ml = grid.voxel_mm**3 / 1000
    bumps = outline.noise(rng, 15) + 0.5 * outline.noise(rng, 8)
    rim_noise = outline.noise(rng, 14) + 0.5 * outline.noise(rng, 7)
    front = 8 * outline.noise(rng, 24) + 3 * outline.noise(rng, 12)
    tissue = 1 - head.fluid - head.vessel - head.choroid
    room = (head.ventricle_distance > 1) & (outline.depth > 1)
    callosum = head.ventricle_distance < 9
    barrier = 15 * head.grey + np.where(outline.cerebellum > 0, 40, 0).astype(np.float32)

    surface = np.full(len(x), np.inf, np.float32)  # mm outside of the nearest core
    inner = np.full(len(x), np.inf, np.float32)  # mm outside of the nearest rim's inner border
    edema = np.full(len(x), -np.inf, np.float32)  # mm inside the largest edema or collar
    for lesion in plan.lesions:
        core_radius = radius_mm(lesion.core_ml)
        distance = _norm(lesion.stretch, _offset(outline, lesion.centre)) + 0.2 * core_radius * bumps
        outer = distance - _level(distance, room, lesion.core_ml / voxel_ml)
        rim_mm = lesion.rim * core_radius * np.maximum(1 + 0.4 * rim_noise, 0.4)
        surface, inner = np.minimum(surface, outer), np.minimum(inner, outer + rim_mm)
        # Every core has at least a thin collar of edema.
        edema = np.maximum(edema, lesion.spread * np.maximum(2.5 + rim_noise, 1.0) - outer)
    outside = room & (surface > 0) & (tissue > 0.5)
    for lesion in plan.lesions:
        across = np.where(callosum, 0, np.clip(x if lesion.centre[0] < 0 else -x, 0, 6))
        distance = _norm(lesion.stretch, _offset(outline, lesion.edema_centre)) + lesion.spread * front
        distance = distance + barrier + 4 * across
        edema = np.maximum(edema, _level(distance, outside, lesion.edema_ml / voxel_ml) - distance)

    core = grid.ramp(-surface) * grid.ramp(head.ventricle_distance - 1) * grid.ramp(outline.depth - 1)
    whole = np.maximum(core, grid.ramp(edema) * tissue)
    necrosis = np.minimum(core, grid.ramp(-inner))
    joined = ~_islands(outline, whole > 0.5, core > 0.5)
    return Tumour(whole * joined, core * joined, necrosis * joined, plan.t2f_contrast)


def radius_mm(volume_ml: float) -> float:
    """Of a sphere."""
    return float((3000 * volume_ml / (4 * np.pi)) ** (1 / 3))


def draw_stretch(rng: np.random.Generator) -> tuple[tuple[float, ...], ...]:
    """The shape of a lesion, see `Lesion.stretch`."""
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    factors = np.exp(0.22 * rng.standard_normal(3))
    matrix = rotation @ np.diag(factors / np.cbrt(factors.prod())) @ rotation.T
    return tuple(map(tuple, matrix.tolist()))


def _offset(outline: phantom.Outline, centre: tuple[float, ...]) -> np.ndarray:
    return outline.points - np.array(centre, np.float32)[:, None]


def _norm(matrix: tuple[tuple[float, ...], ...], offset: np.ndarray) -> np.ndarray:
    # Written out: a matrix product might add in another order with another number of threads.
    return np.sqrt(sum(np.square(sum(a * o for a, o in zip(row, offset, strict=True))) for row in matrix))


def _level(distance: np.ndarray, room: np.ndarray, voxels: float) -> float:
    # The distance below which `voxels` voxels of `room` lie; at least one voxel.
    candidates = distance[room]
    rank = min(max(round(voxels), 1), len(candidates) - 1)
    return float(np.partition(candidates, rank)[rank])


def free_centre(
    outline: phantom.Outline,
    rng: np.random.Generator,
    radius: float,
    others: Sequence[Lesion],
    reach: float = np.inf,
) -> np.ndarray:
    """Draws a place for a lesion in the cerebrum, away from the surface, the ventricles and the other lesions.

    Args:
        outline: The brain voxels.
        rng: Draws.
        radius: Of the lesion, mm.
        others: Those that have a place.
        reach: How far the lesion may lie from the first of the others, surface to surface, mm.

    Returns:
        mm, (3,); where there is no room, the place with the least overlap of those that were tried.
    """
    # Adults' gliomas lie above the tentorium. Points are drawn in mm, so that the place doesn't hang on the voxel size.
    half = np.array(phantom.HEAD_BOX_MM) / 2
    depth = outline.volume(outline.depth, np.float32)
    cerebellum = outline.volume(outline.cerebellum, np.float32)
    centre_voxel, last = (np.array(depth.shape) - 1) / 2, np.array(depth.shape) - 1
    best, best_gap = np.zeros(3), -np.inf
    for _ in range(40):
        points = rng.uniform(-half, half, (64, 3))
        voxels = tuple(np.clip(np.rint(points / outline.grid.voxel_mm + centre_voxel).astype(int), 0, last).T)
        free = (depth[voxels] > 14) & (cerebellum[voxels] < -4) & (points[:, 2] > -36)
        free &= phantom.ventricle_distance(points.T, 1.2) > 8
        for point in points[free]:
            gaps = [np.linalg.norm(point - other.centre) - radius - other.radius_mm for other in others]
            if gaps and gaps[0] > reach:
                continue
            gap = min(gaps, default=np.inf)
            if gap > best_gap:
                best, best_gap = point, gap
            if gap > 0:
                return best
    return best


def _islands(outline: phantom.Outline, tumour: np.ndarray, core: np.ndarray) -> np.ndarray:
    # Tumour that no path of tumour voxels joins to a core, with the voxels at its border that it fills in part.
    parts, count = ndimage.label(outline.volume(tumour, bool)[outline.grid.box])
    alone = np.ones(count + 1, bool)
    alone[0] = False
    alone[parts[outline.inside][core]] = False
    return ndimage.binary_dilation(alone[parts])[outline.inside] & (~tumour | alone[parts[outline.inside]])
