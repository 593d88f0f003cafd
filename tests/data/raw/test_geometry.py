import itertools
import json

import jax
import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxbrats.data.raw import geometry
from jaxbrats.data.raw.geometry import Frame
from jaxbrats.system.errors import InputError

ORIENTATIONS = [
    "".join(codes) for axes in itertools.permutations(("RL", "AP", "SI")) for codes in itertools.product(*axes)
]
# Left, posterior, superior, with other voxel sizes along each axis.
AFFINE = np.array([[-1.0, 0, 0, 90], [0, -1.5, 0, 126], [0, 0, 2, -72], [0, 0, 0, 1]])


def oblique(degrees=20):
    turn = np.deg2rad(degrees)
    affine = AFFINE.copy()
    affine[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]] @ affine[:2, :2]
    return affine


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_turned_voxel_stays_in_its_place(orientation):
    array = np.arange(5 * 6 * 7 * 2).reshape(5, 6, 7, 2)
    for affine in (AFFINE, oblique()):
        turned = geometry.reorient(array, affine, orientation)
        moved = geometry.reoriented_affine(affine, array.shape[:3], orientation)
        assert "".join(nib.aff2axcodes(moved)) == orientation
        place = nib.affines.apply_affine(affine, (1, 4, 2))
        there = np.rint(nib.affines.apply_affine(np.linalg.inv(moved), place)).astype(int)
        np.testing.assert_array_equal(turned[tuple(there)], array[1, 4, 2])
        np.testing.assert_array_equal(geometry.undo_reorient(turned, affine, orientation), array)
        assert np.shares_memory(turned, array)


def test_the_frame_of_a_volume():
    assert geometry.frame_of(AFFINE) == Frame("LPS", (1.0, 1.5, 2.0))
    assert geometry.frame_of(oblique()).orientation == "LPS"
    assert geometry.frame_of(oblique()).spacing_mm == pytest.approx((1, 1.5, 2))
    flat = AFFINE.copy()
    flat[:, 2] = 0
    with pytest.raises(InputError, match=r"three independent axes, found \[-1 0 0 90; 0 -1.5 0 126; 0 0 0 -72\]"):
        geometry.frame_of(flat)


def test_the_common_frame_is_that_of_most():
    ras = np.diag([1.0, 1.0, 1.0, 1.0])
    thick = AFFINE @ np.diag([1, 1, 3, 1])
    assert geometry.common_frame(map(geometry.frame_of, [AFFINE, ras, AFFINE, thick])) == Frame("LPS", (1.0, 1.5, 2.0))
    assert geometry.common_frame(map(geometry.frame_of, [thick, AFFINE])).spacing_mm == (1.0, 1.5, 2.0)
    assert geometry.common_frame([Frame("RAS", (1, 1, 1))], (1, 2, 3)) == Frame("RAS", (1, 2, 3))
    assert geometry.common_frame([]) is None


def test_frames_survive_json_and_are_compared_to_a_percent():
    frame = Frame("RAS", (0.5, 1.0, 2.0))
    assert Frame.from_dict(json.loads(json.dumps(frame.to_dict()))) == frame
    assert frame.is_like(Frame("RAS", (0.504, 1.0, 2.0)))
    assert not frame.is_like(Frame("RAS", (0.51, 1.0, 2.0)))
    assert not frame.is_like(Frame("LAS", (0.5, 1.0, 2.0)))


@pytest.mark.parametrize(
    "bad",
    [
        None,
        {"orientation": "RAS"},
        {"orientation": "RRS", "spacing_mm": [1, 1, 1]},
        {"orientation": "RA", "spacing_mm": [1, 1, 1]},
        {"orientation": "XYZ", "spacing_mm": [1, 1, 1]},
        {"orientation": "RAS", "spacing_mm": [1, 1]},
        {"orientation": "RAS", "spacing_mm": [1, 1, 0]},
        {"orientation": "RAS", "spacing_mm": [1, 1, "wide"]},
    ],
)
def test_no_frame(bad):
    with pytest.raises(InputError, match="expected an orientation"):
        Frame.from_dict(bad)


@pytest.mark.parametrize("shape", [(5, 6, 7), (10, 3, 7), (7, 13, 4), (1, 2, 9)])
def test_resampling_is_jax_s(shape):
    array = np.random.default_rng(0).random((5, 6, 7, 2), np.float32)
    result = geometry.resample(array, shape)
    expected = jax.image.resize(array, (*shape, 2), "linear", antialias=True)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)


def test_halving_is_a_triangle_over_four_voxels_and_doubling_goes_between_two():
    np.testing.assert_allclose(
        geometry.interpolation_weights(6, 3)[1], np.array([0, 1, 3, 3, 1, 0]) / 8, rtol=0, atol=1e-7
    )
    np.testing.assert_allclose(
        geometry.interpolation_weights(3, 6)[1:3], [[0.75, 0.25, 0], [0.25, 0.75, 0]], rtol=0, atol=1e-7
    )
    np.testing.assert_allclose(geometry.interpolation_weights(3, 6)[0], [1, 0, 0], rtol=0, atol=1e-7)


sizes = st.integers(1, 12)


@given(st.tuples(sizes, sizes, sizes), st.tuples(sizes, sizes, sizes))
def test_resampled_probabilities_are_probabilities(old, new):
    array = np.random.default_rng(0).dirichlet(np.ones(4), old).astype(np.float32)
    result = geometry.resample(array, new)
    assert result.shape == (*new, 4)
    assert result.min() >= 0
    np.testing.assert_allclose(result.sum(-1), 1, rtol=0, atol=1e-5)


def test_a_smooth_volume_survives_there_and_back():
    x, y, z = np.meshgrid(*(np.linspace(0, 1, size) for size in (24, 20, 28)), indexing="ij")
    array = (np.sin(3 * x) + np.cos(2 * y) + z**2).astype(np.float32)
    back = geometry.resample(geometry.resample(array, (48, 30, 28)), array.shape)
    # Beyond the outermost centres a voxel keeps its neighbour's value.
    assert np.abs(back - array).max() < 0.06
    assert np.abs(back - array)[2:-2, 2:-2].max() < 0.01


def test_nothing_to_resample_costs_nothing():
    array = np.zeros((3, 4, 5), np.float32)
    assert geometry.resample(array, (3, 4, 5)) is array


def test_resampled_shapes_keep_the_extent():
    assert geometry.resampled_shape((120, 120, 78), (2, 2, 2), (1, 1, 1)) == (240, 240, 156)
    assert geometry.resampled_shape((240, 100, 1), (1, 0.5, 1), (2, 1, 5)) == (120, 50, 1)


@pytest.mark.parametrize("order", "CF")
def test_the_box_of_a_mask(order):
    mask = np.zeros((6, 7, 8), bool, order=order)
    mask[2, 3, 1] = mask[4, 3, 6] = True
    assert geometry.bounding_box(mask) == (slice(2, 5), slice(3, 4), slice(1, 7))
    assert geometry.bounding_box(mask[::-1]) == (slice(1, 4), slice(3, 4), slice(1, 7))
    assert geometry.bounding_box(np.zeros((2, 3, 4), bool)) == (slice(0, 2), slice(0, 3), slice(0, 4))
