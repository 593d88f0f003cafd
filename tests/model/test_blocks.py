"""Blocks and the parts of a level, by values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbrats.model.blocks import ACTIVATIONS, BLOCKS, AttentionGate, Conv, SqueezeExcitation, Upsample


def parameters(block, *channels, size=(4, 4, 4)):
    """Random parameters of a block for inputs of so many channels, and such inputs."""
    keys = jax.random.split(jax.random.key(0), len(channels))
    inputs = tuple(jax.random.normal(key, (2, *size, count)) for key, count in zip(keys, channels, strict=True))
    return jax.jit(block.init, static_argnums=2)(jax.random.key(1), inputs, False)["params"], inputs


def count(block):
    """Parameters of a block for inputs of 2 and 3 channels."""
    inputs = tuple(jnp.zeros((1, 4, 4, 4, channels)) for channels in (2, 3))
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), inputs, False))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_leaky_relu_has_nnu_nets_slope():
    np.testing.assert_allclose(ACTIVATIONS["leaky_relu"](jnp.array([-2.0, 3.0])), [-0.02, 3.0])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("single", 27 * 5 * 4 + 8),
        ("plain", 27 * 5 * 4 + 8 + 27 * 4 * 4 + 8),
        ("residual", 27 * 5 * 4 + 8 + 27 * 4 * 4 + 8 + 5 * 4 + 8),
    ],
)
def test_parameters_of_a_block(name, expected):
    assert count(BLOCKS[name](4, norm="instance")) == expected
    # A unit for each 16 channels, at least 8: 4 * 8 + 8 down, 8 * 4 + 4 up.
    assert count(BLOCKS[name](4, norm="instance", squeeze_excitation=True)) == expected + 40 + 36


def test_a_residual_block_that_learnt_nothing_is_the_identity():
    block = BLOCKS["residual"](3, activation="leaky_relu", conv="direct")
    params, (x,) = parameters(block, 3)
    assert set(params) == {"conv_0", "conv_1"}
    nothing = jax.tree.map(jnp.zeros_like, params)
    np.testing.assert_array_equal(block.apply({"params": nothing}, (x,), False), jax.nn.leaky_relu(x))


def test_a_residual_block_adds_its_convolutions_to_the_projected_mean():
    block = BLOCKS["residual"](2, strides=(2, 1, 2), conv="direct")
    params, (x,) = parameters(block, 3)
    silent = {**params, "conv_1": jax.tree.map(jnp.zeros_like, params["conv_1"])}
    mean = np.asarray(x).reshape(2, 2, 2, 4, 2, 2, 3).mean(axis=(2, 5))
    skip = mean @ params["projection"]["kernel"][0, 0, 0]
    found = block.apply({"params": silent}, (x,), False)
    np.testing.assert_allclose(found, np.maximum(skip, 0), atol=1e-6)
    # With the second convolution the centre's weight alone, the first is what is added.
    kernel = jnp.zeros_like(params["conv_1"]["kernel"]).at[1, 1, 1].set(jnp.eye(2))
    loud = {**params, "conv_1": {**params["conv_1"], "kernel": kernel}}
    first = BLOCKS["single"](2, strides=(2, 1, 2), conv="direct").apply(
        {"params": {"conv_0": params["conv_0"]}}, (x,), False
    )
    found = block.apply({"params": loud}, (x,), False)
    np.testing.assert_allclose(found, np.maximum(skip + first, 0), atol=1e-5)


def test_a_residual_block_keeps_inputs_whose_channels_are_its_own():
    block = BLOCKS["residual"](5, conv="direct")
    params, inputs = parameters(block, 2, 3)
    assert "projection" not in params
    found = block.apply({"params": jax.tree.map(jnp.zeros_like, params)}, inputs, False)
    np.testing.assert_array_equal(found, np.maximum(np.concatenate(inputs, axis=-1), 0))


def test_squeeze_and_excitation_by_hand():
    # Two channels of mean 1 and 3; squeezed to relu(1 - 2 * 3 + 6) = 1; weights sigmoid(2 * 1) and sigmoid(-1 * 1 + 1).
    x = jnp.stack([jnp.array([0.0, 2.0]), jnp.array([3.0, 3.0])], axis=-1).reshape(1, 2, 1, 1, 2)
    # The other seven of the eight units are 0.
    down, up, bias = np.zeros((1, 1, 1, 2, 8)), np.zeros((1, 1, 1, 8, 2)), np.zeros(8)
    down[..., 0], up[..., 0, :], bias[0] = [1, -2], [2, -1], 6
    params = {"squeeze": {"kernel": down, "bias": bias}, "excite": {"kernel": up, "bias": np.array([0.0, 1.0])}}
    high, half = 1 / (1 + np.exp(-2)), 0.5
    found = SqueezeExcitation().apply({"params": params}, x)
    np.testing.assert_allclose(found[0, :, 0, 0], [[0, 3 * half], [2 * high, 3 * half]], rtol=1e-6)


@pytest.mark.parametrize("name", BLOCKS)
def test_squeeze_and_excitation_tells_normalised_cases_apart(name):
    block = BLOCKS[name](4, norm="instance", squeeze_excitation=True, conv="direct")
    params, (x,) = parameters(block, 4)
    _, state = block.apply({"params": params}, (x,), False, capture_intermediates=True, mutable=["intermediates"])
    (weights,) = state["intermediates"]["squeeze_excitation"]["excite"]["__call__"]
    assert weights.shape == (2, 1, 1, 1, 4)
    assert np.abs(weights[0] - weights[1]).max() > 1e-2


def test_squeeze_and_excitation_of_bfloat16_is_that_of_float32_rounded():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 4, 16)) + 1
    params = jax.jit(SqueezeExcitation().init)(jax.random.key(1), x)
    half = jax.jit(SqueezeExcitation().apply)(params, x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), SqueezeExcitation().apply(params, x), rtol=0.02, atol=1e-3)


def test_attention_gate_by_hand():
    # relu(skip - gate + 1) is 2 and 0; the coefficients are sigmoid(ln 3 / 2 * 2) = 3/4 and sigmoid(0) = 1/2.
    skip = jnp.array([4.0, 2.0]).reshape(1, 2, 1, 1, 1)
    gate = jnp.array([3.0, 5.0]).reshape(1, 2, 1, 1, 1)
    params = {
        "joint": {"kernel": jnp.array([1.0, -1.0]).reshape(1, 1, 1, 2, 1), "bias": jnp.array([1.0])},
        "coefficient": {"kernel": jnp.full((1, 1, 1, 1, 1), np.log(3) / 2), "bias": jnp.array([0.0])},
    }
    found = AttentionGate(1).apply({"params": params}, skip, gate)
    np.testing.assert_allclose(found.ravel(), [4 * 0.75, 2 * 0.5], rtol=1e-6)


def test_upsampling_by_strides_of_an_axis():
    x = jnp.arange(2.0).reshape(1, 2, 1, 1, 1)
    params = {"kernel": jnp.array([1.0, 10.0]).reshape(1, 2, 1, 1, 1), "bias": jnp.array([5.0])}
    found = Upsample(1, strides=(1, 2, 1)).apply({"params": params}, x)
    np.testing.assert_array_equal(found[0, :, :, 0, 0], [[5, 5], [6, 15]])


def test_stochastic_depth_leaves_out_whole_residuals_and_keeps_the_expectation():
    block = BLOCKS["residual"](1, norm="none", stochastic_depth=0.25, conv="direct")
    cases = 4096
    x = jnp.ones((cases, 1, 1, 1, 1))
    kernel = jnp.zeros((3, 3, 3, 1, 1)).at[1, 1, 1].set(1.0)
    params = {f"conv_{index}": {"kernel": kernel, "bias": jnp.zeros(1)} for index in range(2)}

    def run(key, train=True):
        return np.ravel(block.apply({"params": params}, (x,), train, rngs={"dropout": jax.random.key(key)}))

    found = run(0)
    # 1 + 0, or 1 + 1 / (1 - 0.25), whose mean is 2.
    np.testing.assert_allclose(np.unique(found), [1, 1 + 4 / 3], rtol=1e-6)
    assert abs(np.mean(found == 1) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / cases)
    np.testing.assert_array_equal(found, run(0))
    assert 0.2 < np.mean(found != run(1)) < 0.55  # 2 * 0.25 * 0.75 = 0.375 of them
    np.testing.assert_array_equal(run(0, train=False), 2)


@pytest.mark.parametrize("layer", [Conv(3), Upsample(3)])
def test_gradient_of_a_bias_counts_every_voxel_in_bfloat16(layer):
    """A sum of ones in bfloat16 stops at 256."""
    x = jnp.ones((1, 8, 8, 16, 2), jnp.bfloat16)
    x = (x,) if isinstance(layer, Conv) else x

    @jax.jit
    def gradient():
        params = layer.init(jax.random.key(0), x)["params"]
        y, backward = jax.vjp(lambda params: layer.apply({"params": params}, x), params)
        return y, backward(jnp.ones_like(y))[0]["bias"]

    y, found = gradient()
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, y.size // 3)
