import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import correlate

from jaxbrats.model import conv

conv3d = jax.jit(conv.conv3d, static_argnums=2)

SHAPES = [
    # (B, X, Y, Z), C_in, C_out: odd sizes, one channel, less than a tile, a multiple of a tile and one beside it
    ((1, 8, 6, 5), 3, 4),
    ((2, 7, 5, 4), 1, 2),
    ((1, 3, 4, 4), 2, 3),
    ((1, 1, 3, 2), 2, 2),
    ((1, 13, 3, 7), 5, 1),
    # more channels than the kernel's gradient takes as matrix products
    ((1, 8, 3, 3), 18, 17),
]


def volumes(shape, c_in, c_out, size=3, dtype=jnp.float32):
    rng = np.random.default_rng(sum(shape))
    x, kernel = rng.normal(size=(*shape, c_in)), rng.normal(size=(size, size, size, c_in, c_out))
    return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)


def error(found, expected):
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return np.abs(found - expected).max() / np.abs(expected).max()


def test_direct_is_correlation_with_zero_padding():
    x, kernel = volumes((1, 5, 4, 6), 2, 3)
    found = conv3d(x, kernel, "direct")
    for out in range(3):
        expected = sum(
            correlate(np.float64(x[0, ..., i]), np.float64(kernel[..., i, out]), mode="constant") for i in range(2)
        )
        np.testing.assert_allclose(found[0, ..., out], expected, atol=1e-5)


@pytest.mark.parametrize("method", ["slices", "winograd", "auto"])
@pytest.mark.parametrize(("shape", "c_in", "c_out"), SHAPES)
def test_values_equal_direct(method, shape, c_in, c_out):
    x, kernel = volumes(shape, c_in, c_out)
    assert error(conv3d(x, kernel, method), conv3d(x, kernel, "direct")) < 3e-6


@pytest.mark.parametrize("method", ["slices", "winograd"])
@pytest.mark.parametrize(("shape", "c_in", "c_out"), SHAPES)
def test_gradients_equal_direct(method, shape, c_in, c_out):
    x, kernel = volumes(shape, c_in, c_out)
    weights = np.random.default_rng(1).normal(size=(*shape, c_out)).astype(np.float32)

    def gradients(method):
        return jax.jit(jax.grad(lambda x, k: jnp.sum(weights * conv3d(x, k, method)), (0, 1)))(x, kernel)

    found, expected = gradients(method), gradients("direct")
    assert error(found[0], expected[0]) < 5e-6
    assert error(found[1], expected[1]) < 5e-6


@pytest.mark.parametrize("method", ["slices", "winograd", "auto"])
def test_bfloat16_stays_within_its_rounding(method):
    x, kernel = volumes((1, 8, 6, 5), 8, 4, dtype=jnp.bfloat16)
    found = conv3d(x, kernel, method)
    assert found.dtype == jnp.bfloat16
    assert error(found, conv3d(x.astype(jnp.float32), kernel.astype(jnp.float32), "direct")) < 2e-2


@pytest.mark.parametrize("method", ["direct", "slices", "winograd", "auto"])
def test_several_inputs_stand_for_their_concatenation(method):
    x, kernel = volumes((2, 6, 5, 4), 5, 3)
    parts = (x[..., :2], x[..., 2:3], x[..., 3:])
    assert error(conv3d(parts, kernel, method), conv3d(x, kernel, "direct")) < 3e-6


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_flipping_input_and_kernel_flips_the_output(axis):
    x, kernel = volumes((1, 9, 6, 5), 2, 3)
    flipped = conv3d(jnp.flip(x, axis), jnp.flip(kernel, axis - 1))
    assert error(jnp.flip(flipped, axis), conv3d(x, kernel)) < 3e-6


@pytest.mark.parametrize("size", [1, 5])
def test_other_kernel_sizes(size):
    x, kernel = volumes((1, 6, 7, 5), 3, 2, size)
    for method in ("slices", "winograd"):
        assert error(conv3d(x, kernel, method), conv3d(x, kernel, "direct")) < 3e-6


def test_unfit_arguments_are_refused():
    x, kernel = volumes((1, 4, 4, 4), 3, 2)
    with pytest.raises(ValueError, match=r"\(odd, odd, odd, 2, C_out\)"):
        conv.conv3d(x[..., :2], kernel)
    with pytest.raises(ValueError, match="method is one of"):
        conv.conv3d(x, kernel, "fastest")
