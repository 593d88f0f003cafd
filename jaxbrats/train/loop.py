"""The training loop: steps, validation at ends of epochs, checkpoints.

The host stays one step ahead of the devices: a step is dispatched before the metrics of the one before are fetched, and
batches are on the devices before they are needed.
"""

import collections
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxbrats.config.settings import Settings
from jaxbrats.data.arrays import ArrayCase
from jaxbrats.data.loader import Batch, BatchIterator, loader_state, training_batches
from jaxbrats.system import distributed
from jaxbrats.system.errors import InputError
from jaxbrats.system.gc_paused import gc_paused
from jaxbrats.system.memory import release_freed_memory
from jaxbrats.system.signals import Interrupted, stop_flag
from jaxbrats.train import checkpoints
from jaxbrats.train.compilation import compile_step
from jaxbrats.train.early_stopping import EarlyStopping
from jaxbrats.train.logs import MetricsLog
from jaxbrats.train.mesh import process_slice, put_batch, replicate
from jaxbrats.train.optimizer import learning_rates, make_optimizer
from jaxbrats.train.plan import Plan
from jaxbrats.train.progress import Progress
from jaxbrats.train.state import TrainState, init_state, make_model
from jaxbrats.train.step import device_memory
from jaxbrats.train.tracking import open_trackers

# Batches on the devices besides the one in use.
PREFETCH = 2
# Steps of a start after which all that lives from step to step has its place in memory.
_WARMUP_STEPS = 3

# From a state to the validation scores, with `checkpoints.SCORE` among them, and `progress.PICTURES` where any
# are drawn; None where a signal cut it short.
Validate = Callable[[TrainState, Callable[[], int | None]], Mapping[str, Any] | None]


class Outcome(NamedTuple):
    """How training ended: after which step and epoch, and whether it did anything to get there."""

    step: int
    epochs: int
    trained: bool


def train(
    settings: Settings,
    cases: Sequence[ArrayCase],
    mesh: jax.sharding.Mesh,
    validate: Validate,
    workdir: pathlib.Path,
    on_start: Callable[[int], None] = lambda step: None,
    initial: Mapping[str, Any] | None = None,
) -> Outcome:
    """Trains until the last epoch is done, or the score becomes no better, from the latest checkpoint in `workdir`
    where there is one.

    Args:
        settings: The run's settings.
        cases: Cases to learn from.
        mesh: The devices.
        validate: Called at ends of epochs; its scores choose the best checkpoint.
        workdir: Folder for `checkpoints/` and `metrics.jsonl`.
        on_start: Called with the number of steps done before, where there is anything to train.
        initial: Parameters and batch statistics for a run that has no checkpoint yet; None for random ones.

    Returns:
        Where it ended, and whether there was anything to train.

    Raises:
        InputError: settings the devices cannot serve, a checkpoint of another network or data set, unusable arrays, a
            loss that is not finite.
        Interrupted: SIGTERM or SIGINT came; the state is saved.
    """
    plan = Plan(
        len(cases), settings.batch_size, settings.num_epochs, settings.checkpoint.every_steps, settings.validate_every
    )
    with stop_flag() as stop, checkpoints.open_checkpoints(workdir) as manager:
        state = _initial_state(settings, plan, mesh)
        position = loader_state(cases, settings.seed)
        if manager.latest_step() is not None:
            state, saved_position = checkpoints.restore(manager, manager.latest_step(), state)
            _check_loader(saved_position, position, workdir)
        elif initial is not None:
            state = state.replace(**replicate(mesh, initial))
        start = int(state.step)
        _check_length(plan, start, workdir)
        # A signal may have come during the validation that belongs to this step.
        unvalidated = start > 0 and plan.validates(start) and not checkpoints.has_scores(workdir, start)
        stopping = EarlyStopping(settings.early_stop, plan, workdir, start)
        if (start == plan.total_steps or stopping.due) and not unvalidated:
            return Outcome(start, plan.epochs_completed(start), trained=False)
        on_start(start)
        if start:
            print(f"resuming after step {start} of {plan.total_steps}", flush=True)

        key = replicate(mesh, jax.random.key(settings.seed))
        train_step = _compiled_step(settings, plan, mesh, state, key)
        consensus = distributed.StopConsensus(mesh)

        def stopped() -> int | None:
            """The signal that some process was told to stop by; all processes ask together."""
            return consensus(stop.number)

        progress = _progress(settings, plan, cases, workdir, start)
        with progress, _batches(settings, cases, mesh, start) as data:
            if unvalidated and (scores := _validated(validate, state, start, stopped, progress, stopping)):
                checkpoints.save(manager, state, position, scores)
            if number := stopped():
                raise Interrupted(number, start)
            batches, step = _ahead(progress.timed(data), mesh), start
            left = 0 if stopping.due else plan.total_steps - start
            for step, (index, batch) in enumerate(itertools.islice(batches, left), start + 1):
                state, metrics = train_step(state, batch, key)
                progress.step(step, metrics, index)
                number = stopped()
                if step == start + _WARMUP_STEPS:
                    release_freed_memory()
                if not (plan.saves(step) or number):
                    continue
                progress.flush()
                validates, scores = plan.validates(step), None
                if validates:
                    scores = _validated(validate, state, step, stopped, progress, stopping)
                checkpoints.save(manager, state, position, scores)
                if validates:
                    release_freed_memory()  # what validation took
                if number := number or stopped():  # it may have come meanwhile
                    raise Interrupted(number, step)
                if stopping.due:
                    break
    if stop.number:  # it came when all was done
        raise Interrupted(stop.number, step)
    epochs = plan.epochs_completed(step)
    if step < plan.total_steps:
        print(f"ended early, after epoch {epochs}: no better score for {stopping.epochs_since_best} epochs", flush=True)
    return Outcome(step, epochs, trained=True)


def _initial_state(settings: Settings, plan: Plan, mesh: jax.sharding.Mesh) -> TrainState:
    optimizer = make_optimizer(settings.learning_rate, settings.schedule, plan.total_steps, settings.optimizer)
    with gc_paused():
        channels = len(settings.data.modalities)
        return replicate(mesh, init_state(make_model(settings), optimizer, settings.seed, channels, settings.ema))


def _compiled_step(
    settings: Settings, plan: Plan, mesh: jax.sharding.Mesh, state: TrainState, key: jax.Array
) -> jax.stages.Compiled:
    """The training step; says what memory it takes."""
    step = compile_step(settings, plan.total_steps, mesh, state, key)
    print(f"a step takes {device_memory(step) / 2**30:.2f} GiB of each device's memory", flush=True)
    return step


def _progress(
    settings: Settings, plan: Plan, cases: Sequence[ArrayCase], workdir: pathlib.Path, start: int
) -> Progress:
    rates = learning_rates(settings.learning_rate, settings.schedule, plan.total_steps, settings.optimizer.warmup)
    trackers = open_trackers(workdir, settings, start + 1) if distributed.is_first() else []
    log = MetricsLog(workdir, start, distributed.is_first(), trackers)
    return Progress(plan, cases, rates, log, start, settings.skip_nonfinite, shows=distributed.is_first())


def _batches(settings: Settings, cases: Sequence[ArrayCase], mesh: jax.sharding.Mesh, start: int) -> BatchIterator:
    rows = process_slice(mesh)
    return training_batches(
        cases,
        batch_size=settings.batch_size,
        seed=settings.seed,
        patch=settings.data.patch,
        foreground=settings.data.foreground,
        soft=settings.data.soft_labels,
        start_batch=start,
        workers=settings.data.workers,
        process_index=rows.index,
        process_count=rows.count,
    )


def _validated(
    validate: Validate,
    state: TrainState,
    step: int,
    stopped: Callable[[], int | None],
    progress: Progress,
    stopping: EarlyStopping,
) -> dict[str, float] | None:
    """Validates; returns the score to choose the best checkpoint by, None where a signal cut it short."""
    result = validate(state, stopped)
    if result is None:
        return None
    score = result[checkpoints.SCORE]
    progress.validation(step, {**result, **stopping.add(step, score)})
    return {checkpoints.SCORE: score}


def _ahead(batches: Iterable[Batch], mesh: jax.sharding.Mesh) -> Iterator[tuple[np.ndarray, dict[str, jax.Array]]]:
    """Places and arrays of each batch, sent to the devices a few batches ahead, so that transfers overlap with work."""
    waiting = collections.deque()
    for batch in batches:
        waiting.append((batch["index"], put_batch(mesh, batch)))
        if len(waiting) > PREFETCH:
            yield waiting.popleft()
    yield from waiting


def _check_loader(saved: Mapping[str, Any], expected: Mapping[str, Any], workdir: pathlib.Path) -> None:
    """Refuses to go on with other training cases or another order than the run began with."""
    for name, value in expected.items():
        if saved.get(name) != value:
            raise InputError(
                f"the run here was trained on other data: {name} was {saved.get(name)}, it is {value}",
                file=workdir,
                hint="Give it the data and seed it began with, or another --workdir",
            )


def _check_length(plan: Plan, start: int, workdir: pathlib.Path) -> None:
    if start > plan.total_steps:
        raise InputError(
            f"this run has done {start} steps; config.num_epochs = {plan.num_epochs} asks for {plan.total_steps}",
            file=workdir,
            hint=f"Give config.num_epochs {-(-start * plan.num_epochs // plan.total_steps)} or more, or choose another "
            "--workdir",
        )
