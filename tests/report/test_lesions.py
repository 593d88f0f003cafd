"""The list of lesions: the counts are the score table's, volumes and places are the lesions' own."""

import numpy as np
import pytest

from jaxbrats.data.labels import ED, ET, NCR, REGIONS
from jaxbrats.evaluation import metrics
from jaxbrats.evaluation.lesions import CHALLENGES
from jaxbrats.report.lesions import FALSE_POSITIVE, FOUND, MISSED, TOO_SMALL, find_lesions

GLI = CHALLENGES["GLI"]


def block(labels, corner, size, label):
    labels[tuple(slice(start, start + length) for start, length in zip(corner, size, strict=True))] = label


def test_one_of_each_kind():
    truth, prediction = np.zeros((2, 60, 40, 30), np.uint8)
    block(truth, (5, 5, 5), (6, 6, 6), ED)  # found, one slice of it missing
    block(prediction, (6, 5, 5), (5, 6, 6), ED)
    block(truth, (40, 5, 5), (5, 5, 5), ED)  # missed
    block(truth, (40, 30, 20), (2, 2, 2), ED)  # 8 voxels of 2 mm^3: left out
    block(prediction, (20, 30, 20), (3, 5, 3), ED)  # invented
    lesions = find_lesions(prediction, truth, (1, 1, 2), GLI)
    assert [lesion.kind for lesion in lesions["WT"]] == [MISSED, FALSE_POSITIVE, FOUND, TOO_SMALL]
    missed, invented, found, small = lesions["WT"]
    assert (missed.ref_mm3, missed.pred_mm3, missed.dice, missed.voxel) == (250, 0, 0, (42, 7, 7))
    assert (invented.ref_mm3, invented.pred_mm3, invented.voxel) == (0, 90, (21, 32, 21))
    assert (found.ref_mm3, found.pred_mm3) == (432, 360)
    assert found.dice == pytest.approx(2 * 180 / (216 + 180))
    assert (small.ref_mm3, small.volume_mm3, invented.volume_mm3) == (16, 16, 90)
    assert lesions["TC"] == lesions["ET"] == []


def test_the_place_lies_in_the_lesion_even_where_its_centre_does_not():
    truth = np.zeros((30, 30, 5), np.uint8)
    block(truth, (5, 5, 1), (20, 20, 2), ET)
    block(truth, (6, 6, 1), (18, 18, 2), 0)
    (lesion,) = find_lesions(np.zeros_like(truth), truth, (1, 1, 1), GLI)["ET"]
    assert truth[lesion.voxel] == ET


@pytest.mark.parametrize("seed", range(6))
def test_counts_are_those_of_the_scores(seed):
    rng = np.random.default_rng(seed)
    truth, prediction = np.zeros((2, 40, 36, 30), np.uint8)
    for labels in (truth, prediction):
        for _ in range(9):
            corner = rng.integers(0, 28, 3)
            block(labels, corner, rng.integers(1, 7, 3), rng.choice([NCR, ED, ET]))
    spacing = (1.0, 0.9, 1.5)
    expected = metrics.score_case(prediction, truth, spacing)
    lesions = find_lesions(prediction, truth, spacing, GLI)
    for region in REGIONS:
        counts = [sum(lesion.kind == kind for lesion in lesions[region]) for kind in (FOUND, FALSE_POSITIVE, MISSED)]
        assert counts == [expected[region][column] for column in ("lesions_tp", "lesions_fp", "lesions_fn")]
        errors = [lesion.volume_mm3 for lesion in lesions[region] if lesion.kind in (MISSED, FALSE_POSITIVE)]
        assert errors == sorted(errors, reverse=True)
        scored = [lesion.dice for lesion in lesions[region] if lesion.kind != TOO_SMALL]
        assert np.mean(scored or [1.0]) == pytest.approx(expected[region]["lesion_dice"])
        for lesion in lesions[region]:
            labels = prediction if lesion.kind == FALSE_POSITIVE else truth
            assert labels[lesion.voxel] in REGIONS[region]


def test_no_lesion_at_all():
    nothing = np.zeros((5, 5, 5), np.uint8)
    assert find_lesions(nothing, nothing, (1, 1, 1), GLI) == {"WT": [], "TC": [], "ET": []}
