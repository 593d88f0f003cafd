"""Orbax checkpoints: the latest two, so that a damaged one has a predecessor, and the best.

    RUN/checkpoints/STEP/model       parameters and batch statistics: all that inference needs
    RUN/checkpoints/STEP/training    step and optimiser
    RUN/checkpoints/STEP/loader      the data loader's place, JSON
    RUN/checkpoints/STEP/metrics     validation scores, where the checkpoint ends an epoch

Saving is asynchronous: arrays are copied to the host and written while training goes on. Orbax writes into a temporary
folder and renames it when whole, so a killed run leaves no half checkpoint.
"""

import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from jaxbrats.errors import InputError
from jaxbrats.train.state import TrainState

SCORE = "mean_region_dice"


def _is_worth_telling(record: logging.LogRecord) -> bool:
    """Orbax warns of what is meant here: checkpoints without scores, folders opened for reading."""
    return record.levelno > logging.WARNING or "orbax" not in record.pathname


logging.getLogger("absl").addFilter(_is_worth_telling)


def open_checkpoints(workdir: pathlib.Path, read_only: bool = False) -> ocp.CheckpointManager:
    """The manager of `workdir/checkpoints`; close it (or use `with`) to wait for what is still being written.

    Args:
        workdir: The run's folder.
        read_only: Whether it is only read. Then each process opens it for itself; else all do everything together.
    """
    alone = {jax.process_index()} if read_only else None
    options = ocp.CheckpointManagerOptions(
        create=not read_only,
        read_only=read_only,
        best_fn=lambda metrics: metrics[SCORE],
        cleanup_tmp_directories=not read_only,
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=jax.process_index() if read_only else 0, active_processes=alone
        ),
        preservation_policy=preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(n=2),
                preservation_policy.BestN(
                    get_metric_fn=lambda metrics: metrics[SCORE], n=1, keep_checkpoints_without_metrics=False
                ),
            ]
        ),
    )
    folder = (workdir / "checkpoints").absolute()
    return ocp.CheckpointManager(folder, item_names=("model", "training", "loader"), options=options)


def save(
    manager: ocp.CheckpointManager,
    state: TrainState,
    loader: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Begins to save a state under its step.

    Args:
        manager: From `open_checkpoints`.
        state: The state; it may be donated to the next step as soon as this returns.
        loader: The loader's place, JSON-able.
        metrics: Validation scores with `SCORE`, by which the best checkpoint is chosen.
    """
    manager.save(
        int(state.step),
        args=ocp.args.Composite(
            model=ocp.args.StandardSave({"params": state.params, "batch_stats": state.batch_stats}),
            training=ocp.args.StandardSave({"step": state.step, "opt_state": state.opt_state}),
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
    model = {"params": like.params, "batch_stats": like.batch_stats}
    training = {"step": like.step, "opt_state": like.opt_state}
    _check_same_network(manager, step, model)
    items = _restore(
        manager,
        step,
        model=ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, model)),
        training=ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, training)),
        loader=ocp.args.JsonRestore(),
    )
    state = TrainState(
        items["training"]["step"],
        items["model"]["params"],
        items["model"]["batch_stats"],
        items["training"]["opt_state"],
    )
    return state, items["loader"]


def restore_variables(manager: ocp.CheckpointManager, step: int, like: Mapping[str, Any]) -> dict[str, Any]:
    """Reads what inference needs: `{"params", "batch_stats"}`, shaped and placed as `like`.

    Raises:
        InputError: the checkpoint is of another network, or cannot be read.
    """
    _check_same_network(manager, step, like)
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, dict(like))
    return _restore(manager, step, model=ocp.args.StandardRestore(target))["model"]


def choose_step(manager: ocp.CheckpointManager, which: str) -> int:
    """The step that 'best', 'latest' or a number names.

    Raises:
        InputError: there is no such checkpoint; the message lists those there are.
    """
    steps = sorted(manager.all_steps())
    if not steps:
        raise InputError("there is no checkpoint here", file=manager.directory, cure="Train first, or check --workdir")
    if which == "latest":
        return steps[-1]
    if which == "best":
        best = manager.best_step()
        return steps[-1] if best is None else best
    if which.isdecimal() and int(which) in steps:
        return int(which)
    raise InputError(
        f"there is no checkpoint '{which}'",
        file=manager.directory,
        cure=f"Take best, latest or one of {', '.join(map(str, steps))}",
    )


def _restore(manager: ocp.CheckpointManager, step: int, **items: Any) -> Any:
    try:
        return manager.restore(step, args=ocp.args.Composite(**items))
    except Exception as error:  # Orbax, tensorstore and the file system each raise their own
        raise InputError(
            f"the checkpoint cannot be read ({type(error).__name__}: {str(error).splitlines()[0]})",
            file=manager.directory / str(step),
            cure="Name another one with --step, or delete this folder to go on from the one before it",
        ) from error


def _check_same_network(manager: ocp.CheckpointManager, step: int, model: Mapping[str, Any]) -> None:
    """Compares the saved parameters' names and shapes with the network's, which Orbax reports less clearly."""
    folder = manager.directory / str(step)
    try:
        with ocp.StandardCheckpointer() as reader:
            saved = reader.metadata(folder / "model")
        found = {jax.tree_util.keystr(path): leaf.shape for path, leaf in _leaves(saved.item_metadata.tree)}
    except Exception as error:
        raise InputError(
            f"the checkpoint cannot be read ({type(error).__name__})",
            file=folder,
            cure="Name another one with --step, or delete this folder to go on from the one before it",
        ) from error
    expected = {jax.tree_util.keystr(path): leaf.shape for path, leaf in _leaves(model)}
    for name in sorted(expected.keys() | found.keys()):
        if tuple(expected.get(name, ())) != tuple(found.get(name, ())) or (name in expected) != (name in found):
            raise InputError(
                f"holds another network: parameter {name} has shape {found.get(name, 'none')} in the checkpoint and "
                f"{expected.get(name, 'none')} in the configured network",
                file=folder,
                cure="Use the config the run was trained with, or another --workdir",
            )


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda leaf: hasattr(leaf, "shape"))[0]
