"""Scores computed on the device while training: from labels to the few numbers worth sending to the host."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Counts(NamedTuple):
    """Voxel counts from which every training score follows; int32, so exact up to 2^31 voxels.

    `jax.tree.map(lambda count: count.sum(0), counts)` gives those of a whole batch.

    Attributes:
        confusion: `(B, C, C)`: of each volume, voxels of reference class i predicted as class j.
        confusion_above_half: `(B, C, C)`: the same with one half as the threshold of every probability: of labels that
            exclude each other only the voxels whose largest probability is above it, of regions the labels that follow.
    """

    confusion: jax.Array
    confusion_above_half: jax.Array


def confusion_matrix(
    labels: jax.Array, predicted: jax.Array, classes: int, where: jax.Array | None = None
) -> jax.Array:
    """Counts voxels by reference and prediction.

    Args:
        labels: Reference `(B, X, Y, Z)`, integers in 0 .. classes-1.
        predicted: The same of the prediction.
        classes: Number of classes.
        where: Voxels `(B, X, Y, Z)` to count; None for all.

    Returns:
        int32 `(B, classes, classes)`, see `Counts.confusion`.
    """
    pair = labels.astype(jnp.int32) * classes + predicted.astype(jnp.int32)
    here = pair[..., None] == jnp.arange(classes * classes)
    here = here if where is None else here & where[..., None]
    return jnp.sum(here, axis=(1, 2, 3), dtype=jnp.int32).reshape(labels.shape[0], classes, classes)


def class_dice(confusion: jax.Array) -> jax.Array:
    """Dice of each class from confusion counts `(..., C, C)`: `(..., C)`. 1 where neither side has the class."""
    confusion = _floats(confusion)
    both = jnp.diagonal(confusion, axis1=-2, axis2=-1)
    return _ratio(2 * both, confusion.sum(-1) + confusion.sum(-2))


def class_iou(counts: Counts) -> jax.Array:
    """Intersection over union of each class, predicted at one half: counts `(..., C, C)` to `(..., C)`.

    1 where both sides are empty.
    """
    reference, above_half = _floats(counts.confusion), _floats(counts.confusion_above_half)
    both = jnp.diagonal(above_half, axis1=-2, axis2=-1)
    return _ratio(both, reference.sum(-1) + above_half.sum(-2) - both)


def accuracy(confusion: jax.Array) -> jax.Array:
    """Share of voxels predicted as their reference class, from `(..., C, C)` counts, over everything."""
    confusion = _floats(confusion)
    return _ratio(jnp.diagonal(confusion, axis1=-2, axis2=-1).sum(), confusion.sum())


def region_dice(confusion: jax.Array, region: tuple[int, ...]) -> jax.Array:
    """Dice of a region (a set of labels) from `(..., C, C)` counts: `(...)`. 1 where both sides are empty (BraTS)."""
    confusion, index = _floats(confusion), jnp.array(region)
    both = confusion[..., index[:, None], index].sum((-2, -1))
    return _ratio(2 * both, confusion[..., index, :].sum((-2, -1)) + confusion[..., :, index].sum((-2, -1)))


def _floats(count: jax.Array) -> jax.Array:
    """Of which sums and multiples don't overflow."""
    return jnp.asarray(count, jnp.float32)


def _ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    return jnp.where(denominator == 0, 1.0, numerator / jnp.maximum(denominator, 1))
