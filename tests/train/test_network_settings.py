"""Every setting of the network trains: two steps on tiny volumes."""

import jax
import numpy as np
import optax
import pytest
from training_steps import train_on

from jaxbrats.config import Data, Model, Settings
from jaxbrats.model.losses import make_loss
from jaxbrats.train.state import make_model

RESIDUAL_ENCODER = Model(
    features=(4, 4, 4, 4),
    norm="instance",
    activation="leaky_relu",
    dropout=(0.0,),
    block="residual",
    blocks_per_level=(1, 2, 1, 1),
    decoder_block="single",
    stem=True,
    stochastic_depth=0.2,
    downsample="conv",
    strides=((2, 2, 2), (2, 2, 2), (1, 1, 2)),
    deep_supervision=True,
)
GATED = Model(
    features=(4, 4),
    norm="group",
    dropout=(0.1,),
    decoder_block="residual",
    decoder_blocks_per_level=(2,),
    squeeze_excitation=True,
    attention_gates=True,
    strides=((2, 2, 1),),
    kernels=((3, 3, 1), (3, 3, 3)),
)


def two_steps(settings, data, space, size=(8, 8, 8)):
    """Losses of two steps of gradient descent, and the parameters before and after."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, *size, 3)).astype(np.float32)
    batch = {"image": image, "labels": rng.integers(0, 4, image.shape[:-1]).astype(np.uint8)}
    model, loss = make_model(settings), make_loss(settings.loss)
    losses, before, after = train_on(data, space, model, optax.sgd(1e-2), loss, [batch] * 2)
    return losses, before.params, after.params


def unmoved(before, after):
    pairs = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    return [jax.tree_util.keystr(path) for (path, old), new in pairs if np.array_equal(old, new)]


@pytest.mark.slow
def test_a_residual_encoder_trains_alike_on_one_device_and_on_four():
    settings = Settings(model=RESIDUAL_ENCODER, conv="direct")
    losses, before, after = two_steps(settings, 1, 1)
    assert unmoved(before, after) == []
    assert losses[1] != losses[0]
    split, _, split_after = two_steps(settings, 2, 2)
    np.testing.assert_allclose(split, losses, rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), split_after, after)


@pytest.mark.slow
def test_gates_and_axes_train_in_bfloat16_with_recomputation():
    losses, before, after = two_steps(Settings(model=GATED, conv="direct", dtype="bfloat16", remat=True), 1, 1)
    assert np.all(np.isfinite(losses))
    assert unmoved(before, after) == []


# Convolutions of slices are others on a processor, so those of this machine.
@pytest.mark.parametrize(("dimensions", "patch", "conv"), [("2d", (8, 8, 1), "auto"), ("2.5d", (8, 8, 2), "direct")])
def test_slices_and_slabs_train(dimensions, patch, conv):
    model = Model((2, 3), "instance", dropout=(0.0,), block="single", dimensions=dimensions)
    losses, before, after = two_steps(Settings(model=model, data=Data(patch=patch), conv=conv), 1, 1, patch)
    assert np.all(np.isfinite(losses)) and losses[1] != losses[0]
    assert unmoved(before, after) == []
