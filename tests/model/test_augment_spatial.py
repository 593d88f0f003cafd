"""Mirroring and resampling: labels follow images, right angles are exact."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxbrats.config import Augment
from jaxbrats.model.augment.fields import smooth_field
from jaxbrats.model.augment.spatial import (
    affine_matrix,
    change_space,
    mirror,
    sample,
    sample_labels,
    source_coordinates,
)

STILL = (0.0, 0.0, 0.0)


def labels_of(shape=(9, 9, 9), seed=0):
    return np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint8)


def image_of(labels):
    return np.stack([labels, 2 * labels], -1).astype(np.float32)


@jax.jit
def resample(image, labels, angles, scale):
    coordinates = source_coordinates(labels.shape, affine_matrix(angles, scale), STILL)
    return sample(image, labels, coordinates)


@pytest.mark.parametrize("axes", [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
def test_mirroring_is_exact(axes):
    labels = labels_of((4, 5, 6))
    marked = jnp.array([axis in axes for axis in range(3)])
    image, mirrored = jax.jit(mirror)(image_of(labels), labels, marked)
    np.testing.assert_array_equal(mirrored, np.flip(labels, axes))
    np.testing.assert_array_equal(image, image_of(np.flip(labels, axes)))


def test_each_axis_is_mirrored_as_often_as_the_probability_says():
    labels = np.zeros((2, 2, 2), np.uint8)
    labels[0, 0, 0] = 1  # goes to the corner that tells the axes
    change = jax.jit(functools.partial(change_space, Augment(mirror=0.25)))
    keys = jax.random.split(jax.random.key(0), 400)
    corners = np.array([np.argwhere(change(key, image_of(labels), labels)[1] == 1)[0] for key in keys])
    assert np.abs(corners.mean(0) - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / 400)
    assert np.abs(np.corrcoef(corners.T) - np.eye(3)).max() < 0.2


@pytest.mark.parametrize(("axis", "plane"), [(0, (1, 2)), (1, (2, 0)), (2, (0, 1))])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_right_angles_are_exact(axis, plane, turns):
    labels = labels_of()
    angles = np.zeros(3, np.float32)
    angles[axis] = np.deg2rad(-90 * turns)  # the coordinates turn, and the content the other way
    image, turned = resample(image_of(labels), labels, angles, 1.0)
    expected = np.rot90(labels, turns, plane)
    np.testing.assert_array_equal(turned, expected)
    np.testing.assert_allclose(image, image_of(expected), atol=1e-4)


def test_a_scale_of_two_halves_the_size_and_fills_with_background():
    labels = np.full((9, 9, 9), 2, np.uint8)
    image, scaled = resample(image_of(labels), labels, np.zeros(3, np.float32), 2.0)
    inside = np.zeros((9, 9, 9), bool)
    inside[2:7, 2:7, 2:7] = True
    np.testing.assert_array_equal(scaled, 2 * inside)
    np.testing.assert_allclose(image, image_of(2 * inside), atol=1e-6)


@pytest.mark.parametrize("shape", [(9, 9, 9), (8, 12, 10)])
def test_values_are_those_of_scipy(shape):
    labels, angles, scale = labels_of(shape), np.array([0.3, -0.2, 0.5], np.float32), 0.8
    image, turned = resample(image_of(labels), labels, angles, scale)
    matrix = np.asarray(affine_matrix(angles, scale), np.float64)
    np.testing.assert_allclose(matrix @ matrix.T, 0.64 * np.eye(3), atol=1e-6)
    centre = (np.array(shape) - 1) / 2
    options = {"offset": centre - matrix @ centre, "mode": "grid-constant"}
    np.testing.assert_allclose(
        image[..., 0], ndimage.affine_transform(labels.astype(float), matrix, order=1, **options), atol=1e-4
    )
    masks = [(labels == label).astype(float) for label in (1, 2, 3)]
    parts = [ndimage.affine_transform(mask, matrix, order=1, **options) for mask in masks]
    parts = np.stack([1 - np.sum(parts, 0), *parts])  # of the background first, as outside the volume
    most, next_to_most = np.sort(parts, 0)[:-3:-1]
    clear = most - next_to_most > 3 / 255
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(np.asarray(turned)[clear], parts.argmax(0)[clear])


def test_of_labels_that_cover_as_much_the_lowest_counts():
    labels = np.array([0, 2, 1, 3, 3], np.uint8).reshape(5, 1, 1)
    between = np.array([0.5, 1.5, 2.5, 3.5, 4.5], np.float32).reshape(5, 1, 1)  # of two neighbours; the last, outside
    found = sample_labels(labels, (between, np.zeros_like(between), np.zeros_like(between)))
    assert found.ravel().tolist() == [0, 1, 1, 3, 0]


def test_labels_follow_the_image():
    """A smooth image thresholded after resampling is its thresholded labels resampled, but for voxels at the edge."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 24)] * 3, indexing="ij"))
    ball = np.exp(-3 * ((grid - 0.15) ** 2).sum(0)).astype(np.float32)
    labels = (ball > 0.5).astype(np.uint8)
    change = jax.jit(functools.partial(change_space, Augment(1.0, rotation=1.0, scaling=1.0, elastic=1.0)))
    for seed in range(5):
        image, changed = change(jax.random.key(seed), ball[..., None], labels)
        thresholded = np.asarray(image)[..., 0] > 0.5
        assert changed.sum() > 100 and not np.array_equal(changed, labels)
        edge = ndimage.binary_dilation(thresholded) ^ ndimage.binary_erosion(thresholded)
        assert (np.asarray(changed) != thresholded)[~edge].mean() < 2e-4


def test_the_elastic_deformation_never_folds():
    """The Jacobian of coordinates displaced by a tenth of the size is positive everywhere."""
    for seed in range(5):
        keys = jax.random.split(jax.random.key(seed), 3)
        shifts = [0.1 * 20 * smooth_field(key, (20, 20, 20)) for key in keys]
        coordinates = source_coordinates((20, 20, 20), jnp.eye(3), shifts)
        jacobian = np.stack([np.stack(np.gradient(np.asarray(at))) for at in coordinates])
        assert np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1))).min() > 0
        assert max(np.abs(shift).max() for shift in shifts) <= 2.0 and np.std(shifts) > 0.3


def test_what_is_all_of_one_label_stays_so():
    soft = np.zeros((20, 20, 20, 3), np.uint8)
    soft[4:16, 4:16, 4:16, 1] = 255
    change = jax.jit(functools.partial(change_space, Augment(rotation=1.0, scaling=1.0)))
    for seed in range(3):
        image, parts = change(jax.random.key(seed), soft.astype(np.float32), soft)
        inside = np.asarray(image) > 254.999  # the weights of an interpolation sum to 1 but for their last digits
        assert inside.sum() > 200 and (np.asarray(parts)[inside] == 255).all()


def test_soft_labels_are_interpolated_and_no_voxel_has_more_than_its_whole():
    labels = labels_of((12, 12, 12))
    soft = (255 * (labels[..., None] == np.array([1, 2, 3]))).astype(np.uint8)
    settings = Augment(rotation=1.0, scaling=1.0, mirror=0.5)
    change = jax.jit(functools.partial(change_space, settings))
    for seed in range(3):
        image, hard = change(jax.random.key(seed), soft.astype(np.float32), labels)
        same, parts = change(jax.random.key(seed), soft.astype(np.float32), soft)
        assert parts.dtype == jnp.uint8 and parts.sum(-1, dtype=int).max() <= 255
        np.testing.assert_allclose(same, image, atol=1e-3)
        np.testing.assert_allclose(parts, image, atol=1.001)  # both are interpolated; parts are cut off to whole ones
        sure = np.asarray(parts).max(-1) > 200
        np.testing.assert_array_equal(np.asarray(parts).argmax(-1)[sure] + 1, np.asarray(hard)[sure])
