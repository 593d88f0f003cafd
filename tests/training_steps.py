"""Some training steps on a mesh of devices, as several tests take them."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
import optax
from flax import linen as nn

from jaxbrats.model.losses import LossFunction
from jaxbrats.train.mesh import make_mesh, put_batch, replicate
from jaxbrats.train.state import TrainState, init_state
from jaxbrats.train.step import jit_train_step


@functools.cache
def first_state(model: nn.Module, channels: int) -> TrainState:
    """A network's parameters of seed 0 as arrays of NumPy, made once however many meshes a test takes."""
    return jax.tree.map(np.array, init_state(model, optax.identity(), 0, channels))


def train_on(
    data: int,
    space: int,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    loss: LossFunction,
    batches: Sequence[dict[str, np.ndarray]],
) -> tuple[list[float], TrainState, TrainState]:
    """The losses of a step on each batch, and the first and the last state as arrays of NumPy.

    On a mesh of `data` times `space` devices, from the parameters of seed 0. Every update has to be finite.
    """
    cases, channels = batches[0]["image"].shape[0], batches[0]["image"].shape[-1]
    mesh = make_mesh(data, space, cases)
    start = first_state(model, channels)
    start = start.replace(opt_state=jax.tree.map(np.array, optimizer.init(start.params)))
    step, key = jit_train_step(mesh, model, optimizer, loss), replicate(mesh, jax.random.key(0))
    state, losses = replicate(mesh, start), []
    for batch in batches:
        state, metrics = step(state, put_batch(mesh, batch), key)
        assert metrics.finite
        losses.append(float(metrics.loss))
    return losses, start, jax.device_get(state)
