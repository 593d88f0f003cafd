"""Every lesion of a case: found, missed or false positive, how large, and where to look."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from jaxbrats.data.labels import REGIONS, region_mask
from jaxbrats.data.raw.geometry import bounding_box
from jaxbrats.evaluation.lesions import Challenge, LesionMatch, match_lesions

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
        voxel: One of its voxels, the nearest to its centre.
    """

    kind: str
    ref_mm3: float
    pred_mm3: float
    dice: float
    voxel: tuple[int, int, int]

    @property
    def volume_mm3(self) -> float:
        """Volume in the reference; of a false positive, in the prediction."""
        return self.ref_mm3 or self.pred_mm3


def find_lesions(
    pred_labels: np.ndarray, ref_labels: np.ndarray, spacing_mm: Sequence[float], challenge: Challenge
) -> dict[str, list[Lesion]]:
    """The lesions of WT, TC and ET: missed and false positive ones, then those found, the largest first.

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
    found = {}
    for region in REGIONS:
        ref = region_mask(ref_labels, region)
        match = match_lesions(region_mask(pred_labels, region), ref, challenge)
        lesions = _lesions(match, ref, corner, voxel_mm3, challenge.ignored_mm3)
        found[region] = sorted(lesions, key=lambda lesion: (_ORDER[lesion.kind], -lesion.volume_mm3))
    return found


def _lesions(
    match: LesionMatch, ref: np.ndarray, corner: np.ndarray, voxel_mm3: float, ignored_mm3: float
) -> Iterator[Lesion]:
    ref_centres, pred_centres = _central_voxels(match.lesions * ref), _central_voxels(match.components)
    for number in np.flatnonzero(match.lesion_voxels):
        ref_mm3 = int(match.lesion_voxels[number]) * voxel_mm3
        pred_mm3 = int(match.component_voxels[match.components_of(number)].sum()) * voxel_mm3
        kind = TOO_SMALL if ref_mm3 <= ignored_mm3 else FOUND if pred_mm3 else MISSED
        voxel = tuple((corner + ref_centres[number]).tolist())
        yield Lesion(kind, ref_mm3, pred_mm3, float(match.dice_of(number)), voxel)
    for number in match.false_positives():
        pred_mm3 = int(match.component_voxels[number]) * voxel_mm3
        yield Lesion(FALSE_POSITIVE, 0.0, pred_mm3, 0.0, tuple((corner + pred_centres[number]).tolist()))


def _central_voxels(numbered: np.ndarray) -> dict[int, np.ndarray]:
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
