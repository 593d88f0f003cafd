"""The training loop: steps, validation at each epoch's end, checkpoints, logs.

The host stays one step ahead of the devices: a step is dispatched before the metrics of the one before are fetched, and
batches are on the devices before they are needed.
"""

import collections
import dataclasses
import math
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from jaxbrats.config.settings import Settings
from jaxbrats.data.arrays import ArrayCase, array_shape
from jaxbrats.data.labels import LABEL_NAMES, REGIONS
from jaxbrats.data.loader import loader_state, training_batches, validation_batches
from jaxbrats.model.counts import accuracy, class_dice, class_iou, region_dice
from jaxbrats.system import distributed
from jaxbrats.system.errors import InputError
from jaxbrats.system.gc_paused import gc_paused
from jaxbrats.system.memory import release_freed_memory
from jaxbrats.system.signals import Interrupted, StopFlag, stop_flag
from jaxbrats.train import checkpoints
from jaxbrats.train.clock import Clock
from jaxbrats.train.logs import MetricsLog, read_metrics
from jaxbrats.train.mesh import batch_shapes, make_mesh, process_slice, put_batch, replicate
from jaxbrats.train.state import TrainState, init_state, make_model, make_optimizer, make_schedule
from jaxbrats.train.step import StepMetrics, device_memory, jit_train_step, jit_validation_step, make_loss

# Batches on the devices beside the one in use.
_PREFETCH = 2
# Steps of a start after which all that lives from step to step has its place in memory.
_WARMUP_STEPS = 3


@dataclasses.dataclass(frozen=True)
class Plan:
    """Steps and epochs. Batches straddle epochs, so that every case is used once an epoch and every batch is full.

    Attributes:
        num_cases: Training cases.
        batch_size: Cases in a batch.
        num_epochs: Passes over the cases.
    """

    num_cases: int
    batch_size: int
    num_epochs: int

    def end_of_epoch(self, epoch: int) -> int:
        """The step that completes this many epochs."""
        return math.ceil(epoch * self.num_cases / self.batch_size)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.end_of_epoch(self.num_epochs)

    def epochs_completed(self, step: int) -> int:
        """Whole epochs done after a step."""
        return min(self.num_epochs, step * self.batch_size // self.num_cases)

    def ends_epoch(self, step: int) -> bool:
        """Whether a step is the first at which one epoch more is complete."""
        return self.epochs_completed(step) > self.epochs_completed(step - 1)


class Outcome(NamedTuple):
    """How training ended: at which step, and whether it did anything to get there."""

    step: int
    trained: bool


def train(
    settings: Settings, training: Sequence[ArrayCase], validation: Sequence[ArrayCase], workdir: pathlib.Path
) -> Outcome:
    """Trains until the last epoch is done, from the latest checkpoint in `workdir` where there is one.

    Args:
        settings: The run.
        training: Cases to learn from.
        validation: Cases to score each epoch; their mean region Dice chooses the best checkpoint.
        workdir: Folder for `checkpoints/` and `metrics.jsonl`.

    Returns:
        The last step, and whether there was anything to train.

    Raises:
        InputError: settings the devices cannot serve, a checkpoint of another network or data set, unusable arrays, a
            loss that is not finite.
        Interrupted: SIGTERM or SIGINT came; the state is saved.
    """
    with stop_flag() as stop:
        outcome = _train(settings, training, validation, workdir, stop)
    if stop.number:  # it came when all was done
        raise Interrupted(stop.number, outcome.step)
    return outcome


def _train(
    settings: Settings,
    training: Sequence[ArrayCase],
    validation: Sequence[ArrayCase],
    workdir: pathlib.Path,
    stop: StopFlag,
) -> Outcome:
    mesh = make_mesh(settings.mesh.data, settings.mesh.space, settings.batch_size, settings.accumulate)
    plan = Plan(len(training), settings.batch_size, settings.num_epochs)
    model = make_model(settings)
    optimizer = make_optimizer(settings.learning_rate, settings.schedule, plan.total_steps)
    learning_rate = make_schedule(settings.learning_rate, settings.schedule, plan.total_steps)
    loss = make_loss(settings.loss)
    shapes = batch_shapes(mesh, settings.batch_size, array_shape(training))
    validation_function = jit_validation_step(mesh, model, loss)
    with gc_paused():
        state = replicate(mesh, init_state(model, optimizer, settings.seed, len(settings.data.modalities)))
    key = replicate(mesh, jax.random.key(settings.seed))
    position = loader_state(training, settings.seed)

    with checkpoints.open_checkpoints(workdir) as manager:
        if manager.latest_step() is not None:
            state, saved_position = checkpoints.restore(manager, manager.latest_step(), state)
            _check_loader(saved_position, position, workdir)
        start = int(state.step)
        unscored = start > 0 and plan.ends_epoch(start) and not checkpoints.has_scores(workdir, start)
        if start >= plan.total_steps and not unscored:
            return Outcome(start, trained=False)
        if start:
            print(f"going on after step {start} of {plan.total_steps}", flush=True)
        with gc_paused():
            step_function = jit_train_step(
                mesh, model, optimizer, loss, settings.accumulate, skip_nonfinite=settings.skip_nonfinite
            )
            step_function = step_function.lower(state, shapes, key).compile()
        print(f"a step takes {device_memory(step_function) / 2**30:.2f} GiB of each device's memory", flush=True)
        log = MetricsLog(workdir, start, writes=distributed.is_first())
        clock = Clock(read_metrics(workdir))
        bar = tqdm(
            total=plan.total_steps,
            initial=start,
            desc="training",
            unit="step",
            dynamic_ncols=True,
            disable=not distributed.is_first(),
        )

        def report(step: int, metrics: StepMetrics, index: np.ndarray) -> None:
            metrics = jax.device_get(metrics)
            skipped = int(metrics.skipped)
            if not metrics.finite:
                where = f"step {step}, whose loss is {metrics.loss:.6g} (cases {_names(training, index)})"
                if not settings.skip_nonfinite:
                    raise InputError(
                        f"the update of {where}, is not finite; the last good checkpoint is kept",
                        hint="Look at these cases, lower config.learning_rate, train in float32 or set "
                        "config.skip_nonfinite",
                    )
                bar.write(f"not finite and dropped: the update of {where}; {skipped} so far", file=sys.stderr)
            log.write(
                {
                    "step": step,
                    "epoch": plan.epochs_completed(step - 1) + 1,
                    "split": "train",
                    **_scores_by_name(metrics.loss, metrics.dice, metrics.iou, metrics.accuracy),
                    # The schedule counts the updates made.
                    "lr": float(learning_rate(step - 1 - skipped + (not metrics.finite))),
                    "skipped": skipped,
                    "seconds": clock.seconds(),
                }
            )
            bar.update()
            bar.set_postfix({**bar_scores, "loss": f"{metrics.loss:.4f}"}, refresh=False)

        def finish_epoch(step: int, state: TrainState) -> dict[str, float] | None:
            """Validates; returns the score to choose the best checkpoint by, None where a signal cut it short."""
            result = _validate(validation_function, state, validation, settings, mesh, stop)
            if result is None:
                return None
            epoch = plan.epochs_completed(step)
            waited = {"data_wait": clock.share_waited(), "seconds": clock.seconds()}
            log.write({"step": step, "epoch": epoch, "split": "val", **result, **waited})
            bar_scores["val_dice"] = f"{result[checkpoints.SCORE]:.3f}"
            bar.set_description(f"epoch {epoch}/{plan.num_epochs}")
            return {checkpoints.SCORE: result[checkpoints.SCORE]}

        bar_scores: dict[str, str] = {}
        share, agreed = process_slice(mesh), distributed.StopConsensus(mesh)
        batches = training_batches(
            training,
            batch_size=settings.batch_size,
            seed=settings.seed,
            start_batch=start,
            workers=settings.data.workers,
            process_index=share.index,
            process_count=share.count,
        )
        try:
            with batches:
                if unscored:  # a signal came during its validation
                    if result := finish_epoch(start, state):
                        checkpoints.save(manager, state, position, result)
                    if stopped := agreed(stop.number):
                        raise Interrupted(stopped, start)
                    if start == plan.total_steps:
                        return Outcome(start, trained=True)
                pending = None
                for step, (index, batch) in enumerate(
                    _ahead(clock.timed(batches), lambda batch: (batch["index"], put_batch(mesh, batch))), start + 1
                ):
                    state, metrics = step_function(state, batch, key)
                    if pending:
                        report(*pending)
                    pending = (step, metrics, index)
                    stopped = agreed(stop.number)
                    ends_epoch = plan.ends_epoch(step)
                    if step == start + _WARMUP_STEPS:
                        release_freed_memory()
                    saves = settings.checkpoint.every_steps and step % settings.checkpoint.every_steps == 0
                    if not (ends_epoch or saves or stopped):
                        continue
                    report(*pending)
                    pending = None
                    checkpoints.save(manager, state, position, finish_epoch(step, state) if ends_epoch else None)
                    if ends_epoch:
                        release_freed_memory()  # what validation took
                    stopped = stopped or agreed(stop.number)  # it may have come meanwhile
                    if stopped:
                        raise Interrupted(stopped, step)
                    if step == plan.total_steps:
                        return Outcome(step, trained=True)
        finally:
            bar.close()
            log.close()
    raise AssertionError("the loader ended before the run")


def _validate(
    step: Callable[..., Any],
    state: TrainState,
    cases: Sequence[ArrayCase],
    settings: Settings,
    mesh: jax.sharding.Mesh,
    stop: StopFlag,
) -> dict[str, Any] | None:
    """Loss and scores over the validation cases, each the mean over cases; None where a signal came meanwhile: many
    cases take longer than a batch system waits.
    """
    results = []
    share = process_slice(mesh)
    batches = validation_batches(
        cases,
        batch_size=settings.batch_size // settings.accumulate,
        process_index=share.index,
        process_count=share.count,
    )
    with batches:
        for batch in _ahead(batches, lambda batch: put_batch(mesh, batch)):
            # Of several processes one alone must not leave the others waiting at the next batch.
            if stop.number and jax.process_count() == 1:
                return None
            results.append(step(state, batch))
    # The last batch is filled up with cases from the start again.
    case = jax.tree.map(lambda *rows: np.concatenate(rows)[: len(cases)], *jax.device_get(results))
    regions = {name: float(np.mean(region_dice(case.counts.confusion, labels))) for name, labels in REGIONS.items()}
    return {
        **_scores_by_name(
            np.mean(case.loss, dtype=np.float64),
            np.mean(class_dice(case.counts.confusion), axis=0),
            np.mean(class_iou(case.counts), axis=0),
            accuracy(case.counts.confusion),
        ),
        "region_dice": regions,
        checkpoints.SCORE: float(np.mean(list(regions.values()))),
    }


def _scores_by_name(loss: Any, dice: Any, iou: Any, accuracy: Any) -> dict[str, Any]:
    """The entries that training and validation records share."""
    return {
        "loss": float(loss) if np.isfinite(loss) else None,
        "dice": dict(zip(LABEL_NAMES, map(float, dice), strict=True)),
        "iou": dict(zip(LABEL_NAMES, map(float, iou), strict=True)),
        "accuracy": float(accuracy),
    }


def _names(cases: Sequence[ArrayCase], index: np.ndarray) -> str:
    return ", ".join(cases[case].name for case in index)


def _ahead(items: Iterable[Any], send: Callable[[Any], Any]) -> Iterator[Any]:
    """`map(send, items)`, kept a few items ahead, so that transfers to the devices overlap with their work."""
    waiting = collections.deque()
    for item in items:
        waiting.append(send(item))
        if len(waiting) > _PREFETCH:
            yield waiting.popleft()
    yield from waiting


def _check_loader(saved: dict[str, Any], expected: dict[str, Any], workdir: pathlib.Path) -> None:
    """Refuses to go on with other training cases or another order than the run began with."""
    for name, value in expected.items():
        if saved.get(name) != value:
            raise InputError(
                f"the run here was trained on other data: {name} was {saved.get(name)}, it is {value}",
                file=workdir,
                hint="Give it the data and seed it began with, or another --workdir",
            )
