"""Learning rate schedules by hand, and the learning rates of the log against those that updates are made with."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxbrats.train.optimizer import SCHEDULES, learning_rates, make_optimizer


def test_schedules():
    constant, cosine = (SCHEDULES[name](1e-3, 100) for name in ("constant", "cosine"))
    assert constant(0) == constant(99) == 1e-3
    assert np.isclose(cosine(0), 1e-4)
    assert np.isclose(cosine(5), 1e-3)
    assert np.isclose(cosine(5 + 95 / 2), 0.5e-3, rtol=0.02)
    assert cosine(100) < 1e-9


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("total_steps", [1, 3, 60])
def test_learning_rates_are_the_schedule_value_by_value(name, total_steps):
    rates = learning_rates(3e-3, name, total_steps)
    assert (rates.shape, rates.dtype) == ((total_steps,), np.float32)
    schedule = SCHEDULES[name](3e-3, total_steps)
    np.testing.assert_allclose(rates, [float(schedule(step)) for step in range(total_steps)], rtol=1e-5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_updates_are_made_with_these_learning_rates(name):
    """Adam moves a parameter whose gradient is always 1 by just the learning rate."""
    optimizer = make_optimizer(3e-3, name, 40)
    update = jax.jit(optimizer.update)
    state, moved = optimizer.init(jnp.zeros(())), []
    for _ in range(40):
        change, state = update(jnp.ones(()), state)
        moved.append(-float(change))
    np.testing.assert_allclose(moved, learning_rates(3e-3, name, 40), rtol=1e-4, atol=1e-9)
    assert isinstance(optimizer, optax.GradientTransformation)
