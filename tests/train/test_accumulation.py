"""Gradient accumulation: the same update from less memory, on any mesh."""

import functools

import jax
import numpy as np
import optax
import pytest

from jaxbrats.model.losses import categorical_focal_loss, dice_loss
from jaxbrats.model.unet import UNet3D
from jaxbrats.train.mesh import batch_shapes, make_mesh, put_batch, replicate
from jaxbrats.train.state import init_state
from jaxbrats.train.step import jit_train_step, train_step

GRADIENT = optax.sgd(1.0)  # an update is the gradient itself


def network(**changes):
    return UNet3D(**{"features": (4,), "norm": "instance", "conv": "direct", **changes})


def batch_of(cases, size=8, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(cases, size, size, size, 3)).astype(np.float32)
    return {"image": image, "labels": rng.integers(0, 4, image.shape[:-1]).astype(np.uint8)}


@functools.cache
def compiled(model, loss, accumulate):
    return jax.jit(functools.partial(train_step, model, GRADIENT, loss, accumulate=accumulate))


@functools.cache
def start(model):
    return init_state(model, GRADIENT, 0, 3)


def step(model, loss, batch, accumulate):
    return compiled(model, loss, accumulate)(start(model), batch, jax.random.key(0))


def test_a_loss_that_is_a_mean_over_cases_gives_the_update_of_one_batch():
    batch = batch_of(4)
    whole, metrics = step(network(), categorical_focal_loss, batch, 1)
    parts, parts_metrics = step(network(), categorical_focal_loss, batch, 2)
    for one, other in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parts.params), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-6 * np.abs(one).max())
    np.testing.assert_allclose(parts_metrics.loss, metrics.loss, rtol=1e-6)
    np.testing.assert_array_equal(parts_metrics.dice, metrics.dice)  # from the counts of the whole batch
    np.testing.assert_array_equal(parts_metrics.iou, metrics.iou)
    assert parts_metrics.accuracy == metrics.accuracy


def test_the_dice_loss_is_the_mean_of_the_micro_batches():
    batch, model = batch_of(4), network()
    state, metrics = step(model, dice_loss, batch, 2)
    params = start(model).params
    losses, gradients = [], []
    for part in ({name: array[first::2] for name, array in batch.items()} for first in (0, 1)):
        new, of_part = step(model, dice_loss, part, 1)
        losses.append(of_part.loss)
        gradients.append(jax.tree.map(lambda before, after: before - after, params, new.params))
    np.testing.assert_allclose(metrics.loss, np.mean(losses), rtol=1e-6)
    expected = jax.tree.map(lambda before, a, b: before - (a + b) / 2, params, *gradients)
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-6)


def test_batch_statistics_go_from_one_micro_batch_to_the_next():
    batch, model = batch_of(4), network(norm="batch")
    state, _ = step(model, categorical_focal_loss, batch, 2)
    variables = {"params": start(model).params, "batch_stats": start(model).batch_stats}
    apply = jax.jit(lambda variables, image: model.apply(variables, image, train=True, mutable=["batch_stats"])[1])
    for first in (0, 1):
        variables |= apply(variables, batch["image"][first::2])
    for one, other in zip(jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(state.batch_stats), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


def test_each_micro_batch_has_its_own_dropout():
    one = batch_of(1)
    same = {cases: {name: np.repeat(array, cases, 0) for name, array in one.items()} for cases in (2, 4)}

    def losses(model):
        return [step(model, categorical_focal_loss, same[cases], cases)[1].loss for cases in (2, 4)]

    np.testing.assert_allclose(*losses(network()), rtol=1e-6)
    first, second = losses(network(dropout=0.3))
    assert abs(first - second) > 1e-4 * first


def test_memory_falls():
    model = network(norm="none")
    batch = batch_of(8, 16)
    state = start(model)

    def temporary(accumulate):
        program = compiled(model, categorical_focal_loss, accumulate).lower(state, batch, jax.random.key(0)).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert temporary(4) < 0.4 * temporary(1)


@pytest.mark.parametrize(("data", "space"), [(4, 1), (2, 2)])
def test_micro_batches_stay_on_all_devices(data, space):
    model, accumulate = network(dropout=0.2), 2

    def on(data, space):
        mesh = make_mesh(data, space, 8, accumulate)
        function = jit_train_step(mesh, model, GRADIENT, categorical_focal_loss, accumulate)
        state = replicate(mesh, jax.tree.map(np.asarray, start(model)))
        key = replicate(mesh, jax.random.key(0))
        program = function.lower(state, batch_shapes(mesh, 8, (8, 8, 8, 3)), key).compile()
        if space == 1:  # sums of gradients and counts are sent between the devices, and no volume
            sent = {name for name in ("all-reduce", "all-gather", "all-to-all", "permute") if name in program.as_text()}
            assert sent <= {"all-reduce"}
        return program(state, put_batch(mesh, batch_of(8)), key)

    expected, metrics = on(1, 1)
    state, other_metrics = on(data, space)
    np.testing.assert_allclose(other_metrics.loss, metrics.loss, rtol=1e-5)
    for one, other in zip(jax.tree.leaves(expected.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5)
