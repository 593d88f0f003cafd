import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
    def gradient(remat):
        model, variables, x = build(remat=remat)
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
    np.testing.assert_allclose(apply(variables, x)[1], apply(variables, x[::-1])[0], atol=1e-6)


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
    with pytest.raises(ValueError, match="norm is one of"):
        UNet3D(features=(2, 2), norm="layer").init(jax.random.key(0), x)
