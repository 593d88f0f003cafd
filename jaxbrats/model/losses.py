"""Dice and categorical focal loss, from logits and integer labels.

Both follow the library the Keras notebook used, segmentation_models_3D (`base/functional.py`: `f_score` with beta 1 and
`categorical_focal_loss`), which takes probabilities and one-hot masks. Here the softmax is part of the loss, so that
nothing overflows or is clipped, and the one-hot mask exists only inside the fused program.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax


def one_hot(labels: jax.Array, num_classes: int) -> jax.Array:
    """`(B, X, Y, Z)` integers to `(B, X, Y, Z, num_classes)` float32."""
    return jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)


def dice_loss(
    logits: jax.Array, labels: jax.Array, class_weights: Sequence[float] | None = None, smooth: float = 1e-5
) -> jax.Array:
    """One minus the weighted mean over classes of the soft Dice coefficient (Milletari et al. 2016, arXiv:1606.04797).

    The sums run over the batch and space together, so a class absent from one volume but present in another is well
    defined; a class absent from all counts as 1 when nothing is predicted, by `smooth`.

    Args:
        logits: `(B, X, Y, Z, C)`.
        labels: `(B, X, Y, Z)` integers in 0 .. C-1.
        class_weights: C numbers, of which only the ratios matter; None weighs all alike.
        smooth: Added to numerator and denominator.

    Returns:
        float32 scalar between 0 and 1.
    """
    probabilities = jax.nn.softmax(logits.astype(jnp.float32))
    mask = one_hot(labels, logits.shape[-1])
    space = (0, 1, 2, 3)
    intersection = jnp.sum(probabilities * mask, axis=space)
    dice = (2 * intersection + smooth) / (jnp.sum(probabilities, axis=space) + jnp.sum(mask, axis=space) + smooth)
    weights = None if class_weights is None else jnp.asarray(class_weights, jnp.float32)
    return 1 - jnp.average(dice, weights=weights)


def categorical_focal_loss(logits: jax.Array, labels: jax.Array, alpha: float = 0.25, gamma: float = 2.0) -> jax.Array:
    """Focal loss of the true class (Lin et al. 2017, arXiv:1708.02002, equation 5), mean over voxels and classes.

    `-alpha (1 - p)^gamma log p` for the probability p of each voxel's own class. The sum over voxels is divided by
    voxels times classes, because segmentation_models_3D takes the mean of a one-hot array.

    Args:
        logits: `(B, X, Y, Z, C)`.
        labels: `(B, X, Y, Z)` integers in 0 .. C-1.
        alpha: Weight of the whole.
        gamma: How strongly voxels that are already right are discounted; 0 gives cross-entropy.

    Returns:
        float32 scalar, 0 or more.
    """
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    log_p = jnp.sum(log_probabilities * one_hot(labels, logits.shape[-1]), axis=-1)
    wrong = -jnp.expm1(log_p)
    # An integer power is a product and has a finite gradient at 0; a fractional one has not and is kept off it.
    if float(gamma).is_integer():
        discount = lax.integer_pow(wrong, int(gamma))
    else:
        discount = jnp.maximum(wrong, jnp.finfo(jnp.float32).tiny) ** gamma
    return jnp.mean(-alpha * discount * log_p) / logits.shape[-1]
