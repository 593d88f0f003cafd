import numpy as np
import pytest
from nifti_files import random_labels

from jaxbrats.data.labels import SCORED
from jaxbrats.evaluation import metrics

SHAPE = (5, 6, 7)


def box(*ranges, shape=SHAPE):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*limits) for limits in ranges)] = True
    return mask


EMPTY = np.zeros(SHAPE, bool)
ONE = box((1, 2), (2, 3), (3, 4))


def test_overlap_by_hand():
    pred = box((0, 2), (0, 3), (0, 4))  # 24 voxels
    ref = box((1, 3), (0, 3), (0, 5))  # 30 voxels, 12 of them shared, of 210
    assert metrics.confusion(pred, ref) == metrics.Confusion(12, 12, 18, 168)
    assert metrics.dice(pred, ref) == pytest.approx(24 / 54)
    assert metrics.iou(pred, ref) == pytest.approx(12 / 42)
    assert metrics.sensitivity(pred, ref) == pytest.approx(12 / 30)
    assert metrics.specificity(pred, ref) == pytest.approx(168 / 180)
    assert metrics.volume_mm3(pred, (0.5, 2, 3)) == pytest.approx(24 * 3)


@pytest.mark.parametrize(
    ("pred", "ref", "overlap", "distance", "sensitivity"),
    [(EMPTY, EMPTY, 1, 0, 1), (ONE, EMPTY, 0, 374, 0), (EMPTY, ONE, 0, 374, 0), (ONE, ONE, 1, 0, 1)],
)
def test_empty_masks_score_as_in_the_challenge(pred, ref, overlap, distance, sensitivity):
    assert metrics.dice(pred, ref) == metrics.iou(pred, ref) == metrics.surface_dice(pred, ref) == overlap
    assert metrics.hd95_mm(pred, ref) == metrics.asd_mm(pred, ref) == distance
    assert metrics.sensitivity(pred, ref) == sensitivity


def test_specificity_of_full_and_empty_references():
    assert metrics.specificity(ONE, EMPTY) == pytest.approx(209 / 210)
    assert metrics.specificity(EMPTY, EMPTY) == 1
    assert metrics.specificity(~EMPTY, ~EMPTY) == 0


@pytest.mark.parametrize(("axis", "step"), [(0, 0.5), (1, 2.0), (2, 3.0)])
def test_surface_scores_of_neighbouring_voxels_by_hand(axis, step):
    # Two voxels side by side share 4 of their 8 corners; the others are one step away, and all weigh the same.
    spacing = (0.5, 2.0, 3.0)
    other = np.roll(ONE, 1, axis)
    assert metrics.hd95_mm(ONE, other, spacing) == pytest.approx(step)
    assert metrics.asd_mm(ONE, other, spacing) == pytest.approx(step / 2)
    assert metrics.surface_dice(ONE, other, spacing, tolerance_mm=step * 0.99) == pytest.approx(0.5)
    assert metrics.surface_dice(ONE, other, spacing, tolerance_mm=step) == 1


def test_hd95_is_the_worse_direction_and_leaves_out_the_last_five_percent():
    ref = box((5, 15), (5, 15), (5, 15), shape=(20, 20, 40))
    spike = ref | box((9, 10), (9, 10), (15, 18), shape=ref.shape)
    slab = ref | box((5, 15), (5, 15), (15, 18), shape=ref.shape)
    # A spike of one voxel, 3 long, adds 4 corners at 1, 2 and 3 mm each, below 5 % of the area of a cube of 10.
    assert metrics.hd95_mm(spike, ref) == 0
    assert metrics.hd95_mm(slab, ref) == metrics.hd95_mm(ref, slab) == 3


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"\(5, 6, 7\).*\(5, 6, 8\)"):
        metrics.dice(EMPTY, np.zeros((5, 6, 8), bool))
    with pytest.raises(ValueError, match=r"\(5, 6, 7\).*\(5, 6, 8\)"):
        metrics.score_case(np.zeros(SHAPE, np.uint8), np.zeros((5, 6, 8), np.uint8))


@pytest.mark.parametrize("order", ["C", "F"])
def test_score_case_is_the_single_scores_of_the_whole_volumes(order):
    pred, ref, spacing = random_labels(0).copy(order), random_labels(1).copy(order), (1.0, 0.9, 2.5)
    scores = metrics.score_case(pred, ref, spacing, tolerance_mm=0.95)
    assert list(scores) == ["WT", "TC", "ET", "NCR", "ED"]
    for region, labels in SCORED.items():
        masks = np.isin(pred, labels), np.isin(ref, labels)
        assert tuple(scores[region]) == metrics.COLUMNS
        assert scores[region]["dice"] == metrics.dice(*masks)
        assert scores[region]["iou"] == metrics.iou(*masks)
        assert scores[region]["sensitivity"] == metrics.sensitivity(*masks)
        assert scores[region]["specificity"] == metrics.specificity(*masks)
        assert scores[region]["volume_pred_mm3"] == metrics.volume_mm3(masks[0], spacing)
        assert scores[region]["volume_ref_mm3"] == metrics.volume_mm3(masks[1], spacing)
        assert scores[region]["hd95_mm"] == pytest.approx(metrics.hd95_mm(*masks, spacing), abs=1e-12)
        assert scores[region]["asd_mm"] == pytest.approx(metrics.asd_mm(*masks, spacing), abs=1e-12)
        assert scores[region]["surface_dice"] == pytest.approx(metrics.surface_dice(*masks, spacing, 0.95))


def test_nothing_anywhere_is_perfect():
    nothing = np.zeros(SHAPE, np.uint8)
    for numbers in metrics.score_case(nothing, nothing).values():
        assert numbers == {
            "dice": 1,
            "iou": 1,
            "sensitivity": 1,
            "specificity": 1,
            "volume_ref_mm3": 0,
            "volume_pred_mm3": 0,
            "hd95_mm": 0,
            "asd_mm": 0,
            "surface_dice": 1,
            "lesion_dice": 1,
            "lesion_hd95_mm": 0,
            "lesions_tp": 0,
            "lesions_fp": 0,
            "lesions_fn": 0,
        }


def test_the_challenge_decides_which_lesions_count():
    ref = np.zeros((20, 20, 20), np.uint8)
    ref[2:5, 2:5, 2:5] = 3  # 27 mm^3, missed
    by_challenge = {
        challenge: metrics.score_case(np.zeros_like(ref), ref, challenge=challenge)["ET"]
        for challenge in ("GLI", "SSA", "PED", "MEN", "MET")
    }
    assert [numbers["lesions_fn"] for numbers in by_challenge.values()] == [0, 0, 0, 0, 1]
    assert [numbers["lesion_dice"] for numbers in by_challenge.values()] == [1, 1, 1, 1, 0]
