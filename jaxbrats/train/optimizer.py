"""Optimisers and learning rate schedules by name, and the average of the weights."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxbrats.config.optimizer import Optimizer


def constant(learning_rate: float, steps: int) -> optax.Schedule:
    """The same learning rate at every step."""
    del steps
    return optax.constant_schedule(learning_rate)


def cosine(learning_rate: float, steps: int) -> optax.Schedule:
    """Cosine to zero (Loshchilov and Hutter 2017, arXiv:1608.03983)."""
    return optax.cosine_decay_schedule(learning_rate, steps)


def polynomial(learning_rate: float, steps: int) -> optax.Schedule:
    """To zero with the power 0.9, as nnU-Net does (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z)."""
    return optax.polynomial_schedule(learning_rate, 0.0, 0.9, steps)


# From the peak learning rate and the steps after the warm-up to a schedule.
SCHEDULES: dict[str, Callable[[float, int], optax.Schedule]] = {
    "constant": constant,
    "cosine": cosine,
    "polynomial": polynomial,
}


def adam(schedule: optax.Schedule, options: Optimizer) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015, arXiv:1412.6980)."""
    del options
    return optax.adam(schedule)


def adamw(schedule: optax.Schedule, options: Optimizer) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101)."""
    return optax.adamw(schedule, weight_decay=options.weight_decay, mask=decayed)


def sgd(schedule: optax.Schedule, options: Optimizer) -> optax.GradientTransformation:
    """Gradient descent with Nesterov momentum (Sutskever et al. 2013) and, as in nnU-Net, the weight decay in the
    gradient.
    """
    decay = optax.add_decayed_weights(options.weight_decay, decayed)
    return optax.chain(decay, optax.sgd(schedule, options.momentum, nesterov=True))


OPTIMIZERS: dict[str, Callable[[optax.Schedule, Optimizer], optax.GradientTransformation]] = {
    "adam": adam,
    "adamw": adamw,
    "sgd": sgd,
}


def decayed(params: Any) -> Any:
    """Which parameters weight decay is for: kernels, and neither biases nor scales of norms, which have one axis."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def make_schedule(learning_rate: float, schedule: str, total_steps: int, warmup: float | None = None) -> optax.Schedule:
    """The learning rate over a run's steps.

    Args:
        learning_rate: The peak.
        schedule: One of `SCHEDULES`, which begins after the warm-up.
        total_steps: Updates of the run.
        warmup: Share of the steps over which the learning rate rises linearly from a tenth of the peak; None for a
            twentieth with 'cosine', else none.
    """
    if warmup is None:
        warmup = 1 / 20 if schedule == "cosine" else 0
    steps = int(warmup * total_steps)
    decay = SCHEDULES[schedule](learning_rate, max(total_steps - steps, 1))
    rise = optax.linear_schedule(learning_rate / 10, learning_rate, steps)
    return optax.join_schedules([rise, decay], [steps]) if steps else decay


def make_optimizer(
    learning_rate: float, schedule: str, total_steps: int, options: Optimizer | None = None
) -> optax.GradientTransformation:
    """One of `OPTIMIZERS` with a learning rate of `make_schedule`, after clipping where `options` ask for it."""
    options = options or Optimizer()
    optimizer = OPTIMIZERS[options.name](make_schedule(learning_rate, schedule, total_steps, options.warmup), options)
    if options.clip_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(options.clip_norm), optimizer)


def learning_rates(learning_rate: float, schedule: str, total_steps: int, warmup: float | None = None) -> np.ndarray:
    """float32 `(total_steps,)`: the learning rate of every update, computed once, so that the log waits for none."""
    values = jax.vmap(make_schedule(learning_rate, schedule, total_steps, warmup))(jnp.arange(total_steps))
    return np.broadcast_to(np.asarray(values, np.float32), total_steps)


def update_average(average: Any, variables: Any, decay: float, updates: jax.Array) -> Any:
    """The exponential moving average of a network's variables after one update more (Polyak and Juditsky 1992).

    Corrected for its beginning as the moments of Adam are (Kingma and Ba 2015, section 3): after t updates the newest
    has the weight (1 - decay) / (1 - decay^t), so the first is taken as it is, and what the network began with has no
    part in it.

    Args:
        average: After the update before; before the first one, anything finite of the same shapes.
        variables: Parameters and batch statistics after this update. The statistics are averaged alike: those of the
            newest weights would not be those of the averaged ones.
        decay: Above 0 and below 1.
        updates: How many were made, this one included.
    """
    weight = (1 - decay) / -jnp.expm1(updates * math.log(decay))
    return jax.tree.map(lambda old, new: old + weight * (new - old), average, variables)
