"""Seconds of a training step of ours and of a peer, in turns: what makes 'equal time' a number of steps."""

import functools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import ablation
import benchmarking
import jax

from jaxbrats.commands.startup import prepare_jax
from jaxbrats.config import from_config, load_config
from jaxbrats.config.settings import Settings
from jaxbrats.data.loader import training_batches
from jaxbrats.runs.job import prepare_data
from jaxbrats.train.compilation import compile_step
from jaxbrats.train.mesh import make_mesh, put_batch, replicate
from jaxbrats.train.optimizer import make_optimizer
from jaxbrats.train.state import init_state, make_model

OURS = "jaxbrats"
CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "brats_3mm.py"
ROUNDS, STEPS_A_ROUND = 4, 4


def measure_steps(peer: str, step_seconds: Callable[[int], float], raw: str, arrays: pathlib.Path) -> dict[str, Any]:
    """Times a step of either side, each in a process of its own, in turns.

    Args:
        peer: Its name.
        step_seconds: Seconds of its step, the mean of so many.
        raw: The cohort.
        arrays: Folder of the arrays of ours, made where they are not there.

    Returns:
        `rounds` of seconds; `ratio` of ours to the peer's; `steps_a_round`; the `parameters` of ours.
    """
    settings = our_settings(raw, arrays)
    with benchmarking.processes((OURS, peer)) as call:
        sides = {
            OURS: lambda: call[OURS](our_step_seconds, raw, arrays, STEPS_A_ROUND),
            peer: lambda: call[peer](step_seconds, STEPS_A_ROUND),
        }
        for side in sides.values():  # the first call compiles
            side()
        rounds = benchmarking.in_turns(sides, ROUNDS)
        parameters = call[OURS](ablation.parameters, settings)
    ratio = benchmarking.ratio(rounds, OURS, peer)
    return {"rounds": rounds, "ratio": ratio, "steps_a_round": STEPS_A_ROUND, "parameters": parameters}


def our_settings(raw: str, arrays: pathlib.Path) -> Settings:
    """The run that ours were measured of."""
    config = load_config(CONFIG)
    config.data.raw_dir, config.data.dir = raw, str(arrays)
    return from_config(config)


def our_step_seconds(raw: str, arrays: pathlib.Path, steps: int) -> float:
    """Seconds of our training step, batches read and put on the device, the mean of so many."""
    losses = _training(raw, arrays)
    begun = time.perf_counter()
    for _ in range(steps):
        next(losses)
    return (time.perf_counter() - begun) / steps


@functools.cache
def _training(raw: str, arrays: pathlib.Path) -> Iterator[float]:
    prepare_jax()
    settings = our_settings(raw, arrays)
    data = settings.data
    cases = prepare_data(settings, arrays).cases
    mesh = make_mesh(settings.mesh.data, settings.mesh.space, settings.batch_size)
    total = settings.num_epochs * len(cases) // settings.batch_size
    optimizer = make_optimizer(settings.learning_rate, settings.schedule, total, settings.optimizer)
    state = init_state(make_model(settings), optimizer, settings.seed, len(data.modalities), settings.ema)
    state, key = replicate(mesh, state), replicate(mesh, jax.random.key(settings.seed))
    step = compile_step(settings, total, mesh, state, key)
    batches = training_batches(
        cases,
        batch_size=settings.batch_size,
        seed=settings.seed,
        patch=data.patch,
        foreground=data.foreground,
        soft=data.soft_labels,
    )

    def losses() -> Iterator[float]:
        nonlocal state
        for batch in batches:
            state, metrics = step(state, put_batch(mesh, batch), key)
            yield float(metrics.loss)

    return losses()
