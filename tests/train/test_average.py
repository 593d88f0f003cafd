"""The average of the weights through training step, validation, checkpoints and inference."""

import functools

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxbrats.config.settings import from_config
from jaxbrats.inference.validation import validation_step
from jaxbrats.model.losses import dice_loss
from jaxbrats.train import checkpoints
from jaxbrats.train.optimizer import make_optimizer
from jaxbrats.train.state import init_state, make_model
from jaxbrats.train.step import train_step

DECAY = 0.8


@pytest.fixture(scope="module")
def model():
    network = {"features": (2,), "norm": "batch", "dropout": (0.0,)}
    return make_model(from_config({"conv": "direct", "model": network}))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 4, 4, 4, 1)).astype(np.float32)
    return {"image": images, "labels": rng.integers(0, 4, (2, 4, 4, 4)).astype(np.uint8)}


def states(model, batch, ema, count=4, spoilt=()):
    """The states of some steps; the batches of those in `spoilt` are not finite, and their updates dropped."""
    optimizer = make_optimizer(1e-2, "constant", 10)
    step = jax.jit(functools.partial(train_step, model, optimizer, dice_loss, skip_nonfinite=True, ema=ema))
    state, found = init_state(model, optimizer, 0, 1, ema), []
    for number in range(count):
        image = batch["image"] * (np.nan if number in spoilt else 1)
        state, _ = step(state, batch | {"image": image}, jax.random.key(0))
        found.append(jax.device_get(state))
    return found


def weighted(trees):
    """Their average with weights that fall with age, divided by the sum of these."""
    weights = DECAY ** np.arange(len(trees))[::-1]
    return jax.tree.map(lambda *leaves: np.tensordot(weights / weights.sum(), leaves, 1), *trees)


def test_the_average_is_kept_apart_and_training_is_the_same(model, batch):
    plain, averaged = states(model, batch, 0.0), states(model, batch, DECAY)
    assert plain[-1].average is None
    for one, other in zip(plain, averaged, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one.trained, other.trained)
    expected = weighted([state.trained for state in averaged])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), averaged[-1].average, expected)
    assert averaged[-1].variables is averaged[-1].average
    assert expected["batch_stats"]


def test_a_dropped_update_has_no_part_in_it(model, batch):
    found = states(model, batch, DECAY, spoilt=(1,))
    jax.tree.map(np.testing.assert_array_equal, found[0].average, found[1].average)
    expected = weighted([found[0].trained, found[2].trained, found[3].trained])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), found[3].average, expected)


def test_validation_sees_the_average(model, batch):
    last = states(model, batch, DECAY)[-1]
    average = last.replace(**last.average, average=None)
    validate = jax.jit(functools.partial(validation_step, model, dice_loss))
    seen, of_average, of_trained = (
        validate(state, batch).loss for state in (last, average, last.replace(average=None))
    )
    np.testing.assert_array_equal(seen, of_average)
    assert not np.array_equal(seen, of_trained)


@pytest.mark.parametrize("ema", [0.0, DECAY])
def test_checkpoints_hold_both(model, batch, tmp_path, ema):
    last = states(model, batch, ema)[-1]
    like = init_state(model, make_optimizer(1e-2, "constant", 10), 1, 1, ema)
    with checkpoints.open_checkpoints(tmp_path) as manager:
        checkpoints.save(manager, last, {})
        manager.wait_until_finished()
        restored, _ = checkpoints.restore(manager, 4, like)
    jax.tree.map(np.testing.assert_array_equal, restored, last)
    _, variables = checkpoints.load_variables(tmp_path, "latest", like.variables)
    jax.tree.map(np.testing.assert_array_equal, variables, last.average if ema else last.trained)
    with ocp.StandardCheckpointer() as reader:
        saved = reader.metadata(tmp_path / "checkpoints" / "4" / "training").item_metadata.tree
    assert set(saved) == {"step", "opt_state", "skipped"} | ({"trained"} if ema else set())
