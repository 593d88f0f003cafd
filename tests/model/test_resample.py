import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxbrats.model.resample import max_pool, transposed_conv


def test_max_pool_takes_the_largest_of_each_block():
    x = np.arange(4 * 2 * 2, dtype=np.float32).reshape(1, 4, 2, 2, 1)
    np.testing.assert_array_equal(np.ravel(max_pool(jnp.asarray(x))), [7, 15])


def test_max_pool_equals_reduce_window_with_gradient():
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 8, 3))

    def reference(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 2, 1), (1, 2, 2, 2, 1), "VALID")

    np.testing.assert_array_equal(max_pool(x), reference(x))
    np.testing.assert_allclose(
        jax.grad(lambda x: jnp.sum(max_pool(x) ** 2))(x), jax.grad(lambda x: jnp.sum(reference(x) ** 2))(x), rtol=1e-6
    )


@pytest.mark.parametrize("strides", [(2, 2, 2), (1, 2, 2), (3, 1, 2)])
def test_max_pool_gives_a_block_its_gradient_once(strides):
    x = jax.random.randint(jax.random.key(0), (1, 6, 4, 8, 2), 0, 3).astype(jnp.bfloat16)  # most maxima are there twice
    weights = jax.random.normal(jax.random.key(1), max_pool(x, strides).shape)
    found = jax.grad(lambda x: jnp.sum(max_pool(x, strides) * weights))(x)
    assert found.dtype == x.dtype
    assert int(jnp.sum(found != 0)) == weights.size
    largest = jnp.sum(jnp.where(found != 0, x, 0).astype(jnp.float32))
    assert float(largest) == float(jnp.sum(max_pool(x, strides).astype(jnp.float32)))


def test_max_pool_keeps_what_is_not_a_number():
    x = jnp.zeros((1, 2, 2, 2, 1)).at[0, 0, 1, 0, 0].set(jnp.nan)
    largest, _ = jax.vjp(max_pool, x)
    assert np.isnan(largest).all() and np.isnan(max_pool(x)).all()


def test_max_pool_refuses_odd_sizes():
    with pytest.raises(ValueError, match="divisible by 2"):
        max_pool(jnp.zeros((1, 4, 3, 2, 1)))


def test_transposed_conv_equals_input_dilation():
    x = jax.random.normal(jax.random.key(0), (2, 3, 2, 4, 5))
    kernel = jax.random.normal(jax.random.key(1), (2, 2, 2, 5, 3))
    expected = lax.conv_transpose(
        x,
        kernel[::-1, ::-1, ::-1],
        (2, 2, 2),
        "VALID",
        dimension_numbers=("NXYZC", "XYZIO", "NXYZC"),
        transpose_kernel=False,
    )
    found = transposed_conv(x, kernel)
    assert found.shape == (2, 6, 4, 8, 3)
    # lax correlates the dilated input with its kernel, which turns the block round.
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_transposed_conv_places_the_kernel():
    kernel = jnp.arange(8.0).reshape(2, 2, 2, 1, 1)
    x = jnp.zeros((1, 2, 2, 2, 1)).at[0, 1, 0, 1, 0].set(1)
    np.testing.assert_array_equal(transposed_conv(x, kernel)[0, 2:, :2, 2:, 0], kernel[..., 0, 0])
