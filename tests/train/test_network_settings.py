"""Every setting of the network trains: two steps on tiny volumes, on one device and on four."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxbrats.config import Model, Settings
from jaxbrats.model.losses import make_loss
from jaxbrats.train.mesh import make_mesh, put_batch, replicate
from jaxbrats.train.optimizer import make_optimizer
from jaxbrats.train.state import init_state, make_model
from jaxbrats.train.step import jit_train_step

RESIDUAL_ENCODER = Model(
    features=(4, 4, 4),
    norm="instance",
    activation="leaky_relu",
    dropout=(0.0,),
    block="residual",
    blocks_per_level=(1, 2, 1),
    decoder_block="single",
    stem=True,
    stochastic_depth=0.2,
    downsample="conv",
    deep_supervision=True,
)
GATED = Model(
    features=(4, 4, 4),
    norm="group",
    dropout=(0.1,),
    decoder_blocks_per_level=(1, 2),
    squeeze_excitation=True,
    attention_gates=True,
    strides=((2, 2, 1), (2, 2, 2)),
    kernels=((3, 3, 1), (3, 3, 3), (3, 3, 3)),
)
SETTINGS = {
    "residual encoder": Settings(model=RESIDUAL_ENCODER),
    "residual encoder in bfloat16, recomputed": Settings(model=RESIDUAL_ENCODER, dtype="bfloat16", remat=True),
    "gates, axes": Settings(model=GATED),
}


def two_steps(settings, data, space):
    """Losses of two steps, and the parameters before and after."""
    model, optimizer = make_model(settings), make_optimizer(1e-3, "constant", 10)
    mesh = make_mesh(data, space, 2)
    state = init_state(model, optimizer, 0, 3)
    before = jax.device_get(state.params)
    step = jit_train_step(mesh, model, optimizer, make_loss(settings.loss))
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 8, 8, 8, 3)).astype(np.float32)
    batch = put_batch(mesh, {"image": image, "labels": rng.integers(0, 4, image.shape[:-1]).astype(np.uint8)})
    state, key, losses = replicate(mesh, state), replicate(mesh, jax.random.key(0)), []
    for _ in range(2):
        state, metrics = step(state, batch, key)
        assert metrics.finite
        losses.append(float(metrics.loss))
    return losses, before, jax.device_get(state.params)


@pytest.mark.parametrize("name", SETTINGS)
def test_two_steps_move_every_parameter_and_are_the_same_on_four_devices(name):
    settings = dataclasses.replace(SETTINGS[name], conv="direct")
    losses, before, after = two_steps(settings, 1, 1)
    still = [
        jax.tree_util.keystr(path)
        for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
        if np.array_equal(old, new)
    ]
    assert still == []
    split, _, _ = two_steps(settings, 2, 2)
    np.testing.assert_allclose(split, losses, rtol=2e-2 if settings.dtype == "bfloat16" else 1e-4)
