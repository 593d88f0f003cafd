"""Scores of one segmentation against its reference: NumPy arrays in, numbers out.

Where a mask is empty the numbers are those of the BraTS 2023 challenge: both empty is perfect agreement (overlaps and
surface Dice 1, distances 0), one empty is a complete miss (0, and 374 mm). Sensitivity follows the same rule;
specificity needs voxels outside the reference and is 0 where there are none.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxbrats.data import labels as conventions
from jaxbrats.data.raw.geometry import bounding_box
from jaxbrats.evaluation import lesions, surfaces

OVERLAP_COLUMNS = ("dice", "iou", "sensitivity", "specificity", "volume_ref_mm3", "volume_pred_mm3")
SURFACE_COLUMNS = ("hd95_mm", "asd_mm", "surface_dice")
LESION_COLUMNS = ("lesion_dice", "lesion_hd95_mm", "lesions_tp", "lesions_fp", "lesions_fn")
COLUMNS = OVERLAP_COLUMNS + SURFACE_COLUMNS + LESION_COLUMNS

UNIT_SPACING = (1.0, 1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Voxel counts of a predicted mask against a reference mask."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def dice(self) -> float:
        """2 |P and R| / (|P| + |R|)."""
        return _ratio(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)

    @property
    def iou(self) -> float:
        """|P and R| / |P or R|."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives + self.false_negatives)

    @property
    def sensitivity(self) -> float:
        """|P and R| / |R|; without a reference 1 if nothing is predicted, else 0."""
        if not self.true_positives and not self.false_negatives:
            return float(not self.false_positives)
        return self.true_positives / (self.true_positives + self.false_negatives)

    @property
    def specificity(self) -> float:
        """Share of the voxels outside the reference that the prediction leaves out; 0 where there are none."""
        return self.true_negatives / max(self.true_negatives + self.false_positives, 1)


def confusion(pred: np.ndarray, ref: np.ndarray) -> Confusion:
    """Counts agreement and disagreement.

    Args:
        pred: Predicted mask, bool, any shape.
        ref: Reference mask, the same shape.

    Raises:
        ValueError: the shapes differ.
    """
    if pred.shape != ref.shape:
        raise ValueError(f"a prediction of shape {pred.shape} for a reference of shape {ref.shape}")
    both = int(np.count_nonzero(pred & ref))
    predicted, true = int(np.count_nonzero(pred)), int(np.count_nonzero(ref))
    return Confusion(both, predicted - both, true - both, pred.size - predicted - true + both)


def dice(pred: np.ndarray, ref: np.ndarray) -> float:
    """Dice of two masks."""
    return confusion(pred, ref).dice


def iou(pred: np.ndarray, ref: np.ndarray) -> float:
    """Intersection over union of two masks."""
    return confusion(pred, ref).iou


def sensitivity(pred: np.ndarray, ref: np.ndarray) -> float:
    """Share of the reference mask that is predicted."""
    return confusion(pred, ref).sensitivity


def specificity(pred: np.ndarray, ref: np.ndarray) -> float:
    """Share of the voxels outside the reference mask that are not predicted."""
    return confusion(pred, ref).specificity


def volume_mm3(mask: np.ndarray, spacing_mm: Sequence[float] = UNIT_SPACING) -> float:
    """Volume of a mask (X, Y, Z) in mm^3."""
    return float(np.count_nonzero(mask) * np.prod(spacing_mm))


def hd95_mm(pred: np.ndarray, ref: np.ndarray, spacing_mm: Sequence[float] = UNIT_SPACING) -> float:
    """95th percentile Hausdorff distance in mm, surface elements weighed by area as the challenge does.

    Args:
        pred: Predicted mask (X, Y, Z), bool.
        ref: Reference mask, the same shape.
        spacing_mm: Voxel size along x, y, z.
    """
    return surface_distances(pred, ref, spacing_mm).hd95_mm


def asd_mm(pred: np.ndarray, ref: np.ndarray, spacing_mm: Sequence[float] = UNIT_SPACING) -> float:
    """Average symmetric surface distance in mm; arguments as `hd95_mm`."""
    return surface_distances(pred, ref, spacing_mm).average_mm


def surface_dice(
    pred: np.ndarray, ref: np.ndarray, spacing_mm: Sequence[float] = UNIT_SPACING, tolerance_mm: float = 1.0
) -> float:
    """Share of both surfaces that lies within `tolerance_mm` of the other; arguments as `hd95_mm`."""
    return surface_distances(pred, ref, spacing_mm).dice(tolerance_mm)


def surface_distances(
    pred: np.ndarray, ref: np.ndarray, spacing_mm: Sequence[float] = UNIT_SPACING
) -> surfaces.SurfaceDistances:
    """What `hd95_mm`, `asd_mm` and `surface_dice` are read from; arguments as `hd95_mm`."""
    pred_surface = surfaces.extract_surface(pred, spacing_mm)
    ref_surface = surfaces.extract_surface(ref, spacing_mm)
    return surfaces.compare_surfaces(pred_surface, ref_surface, spacing_mm)


def score_case(
    pred_labels: np.ndarray,
    ref_labels: np.ndarray,
    spacing_mm: Sequence[float] = UNIT_SPACING,
    challenge: str = "GLI",
    tolerance_mm: float = 1.0,
) -> dict[str, dict[str, float]]:
    """Every score of one case.

    Args:
        pred_labels: Predicted labels 0 to 3, (X, Y, Z) integers.
        ref_labels: Reference labels, the same shape.
        spacing_mm: Voxel size along x, y, z.
        challenge: The lesion-wise scores' rules, one of `lesions.CHALLENGES`.
        tolerance_mm: Of the surface Dice.

    Returns:
        For each row of `data.labels.SCORED` (WT, TC, ET, NCR, ED) a number for each of `COLUMNS`.

    Raises:
        ValueError: the shapes differ.
    """
    scores = {}
    for region, pred, ref in _regions(pred_labels, ref_labels):
        distances = surface_distances(pred, ref, spacing_mm)
        lesion = lesions.score_lesions(pred, ref, distances, lesions.CHALLENGES[challenge])
        scores[region] = _overlap(pred, ref, pred_labels.size, spacing_mm) | {
            "hd95_mm": distances.hd95_mm,
            "asd_mm": distances.average_mm,
            "surface_dice": distances.dice(tolerance_mm),
            "lesion_dice": lesion.dice,
            "lesion_hd95_mm": lesion.hd95_mm,
            "lesions_tp": lesion.true_positives,
            "lesions_fp": lesion.false_positives,
            "lesions_fn": lesion.false_negatives,
        }
    return scores


def _regions(pred_labels: np.ndarray, ref_labels: np.ndarray) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Each scored region with its predicted and reference mask, cut to the box that holds all labels of both."""
    if pred_labels.shape != ref_labels.shape:
        raise ValueError(f"a prediction of shape {pred_labels.shape} for a reference of shape {ref_labels.shape}")
    box = bounding_box((pred_labels != 0) | (ref_labels != 0))
    pred, ref = np.ascontiguousarray(pred_labels[box]), np.ascontiguousarray(ref_labels[box])
    return [
        (region, conventions.region_mask(pred, region), conventions.region_mask(ref, region))
        for region in conventions.SCORED
    ]


def _overlap(pred: np.ndarray, ref: np.ndarray, voxels: int, spacing_mm: Sequence[float]) -> dict[str, float]:
    counts = confusion(pred, ref)
    counts = dataclasses.replace(counts, true_negatives=counts.true_negatives + voxels - pred.size)
    return {
        "dice": counts.dice,
        "iou": counts.iou,
        "sensitivity": counts.sensitivity,
        "specificity": counts.specificity,
        "volume_ref_mm3": volume_mm3(ref, spacing_mm),
        "volume_pred_mm3": volume_mm3(pred, spacing_mm),
    }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
