"""One training step: a pure function of its arguments, jitted over the mesh."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax
from jax.sharding import Mesh

from jaxbrats.model.augment import Augmentation
from jaxbrats.model.counts import Counts, accuracy, class_dice, class_iou
from jaxbrats.model.deep_supervision import deeply_supervised
from jaxbrats.model.heads import LABELS, Head
from jaxbrats.model.losses import LossFunction
from jaxbrats.train.mesh import batch_sharding, by_case, replicated
from jaxbrats.train.optimizer import update_average
from jaxbrats.train.state import TrainState

Batch = dict[str, jax.Array]

# The augmentation's key is that of a step which never comes, and so apart from dropout's.
_AUGMENTATION = 2**32 - 1


class StepMetrics(NamedTuple):
    """Of one training batch: scalars, and `(C,)` for each class.

    `finite` tells whether the loss and the update are; `skipped` counts the updates dropped so far.
    """

    loss: jax.Array
    dice: jax.Array
    iou: jax.Array
    accuracy: jax.Array
    finite: jax.Array
    skipped: jax.Array


def train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    loss_function: LossFunction,
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    accumulate: int = 1,
    skip_nonfinite: bool = False,
    head: Head = LABELS,
    ema: float = 0.0,
    augment: Augmentation | None = None,
) -> tuple[TrainState, StepMetrics]:
    """One update.

    Args:
        model: The network.
        optimizer: From `make_optimizer`.
        loss_function: From `make_loss`.
        state: Where the step begins.
        batch: 'image' `(B, X, Y, Z, C)` and 'labels' `(B, X, Y, Z)` or soft `(B, X, Y, Z, 3)`.
        key: The run's; the step's own is made from it and the step's number.
        accumulate: Micro-batches, one after the other, each in the memory of the one before. Gradients and loss are
            the means of theirs, batch statistics go from one to the next, scores are of the whole batch.
        skip_nonfinite: Whether an update whose loss or gradient is not finite is dropped, on the device: parameters,
            batch statistics, optimiser and average stay as they were.
        head: What the network's output means; it counts what the scores follow from.
        ema: Decay of the average of the weights; 0 for none.
        augment: From `make_augmentation`. A case's key follows from the step and its place in the batch, so that it
            becomes the same in whichever micro-batch and on whichever device.
    """
    dropout_key = jax.random.fold_in(key, state.step)
    if augment:
        augmentation_key = jax.random.fold_in(jax.random.fold_in(key, _AUGMENTATION), state.step)
        batch = batch | {"keys": jax.random.split(augmentation_key, len(batch["image"]))}
    gradient = functools.partial(_gradient, model, loss_function, head, augment, state.params)
    if accumulate == 1:
        gradients, batch_stats, loss, counts = gradient(state.batch_stats, batch, dropout_key)
    else:

        def add(carry: tuple[Any, Any], number: jax.Array) -> tuple[tuple[Any, Any], tuple[jax.Array, Counts]]:
            total, batch_stats = carry
            part = _micro_batch(batch, number, accumulate)
            more, batch_stats, loss, counts = gradient(batch_stats, part, jax.random.fold_in(dropout_key, number))
            return (jax.tree.map(jnp.add, total, more), batch_stats), (loss, counts)

        nothing = jax.tree.map(jnp.zeros_like, state.params)
        (total, batch_stats), (losses, counts) = lax.scan(add, (nothing, state.batch_stats), jnp.arange(accumulate))
        gradients = jax.tree.map(lambda sum_: sum_ / accumulate, total)
        loss, counts = losses.mean(), _sum_first(counts)
    with jax.named_scope("optimizer"):
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        updated = TrainState(state.step + 1, params, batch_stats, opt_state, state.skipped)
        if ema:
            average = update_average(state.average, updated.trained, ema, updated.step - state.skipped)
            updated = updated.replace(average=average)
        finite = is_finite(loss, gradients, batch_stats)
        if skip_nonfinite:
            unchanged = state.replace(step=state.step + 1, skipped=state.skipped + 1)
            updated = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, unchanged)
    metrics = StepMetrics(
        loss,
        class_dice(counts.confusion),
        class_iou(counts),
        accuracy(counts.confusion),
        finite,
        updated.skipped,
    )
    return updated, metrics


def is_finite(loss: jax.Array, gradients: Any, batch_stats: Any) -> jax.Array:
    """Whether an update leaves only finite numbers behind: a boolean scalar.

    A finite loss may have gradients that are not, and those would spoil every step after this one. So would gradients
    whose squares overflow, which Adam keeps. Looking at the gradients instead of all that follows from them costs next
    to nothing, because they are being read anyway.
    """
    largest = float(np.sqrt(np.finfo(np.float32).max))
    parts = [jnp.all(jnp.abs(leaf) < largest) for leaf in jax.tree.leaves((gradients, batch_stats))]
    return jnp.all(jnp.stack([jnp.isfinite(loss), *parts]))


def _gradient(
    model: nn.Module,
    loss_function: LossFunction,
    head: Head,
    augment: Augmentation | None,
    params: Any,
    batch_stats: Any,
    batch: Batch,
    key: jax.Array,
) -> tuple[Any, Any, jax.Array, Counts]:
    """Gradients, new batch statistics, loss, and the counts of all cases of a batch together."""
    image, labels = batch["image"], batch["labels"]
    if augment:
        with jax.named_scope("augmentation"):
            image, labels = augment(batch["keys"], image, labels)

    def objective(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        outputs, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            image,
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        logits = jax.tree.leaves(outputs)  # of the full size, and of deeper levels with deep supervision
        with jax.named_scope("loss"):
            loss = deeply_supervised(loss_function, logits, labels)
        return loss, (logits[0], updated.get("batch_stats", {}))

    (loss, (logits, batch_stats)), gradients = jax.value_and_grad(objective, has_aux=True)(params)
    with jax.named_scope("scores"):
        counts = _sum_first(head.count(logits, labels))
    return gradients, batch_stats, loss, counts


def _micro_batch(batch: Batch, number: jax.Array, accumulate: int) -> Batch:
    """Every `accumulate`-th case of a batch.

    Each device holds a run of neighbouring cases; taking every n-th takes as many from each device, with nothing to
    send between them, where a run of cases would lie on a few devices alone.
    """

    def take(array: jax.Array) -> jax.Array:
        apart = array.reshape(array.shape[0] // accumulate, accumulate, *array.shape[1:])
        return lax.dynamic_index_in_dim(apart, number, axis=1, keepdims=False)

    return jax.tree.map(take, batch)


def _sum_first(counts: Counts) -> Counts:
    return jax.tree.map(lambda count: count.sum(0), counts)


def jit_train_step(
    mesh: Mesh,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    loss_function: LossFunction,
    accumulate: int = 1,
    skip_nonfinite: bool = False,
    head: Head = LABELS,
    ema: float = 0.0,
    augment: Augmentation | None = None,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, StepMetrics]]:
    """`train_step` compiled over the mesh. The state handed in is donated: its memory becomes the new state's."""
    augment = augment and by_case(mesh, augment)

    def step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, StepMetrics]:
        options = (accumulate, skip_nonfinite, head, ema, augment)
        return train_step(model, optimizer, loss_function, state, batch, key, *options)

    whole = replicated(mesh)
    return jax.jit(
        step,
        in_shardings=(whole, batch_sharding(mesh), whole),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )


def device_memory(step: jax.stages.Compiled) -> int:
    """Bytes a compiled step takes on a device while it runs, by XLA's own account: what goes in, what comes out
    beside it, and what lies between.
    """
    memory = step.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
