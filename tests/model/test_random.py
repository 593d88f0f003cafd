import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxbrats.model import random

KEYS = [jax.random.key(0), jax.random.key(1), jax.random.fold_in(jax.random.key(0), 1)]
bits = jax.jit(random.bits, static_argnums=1)


def test_known_value():
    """pcg3d worked by hand in Python integers, for the first positions of a key."""

    def pcg3d(x, y, z):
        x, y, z = ((v * 1664525 + 1013904223) % 2**32 for v in (x, y, z))
        for last in (False, True):
            x = (x + y * z) % 2**32
            y = (y + z * x) % 2**32
            z = (z + x * y) % 2**32
            if not last:
                x, y, z = (v ^ (v >> 16) for v in (x, y, z))
        return x

    words = [int(word) for word in jax.random.key_data(KEYS[2])]
    np.testing.assert_array_equal(bits(KEYS[2], (5,)), [pcg3d(i, *words) for i in range(5)])


@pytest.mark.parametrize("key", KEYS)
def test_uniform_in_every_byte_and_uncorrelated_between_neighbours(key):
    values = np.asarray(bits(key, (64, 32, 32)))
    for shift in (0, 8, 16, 24):
        counts = np.bincount((values.ravel() >> shift) & 255, minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-4
    unit = values / 2**32
    for axis in range(3):
        before, after = np.take(unit, range(31), axis).ravel(), np.take(unit, range(1, 32), axis).ravel()
        assert abs(np.corrcoef(before, after)[0, 1]) < 0.02


def test_keys_give_unrelated_numbers():
    units = [np.asarray(bits(jax.random.fold_in(KEYS[0], i), (65536,))) / 2**32 for i in range(6)]
    correlation = np.corrcoef(units) - np.eye(6)
    assert np.abs(correlation).max() < 0.02


def test_numbers_do_not_depend_on_how_the_array_is_cut():
    whole = bits(KEYS[1], (4, 6, 5))
    np.testing.assert_array_equal(whole.ravel(), bits(KEYS[1], (120,)))


def test_dropout_keeps_the_share_and_the_expectation():
    x = jnp.ones((100, 100, 10))
    for rate in (0.1, 0.5):
        y = np.asarray(random.dropout(KEYS[0], x, rate))
        np.testing.assert_allclose(np.unique(y), [0, 1 / (1 - rate)], rtol=1e-6)
        assert abs((y == 0).mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / y.size)


def test_he_uniform_fills_its_range():
    values = np.asarray(random.he_uniform(KEYS[0], (3, 3, 3, 16, 32), 27 * 16))
    limit = np.sqrt(6 / (27 * 16))
    assert -limit <= values.min() < -0.99 * limit
    assert 0.99 * limit < values.max() < limit
    assert abs(values.mean()) < 5 * limit / np.sqrt(3 * values.size)
    np.testing.assert_allclose(values.var(), limit**2 / 3, rtol=0.05)
