"""Deep supervision: the loss of the decoder's deeper levels beside that of the full size.

As in nnU-Net (Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z): each level has half the weight of the
one above it, the weights sum to 1, and labels are resampled to a level by the nearest voxel. Soft labels are averaged.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxbrats.model.resample import mean_pool


def deeply_supervised(
    loss: Callable[[jax.Array, jax.Array], jax.Array], logits: Sequence[jax.Array], labels: jax.Array
) -> jax.Array:
    """The weighted mean of a loss over logits of several sizes.

    Args:
        loss: Of logits `(B, X, Y, Z, K)` and labels.
        logits: The full size first, then those of deeper levels; of the full size alone the mean is `loss` itself.
        labels: `(B, X, Y, Z)` or soft `(B, X, Y, Z, 3)` of the full size.

    Returns:
        float32 scalar.
    """
    levels = zip(weights(len(logits)), logits, strict=True)
    return sum(weight * loss(part, resampled(labels, part)) for weight, part in levels)


def weights(count: int) -> list[float]:
    """1, 1/2, 1/4, ... divided by their sum."""
    halving = [2.0**-level for level in range(count)]
    return [weight / sum(halving) for weight in halving]


def resampled(labels: jax.Array, like: jax.Array) -> jax.Array:
    """Labels `(B, X, Y, Z)` or soft `(B, X, Y, Z, 3)` at the size of `like` `(B, X/a, Y/b, Z/c, K)`.

    The voxel nearest to the centre of each block, the upper one of two (`nearest-exact` of PyTorch's `interpolate`); of
    soft labels the mean of each block, cut off to whole 255ths, so that no voxel has more than its whole.
    """
    factors = tuple(labels.shape[axis] // like.shape[axis] for axis in (1, 2, 3))
    if labels.ndim == 5:
        # The hundredth: 255 must not become 254 by rounding.
        return (mean_pool(labels.astype(jnp.float32), factors) + 1e-2).astype(labels.dtype)
    for axis, factor in enumerate(factors, start=1):
        labels = lax.slice_in_dim(labels, factor // 2, None, stride=factor, axis=axis)
    return labels
