"""Volumes split over devices: the same numbers, and memory that falls with the number of devices."""

import dataclasses

import jax
import numpy as np
import pytest
from training_steps import train_on

from jaxbrats.config.settings import Model, Settings
from jaxbrats.inference.validation import jit_validation_step
from jaxbrats.model.losses import make_loss
from jaxbrats.train.mesh import ProcessSlice, batch_shapes, make_mesh, process_slice, put_batch, replicate, replicated
from jaxbrats.train.optimizer import make_optimizer
from jaxbrats.train.state import init_state, make_model
from jaxbrats.train.step import jit_train_step

SETTINGS = Settings(batch_size=1, conv="direct", model=Model(features=(4, 6), norm="instance", dropout=(0.2,)))


def settings_with(**model):
    return dataclasses.replace(SETTINGS, model=dataclasses.replace(SETTINGS.model, **model))


def batch_of(shape=(16, 8, 8), cases=1, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(cases, *shape, 3)).astype(np.float32)
    return {"image": image, "labels": rng.integers(0, 4, image.shape[:-1]).astype(np.uint8)}


def results_on(space, settings):
    """Two steps' losses, the parameters after them, and the validation of the last state."""
    model, optimizer, loss = make_model(settings), make_optimizer(1e-3, "constant", 10), make_loss(settings.loss)
    losses, _, state = train_on(1, space, model, optimizer, loss, [batch_of(seed=seed) for seed in range(2)])
    mesh = make_mesh(1, space, 1)
    validated = jit_validation_step(mesh, model, loss)(replicate(mesh, state), put_batch(mesh, batch_of(seed=2)))
    return losses, state.params, jax.device_get(validated)


@pytest.mark.slow
def test_a_volume_on_four_devices_gives_the_same_results():
    """Convolutions over the cuts, pooling, upsampling and normalisation, whose statistics are of the whole volume."""
    one, four = (results_on(space, settings_with(norm="instance")) for space in (1, 4))
    np.testing.assert_allclose(four[0], one[0], rtol=1e-5)
    np.testing.assert_allclose(four[2].loss, one[2].loss, rtol=1e-5)
    np.testing.assert_allclose(four[2].counts.confusion, one[2].counts.confusion, atol=2)  # argmax at ties
    for ours, theirs in zip(jax.tree.leaves(four[1]), jax.tree.leaves(one[1]), strict=True):
        # Adam's first steps have the gradient's sign alone, which of a gradient near 0 is chance.
        assert np.mean(np.abs(ours - theirs) < 1e-5) > 0.95


def activation_bytes(space, conv="direct", shape=(64, 32, 32)):
    settings = dataclasses.replace(settings_with(dropout=(0.1,)), conv=conv)
    model, optimizer = make_model(settings), make_optimizer(1e-3, "constant", 10)
    mesh = make_mesh(1, space, 1)

    def described(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh))

    state = jax.tree.map(described, jax.eval_shape(lambda: init_state(model, optimizer, 0, 3)))
    key = described(jax.eval_shape(lambda: jax.random.key(0)))
    step = jit_train_step(mesh, model, optimizer, make_loss(settings.loss))
    program = step.lower(state, batch_shapes(mesh, 1, (*shape, 3)), key).compile()
    return program.memory_analysis().temp_size_in_bytes


def test_memory_of_a_device_falls_with_their_number():
    """Nothing of a volume's size is gathered on one device: not for pooling, upsampling or the losses."""
    assert activation_bytes(4) < 0.30 * activation_bytes(1)


def test_the_share_of_a_process_is_all_where_it_is_alone():
    assert process_slice(make_mesh(2, 4, 2)) == ProcessSlice(0, 1, range(4))


class Device:
    def __init__(self, process):
        self.process_index = process


@pytest.mark.parametrize(
    ("processes", "data", "space", "shares"),
    [
        ([0, 0, 1, 1], 4, 1, [ProcessSlice(0, 2, range(1)), ProcessSlice(1, 2, range(1))]),
        ([0, 0, 1, 1], 2, 2, [ProcessSlice(0, 2, range(2)), ProcessSlice(1, 2, range(2))]),
        ([0, 0, 1, 1], 1, 4, [ProcessSlice(0, 1, range(2)), ProcessSlice(0, 1, range(2, 4))]),
        (
            [0, 1, 2, 3],
            2,
            2,
            [ProcessSlice(0, 2, range(1)), ProcessSlice(0, 2, range(1, 2)), ProcessSlice(1, 2, range(1))],
        ),
    ],
)
def test_the_shares_of_several_processes(monkeypatch, processes, data, space, shares):
    """Four devices of two or four processes; a volume may lie on devices of several."""

    class FakeMesh:
        devices = np.array([Device(process) for process in processes]).reshape(data, space)
        shape = {"data": data, "space": space}  # noqa: RUF012

    for process, expected in enumerate(shares):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        assert process_slice(FakeMesh) == expected
