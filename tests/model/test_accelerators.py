"""What accelerators compute where CPUs take another form: on a CPU both are run, values and gradients are the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxbrats.model import conv, instance_norm, resample
from jaxbrats.model.blocks import ACTIVATIONS
from jaxbrats.train.mesh import batch_sharding, make_mesh, replicated


def assert_same(plain, other, *arguments, atol=1e-5):
    """That two functions have the same values, and the same gradients for a random cotangent."""

    @functools.partial(jax.jit, static_argnums=0)
    def values(function, *arguments):
        y, backward = jax.vjp(function, *arguments)
        # Of cosines of the place, which any error in the place would show in.
        return y, backward(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(y.dtype))

    for expected, found in zip(*(jax.tree.leaves(values(form, *arguments)) for form in (plain, other)), strict=True):
        assert (expected.shape, expected.dtype) == (found.shape, found.dtype)
        expected, found = (np.asarray(one, np.float32) for one in (expected, found))
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol * max(1, np.abs(expected).max()))


def normal(*shape):
    """Random numbers."""
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("activation", "dtype", "atol"), [("relu", "float32", 1e-5), ("leaky_relu", "bfloat16", 2e-2)])
def test_instance_norm(activation, dtype, atol):
    x = jnp.asarray(3 * normal(2, 3, 4, 5, 6) + 1, dtype)
    forms = (
        lambda *arrays, form=form: form(*arrays, ACTIVATIONS[activation], jnp.dtype(dtype))
        for form in (instance_norm.plain, instance_norm.few_passes)
    )
    assert_same(*forms, x, 1 + 0.3 * normal(6), 0.3 * normal(6)[::-1], atol=atol)


def test_instance_norm_has_flaxs_parameters_and_values():
    x = normal(2, 2, 3, 4, 5)
    ours, flaxs = instance_norm.InstanceNorm(nn.relu), nn.InstanceNorm(epsilon=1e-5)
    variables = {"params": {"scale": 1 + normal(5), "bias": normal(5)}}
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(
        jnp.shape, jax.eval_shape(ours.init, jax.random.key(1), x)
    )
    found, expected = (jax.jit(norm)(variables, x) for norm in (ours.apply, lambda *to: nn.relu(flaxs.apply(*to))))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("strides", [(2, 2, 2), (1, 2, 2)])
def test_transposed_convolution(strides):
    assert_same(resample._matrix_product, resample._direct, normal(2, 3, 2, 4, 5), normal(*strides, 5, 3))


@pytest.mark.parametrize("outputs", [3, 7])
def test_pointwise_convolution(outputs):
    inputs, kernel = (normal(2, 3, 4, 5, 2), normal(2, 3, 4, 5, 6)), normal(1, 1, 1, 8, outputs)
    assert_same(conv._pointwise, conv._pointwise_direct, inputs, kernel)


def test_forms_of_accelerators_split_over_devices():
    """A small U-Net's worth of them, volumes split over four devices, at the bottom with fewer voxels than devices."""
    mesh = make_mesh(2, 4, 2)

    def network(x, scale, bias, up, head):
        y = instance_norm.few_passes(x, scale, bias, nn.relu, jnp.float32)
        y = resample.max_pool(resample.max_pool(y))
        y = resample._direct(resample._direct(y, up), up)
        return conv._pointwise_direct((y, x), head)

    arrays = normal(2, 8, 4, 4, 5), 1 + normal(5), normal(5), normal(2, 2, 2, 5, 5), normal(1, 1, 1, 10, 3)
    of_one, of_all = (
        jax.jit(
            jax.value_and_grad(lambda *arrays: jnp.square(network(*arrays)).mean(), range(len(arrays))),
            in_shardings=shardings,
        )(*arrays)
        for shardings in (None, (batch_sharding(mesh), *[replicated(mesh)] * 4))
    )
    for expected, found in zip(jax.tree.leaves(of_one), jax.tree.leaves(of_all), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
