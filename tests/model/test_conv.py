import os
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import correlate

from jaxbrats.model import conv, native

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

# Every size that a tile or a vector does not divide, fewer than a tile, a halo that ends a piece of a row
LARGE_SHAPES = [
    ((1, 17, 18, 19), (3,), 16),
    ((2, 13, 14, 15), (5, 4), 20),
    ((1, 3, 2, 700), (8,), 8),
    ((1, 8, 8, 130), (16,), 33),
    ((3, 40, 37, 1), (32, 16), 5),
]


@pytest.fixture(scope="module")
def compiled():
    """The native convolution, where there is a C++ compiler."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if native._library() is None:
            pytest.skip("no C++ compiler")


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


@pytest.mark.parametrize(("shape", "channels", "c_out"), LARGE_SHAPES)
def test_native_values_and_gradients_equal_direct(compiled, shape, channels, c_out):
    x, kernel = volumes(shape, sum(channels), c_out)
    parts = tuple(jnp.split(x, np.cumsum(channels)[:-1], axis=-1))
    assert native.fits(parts, kernel)
    weights = np.random.default_rng(1).normal(size=(*shape, c_out)).astype(np.float32)

    def results(method):
        def weighed(parts, kernel):
            y = conv.conv3d(parts, kernel, method)
            return jnp.sum(weights * y), y

        gradients, y = jax.jit(jax.grad(weighed, (0, 1), has_aux=True))(parts, kernel)
        return y, *gradients[0], gradients[1]

    for found, expected in zip(results("native"), results("direct"), strict=True):
        assert error(found, expected) < 1e-5


def test_native_is_the_same_every_time(compiled):
    x, kernel = volumes((1, 20, 20, 20), 8, 8)
    gradient = jax.jit(jax.grad(lambda kernel: jnp.sum(jnp.sin(conv3d(x, kernel, "native")))))
    first = gradient(kernel)
    for _ in range(5):
        np.testing.assert_array_equal(gradient(kernel), first)


def test_native_leaves_small_volumes_and_other_types_to_xla(compiled):
    x, kernel = volumes((1, 16, 16, 16), 2, 2)
    assert native.fits((x,), kernel)
    assert not native.fits((x[:, :15],), kernel)
    assert not native.fits((x.astype(jnp.bfloat16),), kernel)
    assert not native.fits((x,), jnp.zeros((5, 5, 5, 2, 2)))
    small = x[:, :8]
    np.testing.assert_array_equal(conv3d(small, kernel, "native"), conv3d(small, kernel, "winograd"))


def test_without_a_compiler_a_cpu_convolves_all_the_same(tmp_path):
    program = """
import warnings, jax, numpy as np
from jaxbrats.model.conv import conv3d
x, kernel = np.ones((1, 16, 16, 16, 1), np.float32), np.ones((3, 3, 3, 1, 1), np.float32)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    y = conv3d(x, kernel)
assert float(abs(y[0, 1:-1, 1:-1, 1:-1] - 27).max()) < 1e-3
print([str(w.message) for w in caught])
"""
    environment = {**os.environ, "PATH": str(tmp_path), "XLA_FLAGS": "", "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("CXX", None)
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.count("convolutions will be slower") == 1
    assert "there is no C++ compiler" in ran.stdout


def test_unfit_arguments_are_refused():
    x, kernel = volumes((1, 4, 4, 4), 3, 2)
    with pytest.raises(ValueError, match=r"\(odd, odd, odd, 2, C_out\)"):
        conv.conv3d(x[..., :2], kernel)
    with pytest.raises(ValueError, match="method is one of"):
        conv.conv3d(x, kernel, "fastest")
