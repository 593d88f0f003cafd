"""The loss as a weighted sum of terms, and the terms: Dice and categorical focal loss, from logits and labels.

A term is a pure function of head, logits `(B, X, Y, Z, K)`, labels `(B, X, Y, Z)` and settings; a new one is a function
and its line in `TERMS` (and its name in `jaxbrats.config.loss`).

Dice and focal loss follow the library the Keras notebook used, segmentation_models_3D (`base/functional.py`: `f_score`
with beta 1 and `categorical_focal_loss`), which takes probabilities and one-hot masks. Here the softmax is part of the
loss, so that nothing overflows or is clipped, and the one-hot mask exists only inside the fused program.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxbrats.config import Loss
from jaxbrats.model.heads import LABELS, LabelsHead

LossFunction = Callable[[jax.Array, jax.Array], jax.Array]


def make_loss(settings: Loss, head: LabelsHead = LABELS) -> LossFunction:
    """The sum of the terms that the settings name, each times its weight.

    Returns:
        A function from logits `(B, X, Y, Z, K)` and labels `(B, X, Y, Z)` to a float32 scalar.
    """

    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        weighted = ((weight, TERMS[name]) for name, weight in settings.terms.items() if weight)
        return sum(weight * term(head, logits, labels, settings) for weight, term in weighted)

    return loss


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
    head = LabelsHead(logits.shape[-1])
    return soft_dice_loss(head.probabilities(logits), head.targets(labels), class_weights, smooth)


def soft_dice_loss(
    probabilities: jax.Array,
    targets: jax.Array,
    channel_weights: Sequence[float] | None = None,
    smooth: float = 1e-5,
) -> jax.Array:
    """As `dice_loss`, of probabilities and targets `(B, X, Y, Z, K)`."""
    space = (0, 1, 2, 3)
    intersection = jnp.sum(probabilities * targets, axis=space)
    dice = (2 * intersection + smooth) / (jnp.sum(probabilities, axis=space) + jnp.sum(targets, axis=space) + smooth)
    weights = None if channel_weights is None else jnp.asarray(channel_weights, jnp.float32)
    return 1 - jnp.average(dice, weights=weights)


def categorical_focal_loss(logits: jax.Array, labels: jax.Array, alpha: float = 0.25, gamma: float = 2.0) -> jax.Array:
    """Focal loss of the true class (Lin et al. 2017, arXiv:1708.02002, equation 5), mean over voxels and classes.

    `-alpha (1 - p)^gamma log p` for the probability p of each voxel's own class. The sum over voxels is divided by
    voxels times classes, because segmentation_models_3D takes the mean of a one-hot array.

    Args:
        logits: `(B, X, Y, Z, C)`.
        labels: `(B, X, Y, Z)` integers in 0 .. C-1.
        alpha: Scale of the loss.
        gamma: How strongly voxels that are already right are discounted; 0 gives cross-entropy.

    Returns:
        float32 scalar, 0 or more.
    """
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    log_p = jnp.sum(log_probabilities * LabelsHead(logits.shape[-1]).targets(labels), axis=-1)
    wrong = -jnp.expm1(log_p)
    # An integer power is a product and has a finite gradient at 0; a fractional one has not and is kept off it.
    if float(gamma).is_integer():
        discount = lax.integer_pow(wrong, int(gamma))
    else:
        discount = jnp.maximum(wrong, jnp.finfo(jnp.float32).tiny) ** gamma
    return jnp.mean(-alpha * discount * log_p) / logits.shape[-1]


def _dice(head: LabelsHead, logits: jax.Array, labels: jax.Array, settings: Loss) -> jax.Array:
    return soft_dice_loss(head.probabilities(logits), head.targets(labels), settings.class_weights)


def _focal(head: LabelsHead, logits: jax.Array, labels: jax.Array, settings: Loss) -> jax.Array:
    del head
    return categorical_focal_loss(logits, labels, settings.alpha, settings.gamma)


TERMS: dict[str, Callable[[LabelsHead, jax.Array, jax.Array, Loss], jax.Array]] = {"dice": _dice, "focal": _focal}
