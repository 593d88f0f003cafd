import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxbrats.model.resample import max_pool
from jaxbrats.model.strided_conv import strided_conv3d
from jaxbrats.model.unet import UNet3D

# XLA's own convolution: it compiles in a fraction of the time, and test_conv.py shows that the others equal it.
SMALL = {"features": (4, 6), "num_classes": 4, "conv": "direct"}


def build(channels=2, size=(8, 8, 4), **options):
    model = UNet3D(**{**SMALL, **options})
    x = jax.random.normal(jax.random.key(0), (2, *size, channels))
    return model, jax.jit(model.init)(jax.random.key(1), x), x


def test_parameters_of_the_notebooks_network():
    shapes = jax.eval_shape(UNet3D().init, jax.random.key(0), jax.ShapeDtypeStruct((1, 16, 16, 16, 3), jnp.float32))
    count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    # Counted from the Keras model: 2 convolutions a level, transposed convolutions, 1x1x1 head, all with bias.
    features, expected, channels = (16, 32, 64, 128, 256), 0, 3
    for f in features:
        expected += 27 * channels * f + f + 27 * f * f + f
        channels = f
    for f in reversed(features[:-1]):
        expected += 8 * channels * f + f + 27 * 2 * f * f + f + 27 * f * f + f
        channels = f
    expected += 16 * 4 + 4
    assert count == expected == 5_645_828


def count(channels=2, size=8, **options):
    model, x = UNet3D(**{**SMALL, **options}), jnp.zeros((1, size, size, size, channels))
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0), x)))


def test_parameters_of_nnu_nets_residual_encoder_l():
    # The first number is that of ResidualEncoderUNet of dynamic_network_architectures 0.4.4 with these sizes, 4 inputs,
    # 4 classes; 13056 are biases that the normalisation after them takes away, 1284 a head whose loss has no weight.
    found = count(
        channels=4,
        size=32,
        features=(32, 64, 128, 256, 320, 320),
        norm="instance",
        activation="leaky_relu",
        block="residual",
        blocks_per_level=(1, 3, 4, 6, 6, 6),
        decoder_block="single",
        stem=True,
        downsample="conv",
        deep_supervision=True,
    )
    assert found == 102_353_972 - 13_056 - 1_284


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({"downsample": "conv"}, 0),
        ({"stem": True}, 27 * 2 * 4 + 4 + 27 * 2 * 4),  # and the first block sees 4 channels instead of 2
        ({"blocks_per_level": (1, 3)}, 4 * (27 * 6 * 6 + 6)),
        ({"decoder_block": "single"}, -(27 * 4 * 4 + 4)),
        ({"decoder_blocks_per_level": (2,)}, 2 * (27 * 4 * 4 + 4)),
        ({"block": "residual"}, 2 * 4 + 4 + 4 * 6 + 6 + 8 * 4 + 4),
        ({"block": "residual", "decoder_block": "plain"}, 2 * 4 + 4 + 4 * 6 + 6),
        ({"attention_gates": True}, 8 * 2 + 2 + 2 + 1),
        ({"squeeze_excitation": True}, 2 * (4 * 8 + 8 + 8 * 4 + 4) + 6 * 8 + 8 + 8 * 6 + 6),
        ({"strides": ((2, 2, 1),)}, -4 * 6 * 4),
        ({"kernels": ((3, 3, 1), (3, 3, 3))}, -18 * (2 * 4 + 4 * 4 + 8 * 4 + 4 * 4)),
    ],
)
def test_parameters_that_a_setting_adds(options, more):
    assert count(**options) == count() + more


def inside(downsample):
    """What the modules of a network of strides (2, 1, 2) returned, by module, and its parameters."""
    model, variables, x = build(features=(2, 3), downsample=downsample, strides=((2, 1, 2),))
    logits, state = model.apply(variables, x, capture_intermediates=True, mutable=["intermediates"])
    assert logits.shape == (2, 8, 8, 4, 4)
    return state["intermediates"], variables["params"]


def test_downsampling_by_the_next_levels_first_convolution():
    found, params = inside("conv")
    (skip,), (bottom,) = found["encoder_0"]["__call__"], found["bottom"]["conv_0"]["__call__"]
    np.testing.assert_allclose(bottom, strided_conv3d(skip, params["bottom"]["conv_0"]["kernel"], (2, 1, 2)), atol=1e-5)
    assert found["bottom"]["__call__"][0].shape == (2, 4, 8, 2, 3)


def test_downsampling_by_pooling_along_an_axis():
    found, params = inside("pool")
    (skip,), (bottom,) = found["encoder_0"]["__call__"], found["bottom"]["conv_0"]["__call__"]
    pooled = max_pool(skip, (2, 1, 2))
    kernel = params["bottom"]["conv_0"]["kernel"]
    np.testing.assert_allclose(bottom, strided_conv3d(pooled, kernel, (1, 1, 1)), atol=1e-5)


def test_deep_supervision_gives_logits_of_the_upper_levels_in_training_only():
    model, variables, x = build(features=(2, 2, 2, 2), size=(8, 8, 16), deep_supervision=True)
    # Of the decoder's three levels the lowest has no head.
    assert {name for name in variables["params"] if name.startswith("head")} == {"head", "head_1"}
    in_training = jax.jit(lambda v: model.apply(v, x, train=True))(variables)
    assert [logits.shape for logits in in_training] == [(2, 8, 8, 16, 4), (2, 4, 4, 8, 4)]
    alone = {"params": {name: leaf for name, leaf in variables["params"].items() if name != "head_1"}}
    np.testing.assert_allclose(jax.jit(model.apply)(alone, x), in_training[0], atol=1e-6)


def test_stochastic_depth_rises_linearly_with_the_level():
    model, variables, x = build(features=(2, 2, 2), block="residual", stochastic_depth=0.3, stem=True)
    rates = {}

    def note(call, args, kwargs, context):
        if hasattr(context.module, "stochastic_depth") and context.module.name:
            rates[context.module.name] = round(context.module.stochastic_depth, 6)
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(lambda: model.apply(variables, x))
    assert rates.pop("stem") == 0.1  # which has no residual
    assert rates == {"encoder_0": 0.1, "encoder_1": 0.2, "bottom": 0.3, "decoder_1": 0.2, "decoder_0": 0.1}


@pytest.mark.parametrize("norm", ["none", "instance", "group", "batch"])
def test_norms_give_finite_logits_of_the_right_shape(norm):
    model, variables, x = build(norm=norm)
    logits = jax.jit(model.apply)(variables, x)
    assert logits.shape == (2, 8, 8, 4, 4)
    assert logits.dtype == jnp.float32
    assert np.all(np.isfinite(logits))
    assert ("batch_stats" in variables) == (norm == "batch")


def test_convolution_algorithms_and_remat_share_parameters_and_results():
    model, variables, x = build(norm="instance")
    expected = jax.jit(model.apply)(variables, x)
    for options in ({"conv": "auto"}, {"conv": "slices"}, {"remat": True}):
        other = UNet3D(**{**SMALL, **options}, norm="instance")
        np.testing.assert_allclose(jax.jit(other.apply)(variables, x), expected, atol=2e-5)


def test_remat_has_the_same_gradient():
    options = {"block": "residual", "decoder_block": "plain", "squeeze_excitation": True, "attention_gates": True}

    def gradient(remat):
        model, variables, x = build(remat=remat, **options)
        return jax.jit(jax.grad(lambda v: jnp.sum(model.apply(v, x) ** 2)))(variables)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-4), gradient(False), gradient(True))


def test_bfloat16_keeps_parameters_in_float32():
    model, variables, x = build(norm="instance", dtype=jnp.bfloat16)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    single = jax.jit(UNet3D(**SMALL, norm="instance").apply)(variables, x)
    half = jax.jit(model.apply)(variables, x)
    assert half.dtype == jnp.float32
    assert np.abs(half - single).max() < 0.1 * np.abs(single).max()


def test_cases_of_a_batch_do_not_mix():
    model, variables, x = build(norm="instance")
    apply = jax.jit(model.apply)
    np.testing.assert_array_equal(apply(variables, x)[1], apply(variables, x.at[0].multiply(-3))[1])
    np.testing.assert_allclose(apply(variables, x)[1], apply(variables, x[::-1])[0], rtol=1e-5, atol=1e-5)


def test_shifting_by_a_whole_block_shifts_the_output_inside():
    # Without normalisation a network of 2 levels sees 2 * 2 + 4 * 2 + 2 * 2 voxels far at most; far from both edges,
    # moving the input by the pooling block moves the output.
    model, variables, _ = build(features=(3, 4), channels=1, size=(4, 4, 4))
    x = np.zeros((1, 40, 4, 4, 1), np.float32)
    x[0, 18:20] = np.random.default_rng(0).normal(size=(2, 4, 4, 1))
    apply = jax.jit(model.apply)
    np.testing.assert_allclose(
        apply(variables, np.roll(x, 2, axis=1))[0, 12:32], apply(variables, x)[0, 10:30], atol=1e-5
    )


def test_dropout_acts_in_training_only_and_by_its_key():
    model, variables, x = build(features=(4, 4), dropout=(0.5, 0.5))

    @jax.jit
    def run(key):
        return model.apply(variables, x, train=True, rngs={"dropout": key})

    one, two = jax.random.split(jax.random.key(0))
    np.testing.assert_array_equal(run(one), run(one))
    assert np.abs(run(one) - run(two)).max() > 1e-3
    apply = jax.jit(model.apply)
    np.testing.assert_array_equal(apply(variables, x), apply(variables, x))


def test_batch_norm_moves_its_statistics_in_training():
    model, variables, x = build(norm="batch", features=(4, 4))
    _, updated = jax.jit(lambda v: model.apply(v, x, train=True, mutable=["batch_stats"]))(variables)
    before, after = jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(updated["batch_stats"])
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(before, after, strict=True))


def test_settings_that_cannot_work_are_refused():
    x = jnp.zeros((1, 6, 8, 8, 1))
    with pytest.raises(ValueError, match="divisible by \\(4, 4, 4\\)"):
        UNet3D(features=(2, 2, 2)).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="2 dropout rates are needed"):
        UNet3D(features=(2, 2), dropout=(0.1, 0.1, 0.1)).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="2 kernels are needed"):
        UNet3D(features=(2, 2), kernels=((3, 3, 3),) * 3).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="norm is one of"):
        UNet3D(features=(2, 2), norm="layer").init(jax.random.key(0), x)
