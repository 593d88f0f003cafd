"""Lesion-wise Dice and HD95 as the BraTS 2023 challenges define them.

The procedure is that of the challenge's script (https://github.com/rachitsaluja/BraTS-2023-Metrics). Reference voxels
that touch (26 neighbours) once they are dilated are one lesion. A predicted component (26 neighbours) belongs to every
lesion whose dilation it meets, and counts there as a whole; a lesion that none meets is a false negative, a component
that meets none a false positive. Lesions up to a volume are left out, with the components that belong to them alone.
The scores are means over the remaining lesions and the false positives, which count 0 in Dice and 374 mm in HD95.
"""

import dataclasses

import cc3d
import numpy as np

from jaxbrats.evaluation import surfaces


@dataclasses.dataclass(frozen=True)
class Challenge:
    """What differs from one challenge to the next.

    Attributes:
        dilation: How many times reference lesions are dilated by the 18 neighbours before they are told apart.
        ignored_mm3: Reference lesions up to this volume are left out.
    """

    dilation: int
    ignored_mm3: float


# Adult glioma, Sub-Saharan Africa glioma, paediatric, meningioma, metastases.
CHALLENGES = {
    "GLI": Challenge(dilation=3, ignored_mm3=50),
    "SSA": Challenge(dilation=3, ignored_mm3=50),
    "PED": Challenge(dilation=3, ignored_mm3=50),
    "MEN": Challenge(dilation=1, ignored_mm3=50),
    "MET": Challenge(dilation=1, ignored_mm3=2),
}


@dataclasses.dataclass(frozen=True)
class LesionScores:
    """Scores of one region of one case, and the lesions they rest on.

    Attributes:
        dice: Mean over lesions, a false positive counting 0; 1 where there is neither.
        hd95_mm: Mean over lesions, misses and false positives counting 374 mm; 0 where there is neither.
        true_positives: Reference lesions met by the prediction.
        false_positives: Predicted components that meet no reference lesion.
        false_negatives: Reference lesions the prediction misses.
    """

    dice: float
    hd95_mm: float
    true_positives: int
    false_positives: int
    false_negatives: int


@dataclasses.dataclass(frozen=True, eq=False)
class LesionMatch:
    """Which predicted components belong to which lesion of the reference, for one region of one case.

    Lesions and components are numbered from 1; arrays over them have a place for 0, which is the background's.

    Attributes:
        lesions: (X, Y, Z) integers, the number of the lesion whose dilation a voxel lies in.
        components: (X, Y, Z) integers, the number of the predicted component.
        lesion_voxels: Voxels of each lesion, not dilated; 0 for a number that no lesion has.
        component_voxels: Voxels of each component; 0 for a number that no component has.
        overlap_voxels: Voxels of each lesion that are predicted.
        pairs: (2, M) integers, each lesion with each component that meets its dilation, in the order of the lesions.
    """

    lesions: np.ndarray
    components: np.ndarray
    lesion_voxels: np.ndarray
    component_voxels: np.ndarray
    overlap_voxels: np.ndarray
    pairs: np.ndarray

    def components_of(self, lesion: int) -> np.ndarray:
        """The components that belong to a lesion, (M,)."""
        return self.pairs[1, slice(*np.searchsorted(self.pairs[0], [lesion, lesion + 1]))]

    def dice_of(self, lesion: int) -> float:
        """Dice of a lesion and all of the components that belong to it."""
        predicted = self.component_voxels[self.components_of(lesion)].sum()
        return 2 * self.overlap_voxels[lesion] / (predicted + self.lesion_voxels[lesion])

    def false_positives(self) -> np.ndarray:
        """The components that meet no lesion, (M,)."""
        return np.setdiff1d(np.flatnonzero(self.component_voxels), self.pairs[1])

    def scored(self, voxel_mm3: float, challenge: Challenge) -> np.ndarray:
        """The lesions that are not too small to be scored, (M,)."""
        return np.flatnonzero(self.lesion_voxels * voxel_mm3 > challenge.ignored_mm3)

    def dice(self, lesions: np.ndarray) -> float:
        """Mean over these lesions and the false positives, which count 0; 1 where there is neither."""
        count = len(lesions) + len(self.false_positives())
        return float(sum(map(self.dice_of, lesions)) / count) if count else 1.0


def match_lesions(pred: np.ndarray, ref: np.ndarray, challenge: Challenge) -> LesionMatch:
    """Finds the lesions and components of one region and which of them meet.

    Args:
        pred: (X, Y, Z) bool, the predicted region.
        ref: (X, Y, Z) bool, the same region of the reference.
        challenge: The challenge's settings, one of `CHALLENGES`.
    """
    # The dilated reference falls apart into exactly the dilated lesions, so its components say both which lesion a
    # voxel belongs to and how far the lesion reaches.
    lesions = cc3d.connected_components(dilate(ref, challenge.dilation), connectivity=26)
    components = cc3d.connected_components(pred, connectivity=26)
    lesion_voxels = np.bincount(lesions[ref])
    # A component that overlaps a lesion also meets its dilation: the overlap needs no look at who belongs to whom.
    return LesionMatch(
        lesions=lesions,
        components=components,
        lesion_voxels=lesion_voxels,
        component_voxels=np.bincount(components[pred]),
        overlap_voxels=np.bincount(lesions[pred & ref], minlength=len(lesion_voxels)),
        pairs=_meetings(lesions[pred], components[pred]),
    )


def score_lesions(
    pred: np.ndarray, ref: np.ndarray, distances: surfaces.SurfaceDistances, challenge: Challenge
) -> LesionScores:
    """Lesion-wise scores of one region.

    Args:
        pred: (X, Y, Z) bool, the predicted region.
        ref: (X, Y, Z) bool, the same region of the reference.
        distances: Between the surfaces of `pred` and `ref`, as `surfaces.compare_surfaces` returns them.
        challenge: The challenge's settings, one of `CHALLENGES`.
    """
    match = match_lesions(pred, ref, challenge)
    voxel_mm3 = float(np.prod(distances.spacing_mm))
    pred_elements = _Groups(match.components[tuple(distances.pred.voxels.T)])
    ref_elements = _Groups(match.lesions[tuple(distances.ref.voxels.T)])
    lesions, hd95s, missed = match.scored(voxel_mm3, challenge), [], 0
    for lesion in lesions:
        members = match.components_of(lesion)
        missed += not len(members)
        hd95s.append(distances.between(pred_elements.of(members), ref_elements.of([lesion])).hd95_mm)
    false_positives = len(match.false_positives())

    scored = len(lesions) + false_positives
    return LesionScores(
        dice=match.dice(lesions),
        hd95_mm=float((sum(hd95s) + false_positives * surfaces.MISSING_MM) / scored) if scored else 0.0,
        true_positives=len(lesions) - missed,
        false_positives=false_positives,
        false_negatives=missed,
    )


def dilate(mask: np.ndarray, times: int) -> np.ndarray:
    """Binary dilation by the 18 neighbours (those that share a face or an edge).

    Args:
        mask: (X, Y, Z) bool.
        times: How many times.
    """
    for _ in range(times):
        # The 18 neighbours are the 3x3 squares in the three planes, and a square is two lines.
        along_y, along_z = _dilate_line(mask, 1), _dilate_line(mask, 2)
        mask = _dilate_line(along_y | along_z, 0) | _dilate_line(along_z, 1)
    return mask


def _dilate_line(mask: np.ndarray, axis: int) -> np.ndarray:
    mask = np.moveaxis(mask, axis, 0)
    result = mask.copy(order="K")
    result[1:] |= mask[:-1]
    result[:-1] |= mask[1:]
    return np.moveaxis(result, 0, axis)


def _meetings(lesions: np.ndarray, components: np.ndarray) -> np.ndarray:
    """Pairs of a lesion and a component that meets its dilation, each once, in the order of the lesions: (2, M)."""
    base = int(components.max(initial=0)) + 1
    met = lesions > 0
    return np.stack(np.divmod(np.unique(lesions[met].astype(np.int64) * base + components[met]), base))


class _Groups:
    """Which surface elements belong to a component, found without a pass over all of them.

    An element belongs to one component only: its 2x2x2 voxels are neighbours, so those inside are connected.
    """

    def __init__(self, numbers: np.ndarray) -> None:
        self.order = np.argsort(numbers, kind="stable")
        self.sorted = numbers[self.order]

    def of(self, wanted: np.ndarray | list[int]) -> np.ndarray:
        starts = np.searchsorted(self.sorted, wanted, side="left")
        ends = np.searchsorted(self.sorted, wanted, side="right")
        parts = [self.order[start:end] for start, end in zip(starts, ends, strict=True)]
        return np.concatenate([self.order[:0], *parts])
