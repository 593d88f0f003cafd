import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxbrats.config.optimizer import Optimizer, OptimizerName, Schedule
from jaxbrats.config.settings import from_config
from jaxbrats.system.errors import InputError
from jaxbrats.train.optimizer import (
    OPTIMIZERS,
    SCHEDULES,
    decayed,
    learning_rates,
    make_optimizer,
    make_schedule,
    update_average,
)
from jaxbrats.train.state import init_state, make_model


def steps(options, gradients=(0.5, -1.0), start=2.0, learning_rate=0.1):
    """A kernel of one weight and a bias, both of the same value and gradient, after each update."""
    optimizer = make_optimizer(learning_rate, "constant", 10, options)
    params = {"kernel": jnp.full((1, 1), start), "bias": jnp.full(1, start)}
    state, values = optimizer.init(params), []
    for gradient in gradients:
        slopes = {"kernel": jnp.full((1, 1), gradient), "bias": jnp.full(1, gradient)}
        updates, state = optimizer.update(slopes, state, params)
        params = optax.apply_updates(params, updates)
        values.append([float(params["kernel"][0, 0]), float(params["bias"][0])])
    return np.array(values)


def test_the_tables_have_what_the_settings_name():
    assert set(OPTIMIZERS) == set(typing.get_args(OptimizerName))
    assert set(SCHEDULES) == set(typing.get_args(Schedule))


def test_adam_by_hand():
    first = 2.0 - 0.1 * 1.0  # the first step is the learning rate long, whatever the gradient
    mean = (0.9 * 0.1 * 0.5 + 0.1 * -1.0) / (1 - 0.9**2)
    square = (0.999 * 0.001 * 0.25 + 0.001 * 1.0) / (1 - 0.999**2)
    second = first - 0.1 * mean / np.sqrt(square)
    np.testing.assert_allclose(steps(Optimizer()), [[first] * 2, [second] * 2], rtol=1e-6)
    assert float(steps(None)[1, 0]) == float(steps(Optimizer())[1, 0])


def test_adamw_decays_the_weights_by_themselves():
    """The step of Adam and, for the kernel alone, learning rate x decay x weight."""
    adam = steps(Optimizer())
    (kernel_1, bias_1), (kernel_2, bias_2) = steps(Optimizer(name="adamw", weight_decay=0.3))
    assert [bias_1, bias_2] == pytest.approx(adam[:, 1], rel=1e-6)
    assert kernel_1 == pytest.approx(adam[0, 0] - 0.1 * 0.3 * 2.0, rel=1e-6)
    assert kernel_2 == pytest.approx(kernel_1 + (adam[1, 0] - adam[0, 0]) - 0.1 * 0.3 * kernel_1, rel=1e-6)


def test_sgd_with_nesterov_momentum_and_the_decay_in_the_gradient():
    momentum, decay = 0.9, 0.3
    expected = []
    for decay_of in (decay, 0.0):  # of the kernel, of the bias
        value, velocity, values = 2.0, 0.0, []
        for gradient in (0.5, -1.0):
            slope = gradient + decay_of * value
            velocity = momentum * velocity + slope
            value -= 0.1 * (slope + momentum * velocity)
            values.append(value)
        expected.append(values)
    found = steps(Optimizer(name="sgd", momentum=momentum, weight_decay=decay))
    np.testing.assert_allclose(found, np.transpose(expected), rtol=1e-6)


def test_clipping_by_the_global_norm_of_all_gradients():
    """Two gradients of 3 have the norm 3 sqrt(2): clipped to 1 each is sqrt(1/2); small ones stay."""
    plain = Optimizer(name="sgd", momentum=0.0, clip_norm=1.0)
    np.testing.assert_allclose(steps(plain, gradients=[3.0]), [[2.0 - 0.1 * np.sqrt(0.5)] * 2], rtol=1e-6)
    np.testing.assert_allclose(steps(plain, gradients=[0.5]), [[2.0 - 0.1 * 0.5] * 2], rtol=1e-6)


@pytest.mark.parametrize("norm", ["none", "instance", "group", "batch"])
def test_decay_spares_biases_and_norms_of_the_network(norm):
    model = make_model(from_config({"model": {"features": (4, 6), "norm": norm, "dropout": (0.0,)}}))
    params = jax.eval_shape(lambda: init_state(model, optax.identity(), 0, 3)).params
    named = {jax.tree_util.keystr(path): flag for path, flag in jax.tree_util.tree_leaves_with_path(decayed(params))}
    assert {name for name, flag in named.items() if flag} == {name for name in named if name.endswith("['kernel']")}
    assert sum(named.values()) == 8
    assert any(name.endswith("['bias']") for name in named)
    assert any(name.endswith("['scale']") for name in named) == (norm != "none")


def test_the_polynomial_of_nnu_net():
    rates = learning_rates(1e-2, "polynomial", 1000)
    expected = [1e-2 * (1 - step / 1000) ** 0.9 for step in (0, 1, 500, 999)]
    np.testing.assert_allclose(rates[[0, 1, 500, 999]], expected, rtol=1e-4)
    assert rates[500] == pytest.approx(0.01 * 0.5358867, rel=1e-5)


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_warm_up_rises_from_a_tenth_and_the_schedule_begins_after_it(schedule):
    rates = learning_rates(1.0, schedule, 50, warmup=0.2)
    np.testing.assert_allclose(rates[:11], np.linspace(0.1, 1.0, 11), rtol=1e-6)
    np.testing.assert_allclose(rates[10:], learning_rates(1.0, schedule, 40, warmup=0.0), rtol=1e-6)


def test_the_default_warm_ups():
    """A twentieth of the cosine's steps, exactly as optax has both in one; none of the others'."""
    together = optax.warmup_cosine_decay_schedule(1e-4, 1e-3, 5, 119)
    np.testing.assert_array_equal(learning_rates(1e-3, "cosine", 119), jax.vmap(together)(jnp.arange(119)))
    assert learning_rates(1e-3, "constant", 100).tolist() == [np.float32(1e-3)] * 100
    assert learning_rates(1e-3, "polynomial", 100)[0] == np.float32(1e-3)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("total_steps", [1, 3, 60])
def test_learning_rates_are_the_schedule_value_by_value(name, total_steps):
    rates = learning_rates(3e-3, name, total_steps)
    assert (rates.shape, rates.dtype) == ((total_steps,), np.float32)
    schedule = make_schedule(3e-3, name, total_steps)
    np.testing.assert_allclose(rates, [float(schedule(step)) for step in range(total_steps)], rtol=1e-5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_updates_are_made_with_these_learning_rates(name):
    """Adam moves a parameter whose gradient is always 1 by just the learning rate."""
    optimizer = make_optimizer(3e-3, name, 40, Optimizer(warmup=0.1))
    update = jax.jit(optimizer.update)
    state, moved = optimizer.init(jnp.zeros(())), []
    for _ in range(40):
        change, state = update(jnp.ones(()), state)
        moved.append(-float(change))
    np.testing.assert_allclose(moved, learning_rates(3e-3, name, 40, warmup=0.1), rtol=1e-4, atol=1e-9)


def test_adam_keeps_the_state_that_checkpoints_have():
    params = {"kernel": jnp.ones((2, 2))}
    before = optax.adam(lambda count: 1e-3).init(params)
    assert jax.tree.structure(make_optimizer(1e-3, "constant", 10).init(params)) == jax.tree.structure(before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_decay": 0.1}, "optimizer.weight_decay is for adamw and sgd, with optimizer.name = adam it must be 0"),
        ({"name": "lion"}, "optimizer.name must be one of adam, adamw, sgd"),
        ({"momentum": 1.0}, "optimizer.momentum is from 0 to below 1"),
        ({"clip_norm": 0.0}, "optimizer.clip_norm must be above 0, or none"),
        ({"warmup": 1.0}, "optimizer.warmup is from 0 to below 1, or none"),
    ],
)
def test_wrong_settings(options, message):
    with pytest.raises(InputError, match=message):
        from_config({"optimizer": options})


def test_the_average_by_hand():
    """Weights (1 - d) d^(t - k), divided by their sum 1 - d^t; what it began with has no part in it."""
    values, decay, average = [3.0, -1.0, 4.0, 10.0], 0.9, {"params": jnp.float32(0), "batch_stats": jnp.zeros(2)}
    for count, value in enumerate(values, 1):
        variables = {"params": jnp.float32(value), "batch_stats": jnp.full(2, 2 * value)}
        average = update_average(average, variables, decay, jnp.int32(count))
        weights = 0.1 * 0.9 ** np.arange(count)[::-1]
        expected = weights @ values[:count] / (1 - 0.9**count)
        assert float(average["params"]) == pytest.approx(expected, rel=1e-6)
        np.testing.assert_allclose(average["batch_stats"], 2 * expected, rtol=1e-6)
