"""Orbax checkpoints: the latest two, so that a damaged one has a predecessor, and the best.

    RUN/checkpoints/STEP/model            parameters and batch statistics: all that inference needs; their average where
                                          the run keeps one
    RUN/checkpoints/STEP/training         step, optimiser, how many updates were dropped and, beside an average, the
                                          parameters and batch statistics that are trained
    RUN/checkpoints/STEP/loader           the data loader's place, JSON
    RUN/checkpoints/STEP/metrics          validation scores, where the checkpoint ends an epoch
    RUN/checkpoints/STEP/checksums.json   sizes and checksums of these files

Saving is asynchronous: arrays are copied to the host and written while training goes on. Orbax writes into a temporary
folder and renames it when whole, so a killed run leaves no half checkpoint. Older ones are renamed away before they are
deleted, so whoever reads a checkpoint meanwhile finds all of it or nothing.
"""

import contextlib
import pathlib
import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from jaxbrats.system import distributed
from jaxbrats.system.errors import InputError, printable
from jaxbrats.system.files import RemovedError, read_json
from jaxbrats.train.checksums import DamagedCheckpointError, verify, write_checksums
from jaxbrats.train.orbax_errors import disk_errors, quiet, readable
from jaxbrats.train.state import TrainState

SCORE = "mean_region_dice"
_FOLDER, _DAMAGED, _DELETED = "checkpoints", "damaged", ".deleted"


class _ReplacedError(Exception):
    """Training deleted a checkpoint while it was read."""


@contextlib.contextmanager
def open_checkpoints(workdir: pathlib.Path) -> Iterator[ocp.CheckpointManager]:
    """The manager of `workdir/checkpoints`, to train with; on leaving it waits for what is still being written.

    Checkpoints that are damaged are moved to `workdir/damaged`, and said.

    Raises:
        InputError: there are checkpoints, but none of them can be used.
        OSError: one cannot be written.
    """
    folder = (workdir / _FOLDER).absolute()
    with distributed.first_process_first("checkpoints"):
        if distributed.is_first():
            _take_back_deleted(folder)
            _set_aside_damaged(folder)
            _empty_deleted(folder)
    options = ocp.CheckpointManagerOptions(
        best_fn=lambda metrics: metrics[SCORE],
        cleanup_tmp_directories=True,
        todelete_subdir=_DELETED,
        preservation_policy=preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(n=2),
                preservation_policy.BestN(
                    get_metric_fn=lambda metrics: metrics[SCORE], n=1, keep_checkpoints_without_metrics=False
                ),
            ]
        ),
        async_options=ocp.AsyncOptions(post_finalization_callback=lambda: _write_checksums_of_new(folder)),
    )
    with quiet():
        with disk_errors(folder):
            manager = ocp.CheckpointManager(folder, item_names=("model", "training", "loader"), options=options)
        try:
            yield manager
        finally:
            with disk_errors(folder):
                manager.close()
                _empty_deleted(folder)


def save(
    manager: ocp.CheckpointManager,
    state: TrainState,
    loader: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Begins to save a state under its step, in the place of a checkpoint that there may be of this step.

    Args:
        manager: From `open_checkpoints`.
        state: The state; it may be donated to the next step as soon as this returns.
        loader: The loader's place, JSON-able.
        metrics: Validation scores with `SCORE`, by which the best checkpoint is chosen.

    Raises:
        OSError: this one, or the one before, cannot be written.
    """
    step = int(state.step)
    with disk_errors(manager.directory):
        manager.wait_until_finished()
        if not manager.directory.exists():
            raise RemovedError(manager.directory)
        _empty_deleted(pathlib.Path(manager.directory))
        if step in manager.all_steps():
            manager.delete(step)
        manager.save(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardSave(state.variables),
                training=ocp.args.StandardSave(_training(state)),
                loader=ocp.args.JsonSave(dict(loader)),
            ),
            metrics=None if metrics is None else dict(metrics),
        )


def restore(manager: ocp.CheckpointManager, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """Reads a state and the loader's place.

    Args:
        manager: From `open_checkpoints`.
        step: Which checkpoint.
        like: A state of the same network, whose shardings the arrays take.

    Raises:
        InputError: the checkpoint is of another network, or cannot be read.
    """
    folder = pathlib.Path(manager.directory) / str(step)
    model, training = like.variables, _training(like)
    _check_same_network(folder, model)
    with readable(folder):
        items = manager.restore(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, model)),
                training=ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, training)),
                loader=ocp.args.JsonRestore(),
            ),
        )
    trained = items["training"].pop("trained", None)
    if trained is None:
        return TrainState(**items["model"], **items["training"]), items["loader"]
    return TrainState(**trained, **items["training"], average=items["model"]), items["loader"]


def _training(state: TrainState) -> dict[str, Any]:
    """What training needs to go on, besides what inference needs."""
    training = {"step": state.step, "opt_state": state.opt_state, "skipped": state.skipped}
    return training if state.average is None else training | {"trained": state.trained}


def load_variables(workdir: pathlib.Path, which: str, like: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Reads what inference needs. A training run may save and delete meanwhile: then 'best' and 'latest' are what they
    are after that.

    Args:
        workdir: The run.
        which: 'best', 'latest' or a step's number.
        like: `{"params", "batch_stats"}`, whose shapes and shardings the arrays take.

    Returns:
        The step, and `{"params", "batch_stats"}`.

    Raises:
        InputError: there is no such checkpoint, or it is damaged or of another network.
    """
    while True:
        step = choose_step(workdir, which)
        with contextlib.suppress(_ReplacedError), _reading(workdir, step) as folder:
            verify(folder)
            _check_same_network(folder, like)
            target = jax.tree.map(ocp.utils.to_shape_dtype_struct, dict(like))
            with readable(folder), _reader() as reader:
                return step, reader.restore(folder / "model", target)


def choose_step(workdir: pathlib.Path, which: str) -> int:
    """The step that 'best', 'latest' or a number names.

    Raises:
        InputError: there is no such checkpoint; the message lists those there are. Or the scores of one are damaged, so
            that the best cannot be told.
    """
    folder = workdir / _FOLDER
    steps = _steps(folder)
    if not steps:
        raise InputError("there is no checkpoint here", file=folder, hint="Train first, or check --workdir")
    if which == "latest":
        return steps[-1]
    if which == "best":
        while True:
            with contextlib.suppress(_ReplacedError):
                scores = _scores(workdir)
                # Of equals the latest, which is the one that Orbax keeps.
                return max(scores, key=lambda step: (scores[step], step)) if scores else steps[-1]
    if which.isdecimal() and int(which) in steps:
        return int(which)
    raise InputError(
        f"there is no checkpoint '{which}'" + (", training keeps its last two and the best" * which.isdecimal()),
        file=folder,
        hint=f"Take best, latest or one of {', '.join(map(str, steps))}",
    )


def has_checkpoints(workdir: pathlib.Path) -> bool:
    """Whether a run has saved anything."""
    return bool(_steps(workdir / _FOLDER) or _steps(workdir / _FOLDER / _DELETED))


def has_scores(workdir: pathlib.Path, step: int) -> bool:
    """Whether a checkpoint was saved with validation scores."""
    return (workdir / _FOLDER / str(step) / "metrics" / "metrics").exists()


def _scores(workdir: pathlib.Path) -> dict[int, float]:
    """Validation score of each checkpoint that has one."""
    scores = {}
    for step in _steps(workdir / _FOLDER):
        with _reading(workdir, step) as folder:
            verify(folder, part="metrics/")
            if has_scores(workdir, step):
                scores[step] = float(read_json(folder / "metrics" / "metrics")[SCORE])
    return scores


def _steps(folder: pathlib.Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal() and path.is_dir())


def _write_checksums_of_new(folder: pathlib.Path) -> None:
    """Orbax calls this when all of a checkpoint is written, before it takes the temporary name away."""
    if distributed.is_first():
        for new in folder.glob("*.orbax-checkpoint-tmp*"):
            write_checksums(new)


def _empty_deleted(folder: pathlib.Path) -> None:
    """Deletes the checkpoints that Orbax renamed away, but not one whose place another has not taken yet."""
    if distributed.is_first():
        for step in _steps(folder / _DELETED):
            if step <= max(_steps(folder), default=-1):
                shutil.rmtree(folder / _DELETED / str(step), ignore_errors=True)
        with contextlib.suppress(OSError):  # it is not there, or not empty
            (folder / _DELETED).rmdir()


def _take_back_deleted(folder: pathlib.Path) -> None:
    """Brings back the newest checkpoint where a run ended after it was renamed away and before it was written again."""
    step = max(_steps(folder / _DELETED), default=-1)
    if step > max(_steps(folder), default=-1):
        (folder / _DELETED / str(step)).rename(folder / str(step))


def _set_aside_damaged(folder: pathlib.Path) -> None:
    steps = _steps(folder)
    damages = {}
    for step in steps:
        try:
            verify(folder / str(step))
        except DamagedCheckpointError as damage:
            damages[step] = damage
    if damages and len(damages) == len(steps):
        raise InputError(
            f"none of the checkpoints can be used: {'; '.join(map(str, damages.values()))}",
            file=folder,
            hint="Restore one from a backup, or delete this folder to train from the beginning",
        )
    for step, damage in damages.items():
        aside = folder.parent / _DAMAGED / str(step)
        number = 1
        while aside.exists():
            number += 1
            aside = aside.with_name(f"{step}-{number}")
        aside.parent.mkdir(exist_ok=True)
        (folder / str(step)).rename(aside)
        left = ", ".join(str(step) for step in steps if step not in damages)
        moved = f"checkpoint {step} is damaged ({damage}) and was moved to {aside}; left: {left}"
        print(printable(moved), file=sys.stderr)


@contextlib.contextmanager
def _reading(workdir: pathlib.Path, step: int) -> Iterator[pathlib.Path]:
    """Yields the folder of a checkpoint to be read; of a damaged one it says which others could be taken.

    Raises:
        _ReplacedError: it could not be read because it was deleted, or written again, meanwhile.
        DamagedCheckpointError: it is damaged.
    """
    folder = (workdir / _FOLDER / str(step)).absolute()
    before = _identity(folder)
    try:
        yield folder
    except InputError as problem:
        if before is None or _identity(folder) != before:
            raise _ReplacedError from problem
        if not isinstance(problem, DamagedCheckpointError):
            raise
        others = [str(other) for other in _steps(workdir / _FOLDER) if other != step]
        hint = f"name another one with --step: {', '.join(others)}" if others else "train again"
        raise DamagedCheckpointError(
            f"checkpoint {step} is damaged ({problem})",
            file=workdir,
            hint=f"Restore it from a backup, or {hint}",
        ) from problem


def _identity(folder: pathlib.Path) -> tuple[int, int] | None:
    """What tells a folder from another of its name; None where there is none."""
    try:
        status = folder.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_ctime_ns


def _reader() -> ocp.StandardCheckpointer:
    """Reads for this process alone, whatever the other hosts of a run do meanwhile."""
    this = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=this, active_processes={this}, barrier_sync_key_prefix=f"reader_{this}"
    )
    return ocp.StandardCheckpointer(multiprocessing_options=options)


def _check_same_network(folder: pathlib.Path, model: Mapping[str, Any]) -> None:
    """Compares the saved parameters' names and shapes with the network's, which Orbax reports less clearly."""
    with readable(folder), _reader() as reader:
        saved = reader.metadata(folder / "model").item_metadata.tree
    found = {jax.tree_util.keystr(path): leaf.shape for path, leaf in _leaves(saved)}
    expected = {jax.tree_util.keystr(path): leaf.shape for path, leaf in _leaves(model)}
    for name in sorted(expected.keys() | found.keys()):
        if tuple(expected.get(name, ())) != tuple(found.get(name, ())) or (name in expected) != (name in found):
            raise InputError(
                f"holds another network: parameter {name} has shape {found.get(name, 'none')} in the checkpoint and "
                f"{expected.get(name, 'none')} in the configured network",
                file=folder,
                hint="Use the config the run was trained with, or another --workdir",
            )


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda leaf: hasattr(leaf, "shape"))[0]
