"""Optimisers and learning rate schedules by name."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax


def constant(learning_rate: float, total_steps: int) -> optax.Schedule:
    """The same learning rate at every step."""
    del total_steps
    return optax.constant_schedule(learning_rate)


def cosine(learning_rate: float, total_steps: int) -> optax.Schedule:
    """Cosine to zero (Loshchilov and Hutter 2017, arXiv:1608.03983) after a linear warm-up over the first twentieth of
    the steps.
    """
    warmup = total_steps // 20
    return optax.warmup_cosine_decay_schedule(learning_rate / 10, learning_rate, warmup, max(total_steps, warmup + 1))


# From the peak learning rate and the run's number of steps to a schedule.
SCHEDULES: dict[str, Callable[[float, int], optax.Schedule]] = {"constant": constant, "cosine": cosine}


def make_optimizer(learning_rate: float, schedule: str, total_steps: int) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015, arXiv:1412.6980) with a learning rate of `SCHEDULES`."""
    return optax.adam(SCHEDULES[schedule](learning_rate, total_steps))


def learning_rates(learning_rate: float, schedule: str, total_steps: int) -> np.ndarray:
    """float32 `(total_steps,)`: the learning rate of every update, computed once, so that the log waits for none."""
    values = jax.vmap(SCHEDULES[schedule](learning_rate, total_steps))(jnp.arange(total_steps))
    return np.broadcast_to(np.asarray(values, np.float32), total_steps)
