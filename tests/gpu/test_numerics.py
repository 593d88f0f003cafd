"""A small U-Net on the GPU against the CPU in float32: logits, loss, gradients, and one step on several GPUs.

It has all that accelerators compute in another form: instance norm, pooling, pointwise and transposed convolutions.
"""

import functools

import jax
import numpy as np
import pytest

from jaxbrats.config.settings import Model, Settings
from jaxbrats.model.losses import make_loss
from jaxbrats.train.mesh import make_mesh, put_batch, replicate
from jaxbrats.train.optimizer import make_optimizer
from jaxbrats.train.state import init_state, make_model
from jaxbrats.train.step import jit_train_step

MODEL = Model(features=(8, 16, 32), norm="instance", activation="silu", dropout=(0.0,))


def batch_of(cases, edge=16):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(cases, edge, edge, edge, 3)).astype(np.float32)
    return image, (np.abs(2 * image[..., 0]).astype(np.uint8) % 4)


@functools.cache
def start(dtype="float32"):
    settings = Settings(dtype=dtype, model=MODEL)
    return make_model(settings), jax.device_get(
        init_state(make_model(settings), make_optimizer(1e-3, "constant", 1), 0, 3)
    )


def computed(processor, dtype="float32", precision="highest"):
    """Logits, loss and gradients."""
    model, state = start(dtype)
    image, labels = batch_of(2)
    loss_function = make_loss(Settings().loss)

    def objective(params):
        logits = model.apply({"params": params}, image, train=True)
        return loss_function(logits, labels), logits

    with processor.computing(precision):
        (loss, logits), gradients = jax.jit(jax.value_and_grad(objective, has_aux=True))(state.params)
        assert logits.devices() == {processor.device}
        return jax.device_get((logits, loss, gradients))


def distance(found, expected):
    """Norm of the difference over the norm."""
    return np.linalg.norm(np.float32(found) - expected) / np.linalg.norm(expected)


# Largest relative distances. In float32 both differ by the order of sums: 3e-6 and 7e-6 were seen between the forms of
# a CPU and those of accelerators on one CPU, and are given four times that. So with operands rounded to ten bits, as
# tensor cores round those of float32 convolutions by default (1.7e-3, 6e-2), and in bfloat16 (1.4e-2, 0.13): gradients
# of the encoder most, because pooling then takes another voxel here and there. The activation is smooth for the same
# reason.
@pytest.mark.parametrize(
    ("dtype", "precision", "of_logits", "of_gradients"),
    [
        ("float32", "highest", 1.2e-5, 3e-5),
        ("float32", "default", 7e-3, 0.24),
        ("bfloat16", "default", 5e-2, 0.5),
    ],
)
def test_logits_and_gradients(cpu, gpu, dtype, precision, of_logits, of_gradients):
    logits, loss, gradients = computed(gpu, dtype, precision)
    expected_logits, expected_loss, expected_gradients = computed(cpu)
    assert distance(logits, expected_logits) < of_logits
    assert loss == pytest.approx(expected_loss, rel=of_logits)
    for (path, found), expected in zip(
        jax.tree.leaves_with_path(gradients), jax.tree.leaves(expected_gradients), strict=True
    ):
        assert distance(found, expected) < of_gradients, jax.tree_util.keystr(path)


def losses_on(count):
    """Of three steps on so many devices."""
    model, optimizer, loss = start()[0], make_optimizer(1e-3, "constant", 1), make_loss(Settings().loss)
    mesh = make_mesh(count, 1, 4)
    state, key = replicate(mesh, (start()[1], jax.random.key(0)))
    image, labels = batch_of(4, edge=16)
    step, losses = jit_train_step(mesh, model, optimizer, loss), []
    for _ in range(3):
        state, metrics = step(state, put_batch(mesh, {"image": image, "labels": labels}), key)
        losses.append(float(metrics.loss))
    return losses


def test_a_batch_over_two_devices_gives_the_same_losses():
    if jax.device_count() < 2:
        pytest.skip("needs two GPUs")
    np.testing.assert_allclose(losses_on(2), losses_on(1), rtol=1e-4)
