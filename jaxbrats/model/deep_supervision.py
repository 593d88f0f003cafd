"""Deep supervision: the loss of the decoder's deeper levels beside that of the full size.

As in nnU-Net (Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z): each level has half the weight of the
one above it, the weights sum to 1, and labels are resampled to a level by the nearest voxel.
"""

from collections.abc import Callable, Sequence

import jax
from jax import lax


def deeply_supervised(
    loss: Callable[[jax.Array, jax.Array], jax.Array], logits: Sequence[jax.Array], labels: jax.Array
) -> jax.Array:
    """The weighted mean of a loss over logits of several sizes.

    Args:
        loss: Of logits `(B, X, Y, Z, K)` and labels `(B, X, Y, Z)`.
        logits: The full size first, then those of deeper levels; of the full size alone the mean is `loss` itself.
        labels: `(B, X, Y, Z)` of the full size.

    Returns:
        float32 scalar.
    """
    levels = zip(weights(len(logits)), logits, strict=True)
    return sum(weight * loss(part, nearest(labels, part)) for weight, part in levels)


def weights(count: int) -> list[float]:
    """1, 1/2, 1/4, ... divided by their sum."""
    halving = [2.0**-level for level in range(count)]
    return [weight / sum(halving) for weight in halving]


def nearest(labels: jax.Array, like: jax.Array) -> jax.Array:
    """Labels `(B, X, Y, Z)` at the size of `like` `(B, X/a, Y/b, Z/c, K)`.

    The voxel nearest to the centre of each block, the upper one of two (`nearest-exact` of PyTorch's `interpolate`).
    """
    for axis in (1, 2, 3):
        factor = labels.shape[axis] // like.shape[axis]
        labels = lax.slice_in_dim(labels, factor // 2, None, stride=factor, axis=axis)
    return labels
