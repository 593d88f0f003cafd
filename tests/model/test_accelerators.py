"""What accelerators compute where CPUs take another form: on a CPU both are run, values and gradients are the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxbrats.model import conv, instance_norm, resample
from jaxbrats.model.blocks import ACTIVATIONS


def assert_same(plain, other, *arguments, atol=1e-5):
    """That two functions have the same values, and the same gradients for a random cotangent."""

    def all_of(function):
        y, backward = jax.vjp(function, *arguments)
        dy = jax.random.normal(jax.random.key(9), y.shape).astype(y.dtype)
        return y, backward(dy)

    for expected, found in zip(
        *(jax.tree.leaves(jax.jit(lambda f=f: all_of(f))()) for f in (plain, other)), strict=True
    ):
        assert (expected.shape, expected.dtype) == (found.shape, found.dtype)
        expected, found = (np.asarray(one, np.float32) for one in (expected, found))
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", None])
@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_instance_norm(activation, dtype, atol):
    keys = jax.random.split(jax.random.key(0), 3)
    x = (3 * jax.random.normal(keys[0], (2, 3, 4, 5, 6)) + 1).astype(dtype)
    scale, bias = 1 + 0.3 * jax.random.normal(keys[1], (6,)), 0.3 * jax.random.normal(keys[2], (6,))
    options = {"activation": ACTIVATIONS.get(activation, lambda x: x), "dtype": jnp.dtype(dtype)}
    forms = (
        lambda x, scale, bias, form=form: form(x, scale, bias, **options)
        for form in (
            instance_norm.plain,
            lambda *args, activation, dtype: instance_norm.few_passes(*args, activation, dtype),
        )
    )
    assert_same(*forms, x, scale, bias, atol=atol)


def test_instance_norm_has_flaxs_parameters_and_values():
    x = jax.random.normal(jax.random.key(0), (2, 2, 3, 4, 5))
    ours, flaxs = instance_norm.InstanceNorm(nn.relu), nn.InstanceNorm(epsilon=1e-5)
    variables = flaxs.init(jax.random.key(1), x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, ours.init(jax.random.key(1), x))
    np.testing.assert_array_equal(ours.apply(variables, x), nn.relu(flaxs.apply(variables, x)))


@pytest.mark.parametrize("strides", [(2, 2, 2), (2, 2, 1)])
def test_max_pool_with_equal_voxels(strides):
    # Few different values, so that most blocks have several voxels that are its largest.
    x = jax.random.randint(jax.random.key(0), (2, 4, 6, 8, 3), 0, 4).astype(jnp.float32)
    forms = (
        lambda x, form=form: form(resample._blocks(x, strides))
        for form in (resample._max_pool, resample._max_pool_counted)
    )
    assert_same(*forms, x, atol=1e-6)


@pytest.mark.parametrize("strides", [(2, 2, 2), (1, 2, 2)])
def test_transposed_convolution(strides):
    x = jax.random.normal(jax.random.key(0), (2, 3, 2, 4, 5))
    kernel = jax.random.normal(jax.random.key(1), (*strides, 5, 3))
    assert_same(resample._matrix_product, resample._direct, x, kernel)


@pytest.mark.parametrize("outputs", [3, 7])
def test_pointwise_convolution(outputs):
    inputs = tuple(jax.random.normal(jax.random.key(size), (2, 3, 4, 5, size)) for size in (2, 6))
    kernel = jax.random.normal(jax.random.key(0), (1, 1, 1, 8, outputs))
    assert_same(conv._pointwise, conv._pointwise_direct, inputs, kernel)
