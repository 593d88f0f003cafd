"""A network applied to a volume of any size: overlapping windows, blended with Gaussian weights.

Each voxel's prediction is weighted by how near it is to the window's middle (Isensee et al. 2021, nnU-Net,
https://doi.org/10.1038/s41592-020-01008-z). Places and weights of the windows are those of MONAI's
`sliding_window_inference` with mode='gaussian', so that results can be compared.

The network meets batches of one shape whatever the volume's, and is compiled once.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbrats.data.labels import NUM_CLASSES
from jaxbrats.system.devices import is_out_of_memory

# Standard deviation of the Gaussian as a share of the window, and the least weight a voxel has.
_SIGMA, _LEAST_WEIGHT = 1 / 8, 1e-3
# Share of a device's memory that image and probabilities may take; the rest is the network's.
_DEVICE_SHARE = 0.25

Size = tuple[int, int, int]
Item = TypeVar("Item")
# Windows (B, X, Y, Z, C) to probabilities (B, X, Y, Z, K).
Apply = Callable[[jax.Array | np.ndarray], jax.Array]
# Starts (B, 3) of a batch's windows, and 1 for each of them, 0 for those that only fill it up (B,).
Batch = tuple[np.ndarray, np.ndarray]


def window_starts(length: int, window: int, overlap: float = 0.5) -> tuple[int, ...]:
    """Where windows begin along an axis: a step apart, the last one where it ends with the axis.

    Args:
        length: Voxels of the axis.
        window: Voxels of a window; a single one begins at 0 where it is no shorter than the axis.
        overlap: Share of a window that the next one covers again, from 0 to below 1; the last covers more.
    """
    step = max(int(window * (1 - overlap)), 1)
    last = max(length - window, 0)
    return (*range(0, last, step), last)


def gaussian_weights(window: Size) -> np.ndarray:
    """Weights of the voxels of a window `(X, Y, Z)`, float32.

    A Gaussian about the window's middle with a standard deviation of 1/8 of each side, no less than 0.001 anywhere.
    """
    axes = [np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / (_SIGMA * size)) ** 2) for size in window]
    product = axes[0][:, None, None] * axes[1][:, None] * axes[2]
    return np.maximum(product, _LEAST_WEIGHT).astype(np.float32)


def predict_probabilities(
    apply: Apply,
    image: np.ndarray,
    window: Size,
    overlap: float = 0.5,
    batch: int = 1,
    on_device: bool | None = None,
    num_classes: int = NUM_CLASSES,
) -> np.ndarray:
    """Applies a network to a whole volume; to one no larger than a window in a single call, with nothing to blend.

    Args:
        apply: Windows `(batch, *window, C)` to probabilities `(batch, *window, num_classes)`.
        image: `(X, Y, Z, C)` float32, of any size; where it is smaller than a window, zeros are put around it.
        window: Size of a window in voxels.
        overlap: See `window_starts`.
        batch: Windows that the network is given at once. The last batch is filled up with windows of weight 0.
        on_device: Whether image and sum lie on the device or in the host's memory; None chooses the device if it
            has memory of its own and they take up to a quarter of it.
        num_classes: K.

    Returns:
        Blended probabilities `(X, Y, Z, K)` float32, in the host's memory.

    Raises:
        MemoryError: the memory of the host or of the device does not suffice.
    """
    shape = image.shape[:3]
    missing = [max(size - length, 0) for length, size in zip(shape, window, strict=True)]
    image = _pad(image, [(size // 2, size - size // 2) for size in missing])
    axes = [window_starts(length, size, overlap) for length, size in zip(image.shape[:3], window, strict=True)]
    starts = np.array(list(itertools.product(*axes)), np.int32)
    try:
        if len(starts) == 1:
            probabilities = np.asarray(apply(np.repeat(image[None], batch, axis=0))[0])
        else:
            probabilities = _blended(apply, image, window, starts, batch, on_device, num_classes)
    except jax.errors.JaxRuntimeError as error:
        if is_out_of_memory(error):
            raise MemoryError(str(error)) from error
        raise
    return probabilities[
        tuple(slice(size // 2, size // 2 + length) for size, length in zip(missing, shape, strict=True))
    ]


def _blended(
    apply: Apply,
    image: np.ndarray,
    window: Size,
    starts: np.ndarray,
    batch: int,
    on_device: bool | None,
    num_classes: int,
) -> np.ndarray:
    weights = gaussian_weights(window)
    if on_device is None:
        size = math.prod(padded_shape(image.shape[:3], window)) * (image.shape[3] + num_classes) * 4
        on_device = _fits_on_device(size)
    blend = _blend_on_device if on_device else _blend_on_host
    total = blend(apply, image, weights, _batches(starts, batch), num_classes)
    total /= _summed_weights(image.shape[:3], starts, weights)[..., None]
    return total


def _batches(starts: np.ndarray, size: int) -> Iterator[Batch]:
    for first in range(0, len(starts), size):
        part = starts[first : first + size]
        fill = size - len(part)
        yield np.pad(part, ((0, fill), (0, 0))), np.pad(np.ones(len(part), np.float32), (0, fill))


def _summed_weights(shape: Sequence[int], starts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    total = np.zeros(shape, np.float32)
    for start in starts:
        total[_box(start, weights.shape)] += weights
    return total


def padded_shape(shape: Sequence[int], window: Size) -> Size:
    """The size that a volume is given on the device, one of few: from a window on, in steps of half a window."""
    steps = [-(-size // 2) for size in window]
    return tuple(max(-(-length // step) * step, size) for length, step, size in zip(shape, steps, window, strict=True))


def _fits_on_device(size: int) -> bool:
    memory = jax.devices()[0].memory_stats()
    # A processor has none of its own to tell of, and a copy in the host's memory would gain nothing.
    return memory is not None and size <= _DEVICE_SHARE * memory.get("bytes_limit", 0)


def _pad(image: np.ndarray, sides: Sequence[tuple[int, int]]) -> np.ndarray:
    return np.pad(image, [*sides, (0, 0)]) if any(map(any, sides)) else image


def _blend_on_device(
    apply: Apply, image: np.ndarray, weights: np.ndarray, batches: Iterable[Batch], num_classes: int
) -> np.ndarray:
    shape = image.shape[:3]
    size = padded_shape(shape, weights.shape)
    padded = jnp.asarray(_pad(image, [(0, whole - length) for whole, length in zip(size, shape, strict=True)]))
    weights, total = jnp.asarray(weights), jnp.zeros((*size, num_classes), jnp.float32)
    for starts, counted in batches:
        probabilities = apply(_cut(padded, starts, weights.shape))
        total = _add(total, probabilities, weights, starts, counted)
    return np.array(total)[: shape[0], : shape[1], : shape[2]]


@functools.partial(jax.jit, static_argnames="window")
def _cut(image: jax.Array, starts: jax.Array, window: Size) -> jax.Array:
    return jnp.stack([lax.dynamic_slice(image, (*start, 0), (*window, image.shape[3])) for start in starts])


@functools.partial(jax.jit, donate_argnames="total")
def _add(
    total: jax.Array, probabilities: jax.Array, weights: jax.Array, starts: jax.Array, counted: jax.Array
) -> jax.Array:
    """Adds weighted windows, one after the other because they overlap."""
    for start, patch, count in zip(starts, probabilities, counted, strict=True):
        place = (*start, 0)
        added = lax.dynamic_slice(total, place, patch.shape) + count * weights[..., None] * patch
        total = lax.dynamic_update_slice(total, added, place)
    return total


def _blend_on_host(
    apply: Apply, image: np.ndarray, weights: np.ndarray, batches: Iterable[Batch], num_classes: int
) -> np.ndarray:
    total = np.zeros((*image.shape[:3], num_classes), np.float32)
    # The device works on a batch while the one before is added.
    running = ((batch, apply(_cut_on_host(image, batch[0], weights.shape))) for batch in batches)
    for (starts, counted), probabilities in _one_ahead(running):
        for start, count, patch in zip(starts, counted, np.asarray(probabilities), strict=True):
            if count:
                total[_box(start, weights.shape)] += weights[..., None] * patch
    return total


def _cut_on_host(image: np.ndarray, starts: np.ndarray, window: Size) -> np.ndarray:
    return np.stack([image[_box(start, window)] for start in starts])


def _box(start: np.ndarray, window: Size) -> tuple[slice, ...]:
    return tuple(slice(first, first + size) for first, size in zip(start, window, strict=True))


def _one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Yields each item when the one after it has been begun."""
    current = next(items)
    for following in items:
        yield current
        current = following
    yield current
