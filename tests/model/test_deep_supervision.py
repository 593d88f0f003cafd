import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbrats.model.deep_supervision import deeply_supervised, resampled, weights


def test_weights_halve_and_sum_to_1():
    np.testing.assert_allclose(weights(4), np.array([8, 4, 2, 1]) / 15)
    assert weights(1) == [1.0]


def test_labels_of_a_level_are_those_of_the_nearest_voxels():
    labels = jnp.arange(8 * 4 * 4).reshape(1, 8, 4, 4)
    found = resampled(labels, jnp.zeros((1, 2, 2, 4, 3)))
    np.testing.assert_array_equal(found, labels[:, 2::4, 1::2, :])
    assert resampled(labels, jnp.zeros((1, 8, 4, 4, 3))).shape == labels.shape


def test_labels_of_a_level_are_pytorchs():
    torch = pytest.importorskip("torch")
    labels = np.random.default_rng(0).integers(0, 4, (2, 8, 4, 16))
    expected = torch.nn.functional.interpolate(torch.tensor(labels[:, None]).float(), (4, 2, 4), mode="nearest-exact")
    np.testing.assert_array_equal(resampled(jnp.asarray(labels), jnp.zeros((2, 4, 2, 4, 1))), expected[:, 0])


@pytest.mark.parametrize("factors", [(2, 2, 2), (3, 3, 3), (1, 3, 2), (1, 1, 1)])
def test_soft_labels_of_a_level_are_the_means_of_their_blocks(factors):
    draws = np.random.default_rng(0).multinomial(255, [0.4, 0.3, 0.2, 0.1], (2, 6, 6, 6))
    soft = draws[..., 1:].astype(np.uint8)
    soft[0, :3] = [255, 0, 0]  # whole voxels stay whole
    like = jnp.zeros((2, *(6 // factor for factor in factors), 3))
    found = resampled(jnp.asarray(soft), like)
    assert found.dtype == jnp.uint8
    blocks = soft.reshape(2, *itertools.chain(*((6 // factor, factor) for factor in factors)), 3).astype(int)
    np.testing.assert_array_equal(found, blocks.sum((2, 4, 6)) // math.prod(factors))


def test_the_loss_is_the_weighted_mean_over_levels():
    def loss(logits, labels):
        assert logits.shape[:-1] == labels.shape
        return jnp.mean(logits[..., 0] * labels)

    labels = jnp.arange(16).reshape(1, 4, 2, 2)
    logits = [jnp.full((1, 4, 2, 2, 1), 1.0), jnp.full((1, 2, 1, 1, 1), 2.0), jnp.full((1, 1, 1, 1, 1), 3.0)]
    # Means of the labels: all, those at (1, 1, 1) and (3, 1, 1), that at (2, 1, 1).
    expected = (4 * 1 * 7.5 + 2 * 2 * (7 + 15) / 2 + 1 * 3 * 11) / 7
    np.testing.assert_allclose(deeply_supervised(loss, logits, labels), expected, rtol=1e-6)


def test_the_full_size_alone_is_the_loss_itself():
    def loss(logits, labels):
        return jnp.mean((logits[..., 0] - labels) ** 2)

    logits, labels = jax.random.normal(jax.random.key(0), (1, 4, 4, 4, 1)), jnp.ones((1, 4, 4, 4), jnp.int32)
    assert deeply_supervised(loss, [logits], labels) == loss(logits, labels)
