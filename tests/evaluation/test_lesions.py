import numpy as np
import pytest
from scipy import ndimage, spatial

from jaxbrats.evaluation import lesions, metrics, surfaces

GLI, MEN, MET = (lesions.CHALLENGES[name] for name in ("GLI", "MEN", "MET"))
NEIGHBOURS_18 = ndimage.generate_binary_structure(3, 2)
NEIGHBOURS_26 = np.ones((3, 3, 3))


def score(pred, ref, challenge=GLI, spacing=(1.0, 1.0, 1.0)):
    return lesions.score_lesions(pred, ref, metrics.surface_distances(pred, ref, spacing), challenge)


def cubes(*corners, side=4, shape=(40, 14, 14)):
    """Cubes of 64 voxels."""
    mask = np.zeros(shape, bool)
    for corner in corners:
        mask[tuple(slice(start, start + side) for start in corner)] = True
    return mask


EMPTY = cubes()


@pytest.mark.parametrize("times", [0, 1, 3])
def test_dilation_is_that_by_18_neighbours(times):
    for seed in range(5):
        mask = np.random.default_rng(seed).random((9, 10, 11)) < 0.03
        expected = ndimage.binary_dilation(mask, NEIGHBOURS_18, iterations=times) if times else mask
        np.testing.assert_array_equal(lesions.dilate(mask, times), expected)


@pytest.mark.parametrize(("challenge", "gap"), [(GLI, 6), (MEN, 2), (MET, 2)])
def test_reference_lesions_closer_than_twice_the_dilation_are_one(challenge, gap):
    for distance, count in ((gap, 1), (gap + 1, 2)):
        ref = cubes((2, 5, 5), (6 + distance, 5, 5))
        missed = score(EMPTY, ref, challenge)
        assert (missed.true_positives, missed.false_positives, missed.false_negatives) == (0, 0, count)
        assert (missed.dice, missed.hd95_mm) == (0, 374)


def test_means_over_found_missed_and_invented_lesions():
    ref = cubes((2, 5, 5), (20, 5, 5))
    pred = cubes((3, 5, 5), (34, 5, 5))  # the first moved by a voxel, the second missed, a third invented
    found = score(pred, ref)
    assert (found.true_positives, found.false_positives, found.false_negatives) == (1, 1, 1)
    assert found.dice == pytest.approx((2 * 48 / 128 + 0 + 0) / 3)
    # Moved by one voxel, each cube has a quarter of its surface one step from the other.
    assert found.hd95_mm == pytest.approx((1 + 374 + 374) / 3)


def test_nothing_to_find():
    assert score(EMPTY, EMPTY) == lesions.LesionScores(1, 0, 0, 0, 0)
    assert score(cubes((2, 5, 5)), EMPTY) == lesions.LesionScores(0, 374, 0, 1, 0)


def test_small_lesions_are_left_out_with_the_components_that_meet_them():
    large, small = cubes((2, 5, 5)), np.zeros_like(EMPTY)
    small[25:30, 5:10, 5:7] = True  # 50 voxels
    met = score(large | small, large | small)
    assert met == lesions.LesionScores(1, 0, 1, 0, 0)
    assert score(large, large | small) == lesions.LesionScores(1, 0, 1, 0, 0)
    small[30, 5, 5] = True  # 51
    assert score(large, large | small) == lesions.LesionScores(0.5, 187, 1, 0, 1)
    # The volume counts, not the voxels.
    assert score(large, large | small, spacing=(1, 1, 0.9)).false_negatives == 0


def test_false_positives_count_whatever_their_size():
    ref, pred = cubes((2, 5, 5)), cubes((2, 5, 5))
    pred[30, 5, 5] = True
    assert score(pred, ref) == lesions.LesionScores(0.5, 187, 1, 1, 0)


def test_a_component_near_a_lesion_finds_it_without_overlap():
    ref, pred = cubes((2, 5, 5)), cubes((8, 5, 5))  # 2 voxels between
    near = score(pred, ref)
    assert (near.true_positives, near.false_positives, near.false_negatives, near.dice) == (1, 0, 0, 0)
    assert near.hd95_mm == 6
    far = score(cubes((9, 5, 5)), ref)  # 3 voxels between: outside the dilation by 3
    assert far == lesions.LesionScores(0, 374, 0, 1, 1)


def test_a_component_counts_whole_for_every_lesion_it_meets():
    ref = cubes((2, 5, 5), (20, 5, 5))
    bridge = ref.copy()
    bridge[2:24, 5:9, 5:9] = True  # 352 voxels, one component
    both = score(bridge, ref)
    assert (both.true_positives, both.false_positives, both.false_negatives) == (2, 0, 0)
    assert both.dice == pytest.approx(2 * 64 / (352 + 64))


def test_voxels_that_share_a_corner_are_one_component():
    ref = cubes((2, 5, 5))
    assert score(cubes((2, 5, 5), (6, 9, 9)), ref).false_positives == 0
    # Seven voxels away, so that no dilation reaches it, a chain of corners still ties a cube to the lesion.
    chain = cubes((2, 5, 5), (13, 5, 5))
    chain[range(6, 13), [4, 5] * 3 + [4], [4, 5] * 3 + [4]] = True
    tied = score(chain, ref)
    assert (tied.true_positives, tied.false_positives, tied.dice) == (1, 0, pytest.approx(2 * 64 / (128 + 7 + 64)))
    chain[9] = False
    assert score(chain, ref).false_positives == 1


def step_by_step(pred, ref, spacing, challenge):
    """The challenge's procedure on whole volumes, HD95 from all pairs of surface elements."""
    components, count = ndimage.label(pred, NEIGHBOURS_26)
    reach, lesion_count = ndimage.label(
        ndimage.binary_dilation(ref, NEIGHBOURS_18, iterations=challenge.dilation), NEIGHBOURS_26
    )
    dices, hd95s, met, found, missed = [], [], set(), 0, 0
    for number in range(1, lesion_count + 1):
        lesion = ref & (reach == number)
        grown = ndimage.binary_dilation(lesion, NEIGHBOURS_18, iterations=challenge.dilation)
        here = set(np.unique(components[grown]).tolist()) - {0}
        met |= here
        if lesion.sum() * np.prod(spacing) <= challenge.ignored_mm3:
            continue
        matched = np.isin(components, list(here))
        dices.append(2 * (matched & lesion).sum() / (matched.sum() + lesion.sum()))
        hd95s.append(all_pairs_hd95(matched, lesion, spacing) if here else 374)
        found, missed = found + bool(here), missed + (not here)
    invented = count - len(met)
    scored = len(dices) + invented
    dice = sum(dices) / scored if scored else 1
    hd95 = (sum(hd95s) + 374 * invented) / scored if scored else 0
    return dice, hd95, found, invented, missed


def all_pairs_hd95(pred, ref, spacing):
    pred, ref = (surfaces.extract_surface(mask, spacing) for mask in (pred, ref))
    mm = spatial.distance.cdist(pred.corners * spacing, ref.corners * spacing)
    return max(
        surfaces._percentile(mm.min(axis=1).round(9), pred.areas, 95),
        surfaces._percentile(mm.min(axis=0).round(9), ref.areas, 95),
    )


@pytest.mark.parametrize("name", list(lesions.CHALLENGES))
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.75, 1.25, 2.0)])
def test_equal_to_the_procedure_step_by_step(name, spacing):
    rng = np.random.default_rng(len(name) + int(spacing[2]))
    totals = np.zeros(3, int)
    for number in range(8):
        shape = rng.integers(15, 28, 3)
        shared = ndimage.gaussian_filter(rng.standard_normal(shape), 1.6)
        own = (ndimage.gaussian_filter(rng.standard_normal(shape), 1.2) for _ in range(2))
        pred, ref = (field / field.std() > 1.3 + number / 20 for field in (shared + 0.6 * mine for mine in own))
        challenge = lesions.CHALLENGES[name]
        ours = score(pred, ref, challenge, spacing)
        dice, hd95, *counts = step_by_step(pred, ref, spacing, challenge)
        assert [ours.true_positives, ours.false_positives, ours.false_negatives] == counts
        assert ours.dice == pytest.approx(dice, abs=1e-9)
        assert ours.hd95_mm == pytest.approx(hd95, abs=1e-6)
        totals += counts
    assert totals[0] and totals[1]
