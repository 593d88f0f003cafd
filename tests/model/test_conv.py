import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import correlate

from jaxbrats.model import conv, native
from jaxbrats.model.native.convolution import fits

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
    if not native.register():
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


@pytest.mark.parametrize("thickness", [1, 3])
def test_kernels_of_2d_networks_with_gradients(thickness):
    """Of few channels, for which the kernel's gradient of others is taken as matrix products."""
    x, kernel = volumes((2, 6, 5, thickness), 5, 3)
    parts, kernel = (x[..., :2], x[..., 2:]), kernel[:, :, 1:2]
    weights = np.random.default_rng(1).normal(size=(2, 6, 5, thickness, 3)).astype(np.float32)

    def results(method):
        y, pull = jax.vjp(lambda parts, kernel: conv3d(parts, kernel, method), parts, kernel)
        return y, pull(weights)

    expected = results("direct")
    for method in ("slices", "auto"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), results(method), expected)


@pytest.mark.parametrize(("shape", "channels", "c_out"), LARGE_SHAPES)
def test_native_values_and_gradients_equal_direct(compiled, shape, channels, c_out):
    x, kernel = volumes(shape, sum(channels), c_out)
    parts = tuple(jnp.split(x, np.cumsum(channels)[:-1], axis=-1))
    assert fits(parts, kernel)
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
    assert fits((x,), kernel)
    assert not fits((x[:, :15],), kernel)
    assert not fits((x.astype(jnp.bfloat16),), kernel)
    assert not fits((x,), jnp.zeros((5, 5, 5, 2, 2)))
    small = x[:, :8]
    np.testing.assert_array_equal(conv3d(small, kernel, "native"), conv3d(small, kernel, "winograd"))


@pytest.mark.parametrize("method", conv.METHODS)
@pytest.mark.parametrize("other", [(1, 15, 16, 16), (2, 16, 16, 16), (1, 16, 16)])
def test_inputs_of_different_sizes_are_refused_by_every_method(compiled, method, other):
    x, kernel = jnp.ones((1, 16, 16, 16, 2)), jnp.ones((3, 3, 3, 4, 2))
    with pytest.raises(ValueError, match="were expected"):
        conv.conv3d((x, jnp.ones((*other, 2))), kernel, method)


@pytest.mark.parametrize("method", conv.METHODS)
def test_inputs_of_different_dtypes_are_refused_by_every_method(compiled, method):
    x = jnp.ones((1, 16, 16, 16, 2))
    with pytest.raises(ValueError, match=r"float32\[1, 16, 16, 16, 2\], bfloat16"):
        conv.conv3d((x, x.astype(jnp.bfloat16)), jnp.ones((3, 3, 3, 4, 2)), method)


def test_derivatives_of_every_kind_equal_direct(compiled):
    """Forward mode, second derivatives and vmap, of one input, several and the kernel."""
    x, kernel = volumes((1, 16, 17, 18), 5, 3)
    kernel = kernel / 10
    a, b = x[..., :2], x[..., 2:]

    def loss(method):
        return lambda a, b, kernel: jnp.mean(jnp.sin(conv.conv3d((a, b), kernel, method)))

    def derivatives(method):
        function, every = loss(method), (0, 1, 2)
        gradient = jax.grad(function, every)
        return {
            "forward": jax.jvp(function, (a, b, kernel), (a, b, kernel)),
            "forward of one input": jax.jvp(lambda b: function(a, b, kernel), (b,), (b,)),
            "second": jax.jvp(gradient, (a, b, kernel), (b[..., :2], x[..., :3], kernel)),
            "second, reverse": jax.grad(lambda *v: sum(jnp.vdot(g, u) for g, u in zip(gradient(*v), v, strict=True)))(
                a, b, kernel
            ),
            "vmap of volumes": jax.vmap(gradient, (0, None, None))(jnp.stack([a, 2 * a]), b, kernel),
            "vmap of kernels": jax.vmap(gradient, (None, None, 4))(a, b, jnp.stack([kernel, -kernel], 4)),
            "gradient of vmap": jax.grad(
                lambda k: jax.vmap(function, (0, None, None))(jnp.stack([a, 2 * a]), b, k).sum()
            )(kernel),
            "checkpointed": jax.grad(jax.checkpoint(function), every)(a, b, kernel),
        }

    found, expected = (jax.jit(derivatives, static_argnums=0)(method) for method in ("native", "direct"))
    for kind, tree in expected.items():
        for value, reference in zip(jax.tree.leaves(found[kind]), jax.tree.leaves(tree), strict=True):
            assert error(value, reference) < 1e-4, kind


def test_describe_says_what_auto_takes(compiled):
    # The suite has eight devices, for which 'auto' leaves the compiled code out.
    assert conv.describe("auto")["conv"] == "winograd"
    assert conv.describe("native")["conv"] == "native"
    assert conv.describe("native")["threads"] >= 1


def test_unfit_arguments_are_refused():
    x, kernel = volumes((1, 4, 4, 4), 3, 2)
    with pytest.raises(ValueError, match=r"\(odd, odd, odd, 2, C_out\)"):
        conv.conv3d(x[..., :2], kernel)
    with pytest.raises(ValueError, match="method is one of"):
        conv.conv3d(x, kernel, "fastest")
