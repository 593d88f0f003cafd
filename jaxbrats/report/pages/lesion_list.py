"""Every lesion of a case: found, missed or invented, how large, and where to look.

Lesions are told apart as `jaxbrats.evaluation.lesions` does for the scores, so that the counts are the score table's.
"""

import dataclasses
from collections.abc import Sequence

import cc3d
import numpy as np

from jaxbrats.data.labels import REGIONS, region_mask
from jaxbrats.data.raw.geometry import bounding_box
from jaxbrats.evaluation.lesions import Challenge, dilate

FOUND, MISSED, FALSE_POSITIVE, TOO_SMALL = "found", "missed", "false positive", "too small to count"
# What a reader looks for comes first; errors of both kinds mix, so that the largest lead.
_ORDER = {MISSED: 0, FALSE_POSITIVE: 0, FOUND: 1, TOO_SMALL: 2}


@dataclasses.dataclass(frozen=True)
class Lesion:
    """A lesion of one region.

    Attributes:
        kind: `FOUND`, `MISSED`, `FALSE_POSITIVE`, or `TOO_SMALL` for one that the challenge leaves out.
        ref_mm3: Volume in the reference; 0 for a false positive.
        pred_mm3: Volume of the predicted components that belong to it; 0 if it was missed.
        dice: Of the two; 0 where one is missing.
        voxel: One of its voxels, that nearest to its centre.
    """

    kind: str
    ref_mm3: float
    pred_mm3: float
    dice: float
    voxel: tuple[int, int, int]

    @property
    def volume_mm3(self) -> float:
        """In the reference; of a false positive, in the prediction."""
        return self.ref_mm3 or self.pred_mm3


def find_lesions(
    pred_labels: np.ndarray, ref_labels: np.ndarray, spacing_mm: Sequence[float], challenge: Challenge
) -> dict[str, list[Lesion]]:
    """The lesions of WT, TC and ET: missed and invented ones, then those found, the largest first.

    Args:
        pred_labels: Predicted labels (X, Y, Z).
        ref_labels: Reference labels (X, Y, Z).
        spacing_mm: Voxel size along x, y, z.
        challenge: Rules of the challenge, as the scores were made with.
    """
    box = bounding_box((pred_labels != 0) | (ref_labels != 0))
    pred_labels, ref_labels = pred_labels[box], ref_labels[box]
    corner = np.array([side.start for side in box])
    voxel_mm3 = float(np.prod(spacing_mm))
    return {
        region: _in_region(
            region_mask(pred_labels, region), region_mask(ref_labels, region), corner, voxel_mm3, challenge
        )
        for region in REGIONS
    }


def _in_region(
    pred: np.ndarray, ref: np.ndarray, corner: np.ndarray, voxel_mm3: float, challenge: Challenge
) -> list[Lesion]:
    reach = cc3d.connected_components(dilate(ref, challenge.dilation), connectivity=26)
    components = cc3d.connected_components(pred, connectivity=26)
    lesion_sizes = np.bincount(reach[ref])
    component_sizes = np.bincount(components[pred])
    overlaps = np.bincount(reach[pred & ref], minlength=len(lesion_sizes))
    meets = pred & (reach > 0)
    base = int(components.max(initial=0)) + 1
    met_lesions, met_components = np.divmod(np.unique(reach[meets].astype(np.int64) * base + components[meets]), base)
    ref_places, pred_places = _places(reach * ref), _places(components)

    lesions = []
    for number in np.flatnonzero(lesion_sizes):
        members = met_components[met_lesions == number]
        ref_size, pred_size = int(lesion_sizes[number]), int(component_sizes[members].sum())
        if ref_size * voxel_mm3 <= challenge.ignored_mm3:
            kind = TOO_SMALL
        else:
            kind = FOUND if len(members) else MISSED
        dice = 2 * int(overlaps[number]) / (ref_size + pred_size)
        place = corner + ref_places[number]
        lesions.append(Lesion(kind, ref_size * voxel_mm3, pred_size * voxel_mm3, dice, tuple(place.tolist())))
    for number in np.setdiff1d(np.flatnonzero(component_sizes), met_components):
        place = corner + pred_places[number]
        size = int(component_sizes[number]) * voxel_mm3
        lesions.append(Lesion(FALSE_POSITIVE, 0.0, size, 0.0, tuple(place.tolist())))
    return sorted(lesions, key=lambda lesion: (_ORDER[lesion.kind], -lesion.volume_mm3))


def _places(numbered: np.ndarray) -> dict[int, np.ndarray]:
    """For each number above 0 in a volume the voxel with it, (3,), that is nearest to the centre of all of them."""
    voxels = np.argwhere(numbered)
    numbers = numbered[tuple(voxels.T)]
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order], prepend=0))
    groups = np.split(voxels[order], starts[1:]) if len(starts) else []
    return {
        int(numbers[order[start]]): group[np.argmin(((group - group.mean(axis=0)) ** 2).sum(axis=1))]
        for start, group in zip(starts, groups, strict=True)
    }
