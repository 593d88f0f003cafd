"""The step as a pure function: against plain JAX, and the same on any number of devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_steps import train_on

from jaxbrats.config.settings import Loss, Model, Settings
from jaxbrats.model.losses import categorical_focal_loss, dice_loss, make_loss
from jaxbrats.system.errors import InputError
from jaxbrats.train.mesh import make_mesh, put_batch, replicate
from jaxbrats.train.optimizer import make_optimizer
from jaxbrats.train.state import init_state, make_model
from jaxbrats.train.step import is_finite, jit_train_step

SETTINGS = Settings(batch_size=2, conv="direct", model=Model(features=(4, 6), norm="instance", dropout=(0.0,)))


def batch_of(cases=2, size=8, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(cases, size, size, size, 3)).astype(np.float32)
    return {"image": image, "labels": rng.integers(0, 4, image.shape[:-1]).astype(np.uint8)}


@pytest.fixture(scope="module")
def parts():
    model = make_model(SETTINGS)
    optimizer = make_optimizer(1e-2, "constant", 10)
    return model, optimizer, make_loss(SETTINGS.loss)


def test_a_step_is_adam_on_the_sum_of_both_losses(parts):
    model, optimizer, loss = parts
    mesh = make_mesh(1, 1, 2)
    state = init_state(model, optimizer, 0, 3)
    params = jax.tree.map(np.asarray, state.params)
    batch = batch_of()

    def objective(params):
        logits = model.apply({"params": params}, batch["image"])
        return dice_loss(logits, batch["labels"]) + categorical_focal_loss(logits, batch["labels"])

    expected_loss, gradient = jax.jit(jax.value_and_grad(objective))(params)
    # Adam's first step moves each parameter by the learning rate against its gradient's sign.
    expected = jax.tree.map(lambda p, g: p - 1e-2 * g / (np.abs(g) + 1e-8), params, gradient)
    new, metrics = jit_train_step(mesh, model, optimizer, loss)(
        replicate(mesh, state), put_batch(mesh, batch), replicate(mesh, jax.random.key(0))
    )
    assert int(new.step) == 1
    np.testing.assert_allclose(metrics.loss, expected_loss, rtol=1e-6)
    moved = jax.tree.map(lambda a, b: float(np.mean(np.abs(a - b) < 1e-4)), new.params, expected)
    assert min(jax.tree.leaves(moved)) > 0.95  # a gradient near 0 has no certain sign


def test_an_update_that_is_not_finite_is_seen_and_dropped(parts):
    model, optimizer, _ = parts
    mesh = make_mesh(1, 1, 2)

    def loss(logits, labels):
        infinite_gradient = jnp.sqrt(jnp.where(jnp.all(labels == 3), 0.0, 1.0) * jnp.sum(logits**2))
        return infinite_gradient + jnp.where(jnp.all(labels == 2), jnp.nan, 0.0)

    steps = {skip: jit_train_step(mesh, model, optimizer, loss, skip_nonfinite=skip) for skip in (False, True)}
    before = init_state(model, optimizer, 0, 3)

    def after(skip, labels):
        batch = batch_of() | {"labels": np.full((2, 8, 8, 8), labels, np.uint8)}
        state = replicate(mesh, jax.tree.map(np.array, before))
        return steps[skip](state, put_batch(mesh, batch), replicate(mesh, jax.random.key(0)))

    for labels, loss_is_finite in ((3, True), (2, False)):
        kept, metrics = after(True, labels)
        assert not metrics.finite
        assert bool(np.isfinite(metrics.loss)) == loss_is_finite
        assert (int(kept.step), int(kept.skipped), int(metrics.skipped)) == (1, 1, 1)
        jax.tree.map(np.testing.assert_array_equal, (before.params, before.opt_state), (kept.params, kept.opt_state))
        assert not after(False, labels)[1].finite
    assert not np.isfinite(after(False, 3)[0].params["bottom"]["conv_0"]["kernel"]).all()
    good, metrics = after(True, 1)
    assert metrics.finite
    assert int(good.skipped) == 0
    jax.tree.map(np.testing.assert_array_equal, good, after(False, 1)[0])


def test_gradients_that_adam_cannot_square_are_not_finite():
    good = {"a": jnp.array([1e19, -1e19]), "b": jnp.zeros(3)}
    assert is_finite(jnp.array(1.0), good, {})
    for bad in (jnp.nan, jnp.inf, -2e19):
        assert not is_finite(jnp.array(1.0), good | {"b": jnp.array([0.0, bad])}, {})
        assert not is_finite(jnp.array(1.0), good, {"mean": jnp.array([bad])})
    assert not is_finite(jnp.array(jnp.inf), good, {})


def test_loss_weights():
    logits, labels = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 2, 2, 4))), jnp.ones((1, 2, 2, 2), int)
    dice, focal = dice_loss(logits, labels), categorical_focal_loss(logits, labels)
    assert np.isclose(make_loss(Loss({"dice": 2.0, "focal": 0.0}))(logits, labels), 2 * dice)
    assert np.isclose(make_loss(Loss({"dice": 0.5, "focal": 3.0}))(logits, labels), 0.5 * dice + 3 * focal)


def losses_on(data, space):
    """Losses of three steps, with dropout, on a mesh of devices."""
    settings = dataclasses.replace(SETTINGS, model=dataclasses.replace(SETTINGS.model, dropout=(0.2,)))
    model, optimizer = make_model(settings), make_optimizer(1e-4, "constant", 10)
    batches = [batch_of(8, seed=number) for number in range(3)]
    return train_on(data, space, model, optimizer, make_loss(settings.loss), batches)[0]


@pytest.fixture(scope="module")
def losses_on_one_device():
    return losses_on(1, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("data", "space"), [(8, 1), (2, 2)])
def test_any_number_of_devices_gives_the_same_losses(losses_on_one_device, data, space):
    np.testing.assert_allclose(losses_on(data, space), losses_on_one_device, rtol=1e-5)


def test_all_devices_are_taken_by_default():
    assert dict(make_mesh(-1, 1, 8).shape) == {"data": 8, "space": 1}
    assert dict(make_mesh(-1, 2, 8).shape) == {"data": 4, "space": 2}


def test_a_batch_that_the_devices_do_not_divide_is_refused():
    with pytest.raises(InputError, match=r"batch_size 6 cannot be divided over 8 devices\. Take a multiple of 8"):
        make_mesh(-1, 1, 6)
    with pytest.raises(InputError, match="asks for 9 x 1 devices, there are 8"):
        make_mesh(9, 1, 9)
    with pytest.raises(InputError, match=r"16 cannot be divided over 8 devices in 4 micro-batches\. Take .* 32"):
        make_mesh(8, 1, 16, accumulate=4)
