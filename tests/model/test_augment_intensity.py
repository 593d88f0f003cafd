"""Each change of a channel's values against numbers made by hand, with NumPy or with SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from jaxbrats.model import random
from jaxbrats.model.augment import intensity
from jaxbrats.model.augment.fields import smooth_field

KEY = jax.random.key(3)


def volume_of(shape=(12, 10, 8)):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def apply(name, volume, strength):
    return np.asarray(jax.jit(intensity.TRANSFORMS[name].apply)(KEY, volume, jnp.asarray(strength, jnp.float32)))


@pytest.mark.parametrize("sigmas", [(0.5, 1.0, 0.7), (1.0, 1.0, 1.0)])
def test_blur_is_scipys(sigmas):
    volume = volume_of()
    expected = ndimage.gaussian_filter(volume, sigmas, mode="mirror", truncate=8)
    np.testing.assert_allclose(apply("blur", volume, sigmas), expected, atol=2e-5)


def test_low_resolution_is_nearest_down_and_linear_up():
    volume = volume_of((12, 10, 8))
    coarse = volume
    for axis, size in enumerate(coarse.shape):  # half the size: the centre of two voxels, of which the second is taken
        coarse = np.take(coarse, np.arange(size // 2) * 2 + 1, axis)
    expected = ndimage.zoom(coarse, 2, order=1, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(apply("low_resolution", volume, 0.5), expected, atol=1e-5)


@pytest.mark.parametrize("zoom", [0.55, 0.7, 0.93])
def test_low_resolution_by_its_definition(zoom):
    line = volume_of((11, 1, 1))
    coarse = round(11 * zoom)
    low = line[np.floor((np.arange(coarse) + 0.5) * 11 / coarse).astype(int), 0, 0]
    expected = np.interp((np.arange(11) + 0.5) * coarse / 11 - 0.5, np.arange(coarse), low)
    np.testing.assert_allclose(apply("low_resolution", line, zoom)[:, 0, 0], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["gamma", "gamma_inverted"])
@pytest.mark.parametrize("exponent", [0.7, 1.5])
def test_gamma_keeps_mean_and_deviation(name, exponent):
    volume = volume_of() * 3 - 2
    changed = apply(name, volume, exponent)
    np.testing.assert_allclose([changed.mean(), changed.std()], [volume.mean(), volume.std()], rtol=1e-4)
    sign = -1 if name == "gamma_inverted" else 1
    scaled = sign * volume.astype(np.float64)
    scaled = (scaled - scaled.min()) / np.ptp(scaled)
    power = scaled**exponent
    expected = sign * ((power - power.mean()) / power.std() * volume.std() + (sign * volume).mean())
    np.testing.assert_allclose(changed, expected, atol=1e-4)


def test_contrast_about_the_mean_within_the_range():
    np.testing.assert_allclose(apply("contrast", jnp.array([[[0.0, 1.0, 2.0, 5.0]]]), 1.25), [[[0, 0.75, 2, 5]]])
    np.testing.assert_allclose(apply("contrast", jnp.array([[[0.0, 1.0, 2.0, 5.0]]]), 0.75), [[[0.5, 1.25, 2, 4.25]]])


def test_brightness_and_dropout():
    volume = volume_of()
    np.testing.assert_array_equal(apply("brightness", volume, 0.75), volume * 0.75)
    np.testing.assert_array_equal(apply("modality_dropout", volume, True), 0 * volume)
    np.testing.assert_array_equal(apply("modality_dropout", volume, False), volume)


def test_noise_has_its_deviation_and_no_pattern():
    noise = apply("noise", np.zeros((32, 32, 32), np.float32), 0.1) / 0.1
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    assert abs(noise.std() - 1) < 0.02
    assert abs(np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1]) < 0.03


def test_normal_numbers_are_finite_at_the_ends(monkeypatch):
    for word, sign in ((0, -1), (2**32 - 1, 1)):
        monkeypatch.setattr(random, "bits", lambda key, shape, word=word: jnp.full(shape, word, jnp.uint32))
        assert 5 < sign * random.normal(KEY, (1,))[0] < 6


def test_the_bias_field_is_smooth_and_within_its_strength():
    field = np.log(apply("bias_field", np.ones((24, 20, 16), np.float32), 0.5))
    assert np.abs(field).max() <= 0.5 and field.std() > 0.05
    assert np.abs(np.diff(field, axis=0)).max() < 0.15


def test_a_smooth_field_of_equal_control_points_is_constant(monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda key, shape, limit: jnp.full(shape, limit))
    np.testing.assert_allclose(smooth_field(KEY, (9, 7, 5)), 1, rtol=1e-6)
