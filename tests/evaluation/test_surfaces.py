import itertools
import math

import numpy as np
import pytest
from scipy import ndimage, spatial

from jaxbrats.evaluation import surfaces

UNIT = (1.0, 1.0, 1.0)
SQRT2, SQRT3 = math.sqrt(2), math.sqrt(3)


def blobs(rng, shape, smooth=1.5):
    return ndimage.gaussian_filter(rng.random(shape), smooth) > 0.5


def of(mask, spacing=UNIT):
    return surfaces.extract_surface(mask, spacing)


def corner_code(*corners):
    return sum(1 << (4 * x + 2 * y + z) for x, y, z in corners)


@pytest.mark.parametrize(
    ("corners", "area"),
    [
        ([(0, 0, 0)], SQRT3 / 8),
        ([(0, 0, 0), (0, 0, 1)], SQRT2 / 2),
        ([(0, 0, 0), (0, 1, 1)], SQRT3 / 4),
        ([(0, 0, 0), (1, 1, 1)], SQRT3 / 4),
        ([(0, 0, 0), (0, 0, 1), (0, 1, 0)], 1 / 2 + 3 * SQRT3 / 8),
        ([(0, 0, 0), (0, 0, 1), (1, 1, 0)], SQRT2 / 2 + SQRT3 / 8),
        ([(0, 0, 0), (0, 1, 1), (1, 0, 1)], 3 * SQRT3 / 8),
        ([(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)], 1.0),
        ([(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)], 6 * SQRT3 / 8),
        ([(0, 0, 0), (0, 0, 1), (0, 1, 1), (1, 0, 0)], SQRT2 / 2 + SQRT3 / 2),
        ([(0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 0)], 1 / 2 + SQRT3 / 2),
        ([(0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1)], SQRT2),
        ([(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0)], SQRT3 / 2),
    ],
)
def test_area_of_each_configuration_in_every_position(corners, area):
    areas = surfaces.element_areas(UNIT)
    for axes in itertools.permutations(range(3)):
        for mirror in itertools.product((0, 1), repeat=3):
            turned = [tuple(corner[axis] ^ mirror[axis] for axis in axes) for corner in corners]
            assert areas[corner_code(*turned)] == pytest.approx(area, abs=1e-12)
            assert areas[255 - corner_code(*turned)] == pytest.approx(area, abs=1e-12)


def test_nothing_and_everything_have_no_area_and_all_else_has():
    areas = surfaces.element_areas(UNIT)
    assert areas[0] == areas[255] == 0
    assert (areas[1:255] > 0).all()


def test_area_of_a_box_is_that_of_its_faces_edges_and_corners():
    mask = np.zeros((9, 8, 9), bool)
    mask[2:6, 3:6, 1:8] = True  # 4 x 3 x 7 voxels of 0.5 x 2 x 3 mm
    x, y, z = 0.5, 2.0, 3.0
    # Between the corners of the box lie 3, 2 and 6 elements along its edges; edges and corners are cut off halfway.
    faces = 2 * (2 * 6 * y * z + 3 * 6 * x * z + 3 * 2 * x * y)
    edges = 4 * (3 * x * math.hypot(y, z) + 2 * y * math.hypot(x, z) + 6 * z * math.hypot(x, y)) / 2
    corners = 8 * math.sqrt((x * y) ** 2 + (x * z) ** 2 + (y * z) ** 2) / 8
    assert of(mask, (x, y, z)).areas.sum() == pytest.approx(faces + edges + corners, rel=1e-12)


def test_one_voxel_has_its_eight_corners_and_knows_its_voxel():
    mask = np.zeros((4, 5, 6), bool)
    mask[1, 2, 3] = True
    surface = of(mask)
    assert sorted(map(tuple, surface.corners.tolist())) == sorted(itertools.product((1, 2), (2, 3), (3, 4)))
    assert (surface.voxels == (1, 2, 3)).all()
    assert surface.areas.sum() == pytest.approx(SQRT3)


def test_the_border_of_the_array_is_a_surface_whatever_the_memory_order():
    full = of(np.ones((3, 4, 5), bool))
    inside = np.zeros((5, 6, 7), bool)
    inside[1:4, 1:5, 1:6] = True
    assert full.areas.sum() == pytest.approx(of(inside).areas.sum())
    mask = blobs(np.random.default_rng(0), (7, 6, 5))
    np.testing.assert_array_equal(of(mask).corners, of(np.asfortranarray(mask)).corners)


def test_voxels_lie_inside_the_mask_and_touch_their_element():
    mask = blobs(np.random.default_rng(1), (9, 10, 11), smooth=1)
    surface = of(mask)
    assert mask[tuple(surface.voxels.T)].all()
    # Corner c is shared by voxels c - 1 and c.
    assert set(np.unique(surface.corners - 1 - surface.voxels)) <= {0, -1}


@pytest.mark.parametrize("spacing", [UNIT, (0.9375, 0.9375, 1.5), (3.0, 0.7, 1.3)])
@pytest.mark.parametrize("way", ["tree", "transform"])
def test_nearest_is_the_nearest_by_either_way(way, spacing, monkeypatch):
    rng = np.random.default_rng(2)
    size, count = (60, 12) if way == "tree" else (6, 60)
    corners = rng.integers(0, size, (count, 3)).astype(np.int32)
    targets = np.unique(rng.integers(0, size, (count, 3)), axis=0).astype(np.int32)
    targets[0] = corners[0]
    targets = np.unique(targets, axis=0)
    forbidden = (ndimage, "distance_transform_edt") if way == "tree" else (spatial, "KDTree")
    monkeypatch.setattr(*forbidden, None)
    nearest = surfaces.find_nearest(corners, targets, spacing)
    all_mm = spatial.distance.cdist(corners * spacing, targets * spacing)
    np.testing.assert_allclose(nearest.mm, all_mm.min(axis=1), atol=1e-9)
    np.testing.assert_allclose(all_mm[np.arange(count), nearest.element], all_mm.min(axis=1), atol=1e-9)
    assert (nearest.mm == 0).any()


def test_distances_between_parts_are_those_of_the_parts_alone():
    rng = np.random.default_rng(3)
    for _ in range(20):
        pred, ref = (of(blobs(rng, (12, 13, 14))) for _ in range(2))
        whole = surfaces.compare_surfaces(pred, ref, UNIT)
        pred_part = np.flatnonzero(rng.random(len(pred)) < 0.3)
        ref_part = np.flatnonzero(rng.random(len(ref)) < 0.3)
        part = whole.between(pred_part, ref_part)
        alone = surfaces.compare_surfaces(pred[pred_part], ref[ref_part], UNIT)
        np.testing.assert_allclose(part.to_ref.mm, alone.to_ref.mm, atol=1e-12)
        np.testing.assert_allclose(part.to_pred.mm, alone.to_pred.mm, atol=1e-12)
        assert part.hd95_mm == alone.hd95_mm
        assert whole.between(pred_part, ref_part[:0]).hd95_mm == surfaces.MISSING_MM


def test_the_percentile_is_weighed_by_area():
    # 19 elements of area 1 at 0 mm and one of area 1 at 8 mm: 95 % of the area lies at 0.
    distances, areas = np.array([8.0, *[0.0] * 19]), np.ones(20)
    assert surfaces._percentile(distances, areas, 95) == 0
    areas[0] = 1.01
    assert surfaces._percentile(distances, areas, 95) == 8


@pytest.mark.parametrize("spacing", [UNIT, (0.7, 1.3, 2.0), (2.0, 2.0, 2.0)])
def test_equal_to_the_surface_distance_package(spacing):
    package = pytest.importorskip("surface_distance")
    rng = np.random.default_rng(4)
    for number in range(25):
        shape = rng.integers(2, 14, 3)
        pred, ref = (blobs(rng, shape) if number % 2 else rng.random(shape) < 0.15 for _ in range(2))
        if not pred.any() or not ref.any():
            continue
        theirs = package.compute_surface_distances(ref, pred, spacing)
        ours = surfaces.compare_surfaces(of(pred, spacing), of(ref, spacing), spacing)
        assert ours.hd95_mm == pytest.approx(package.compute_robust_hausdorff(theirs, 95), abs=1e-9)
        assert ours.dice(1.0) == pytest.approx(package.compute_surface_dice_at_tolerance(theirs, 1.0), abs=1e-9)
        means = package.compute_average_surface_distance(theirs)
        areas = theirs["surfel_areas_gt"].sum(), theirs["surfel_areas_pred"].sum()
        assert ours.average_mm == pytest.approx(np.dot(means, areas) / sum(areas), abs=1e-9)
