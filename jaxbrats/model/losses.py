"""The loss as a weighted sum of terms, and the terms, from logits and labels.

A term is a pure function of head, logits `(B, X, Y, Z, K)`, labels `(B, X, Y, Z)` and settings; a new one is a function
and its line in `TERMS` (and its name in `jaxbrats.config.loss`). What differs between heads, the head knows: Dice and
Tversky compare its probabilities with its targets, the others follow from its `log_likelihood`.

With the head 'labels', Dice and focal loss follow the library the Keras notebook used, segmentation_models_3D
(`base/functional.py`: `f_score` with beta 1 and `categorical_focal_loss`), which takes probabilities and one-hot masks.
Here the softmax is part of the loss, so that nothing overflows or is clipped, and the one-hot mask exists only inside
the fused program.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from jaxbrats.config import Loss
from jaxbrats.model.distance import signed_distance
from jaxbrats.model.heads import LABELS, Head, LabelsHead

LossFunction = Callable[[jax.Array, jax.Array], jax.Array]
Per = Literal["batch", "case"]


def make_loss(settings: Loss, head: Head = LABELS) -> LossFunction:
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
    per: Per = "batch",
    squared: bool = False,
) -> jax.Array:
    """As `dice_loss`, of probabilities and targets `(B, X, Y, Z, K)`.

    Args:
        probabilities: The prediction.
        targets: What they should be: 0, 1 or, of soft labels, parts.
        channel_weights: K numbers, of which only the ratios matter; None weighs all alike.
        smooth: Added to numerator and denominator.
        per: Whether the sums run over the batch together, or over each case, whose coefficients are then averaged.
        squared: Whether both are squared in the denominator, as in the paper. Targets of 0 and 1 stay what they are.
    """
    space = _space(per)
    # Squared, the product is least wrong at the targets, whatever these are.
    both = probabilities * targets if squared else _overlap(probabilities, targets)
    intersection = jnp.sum(both, axis=space)
    predicted, true = (jnp.sum(jnp.square(part) if squared else part, axis=space) for part in (probabilities, targets))
    dice = (2 * intersection + smooth) / (predicted + true + smooth)
    return _one_minus_mean(dice, channel_weights)


def tversky_loss(
    probabilities: jax.Array,
    targets: jax.Array,
    channel_weights: Sequence[float] | None = None,
    false_positives: float = 0.3,
    false_negatives: float = 0.7,
    smooth: float = 1e-5,
    per: Per = "batch",
) -> jax.Array:
    """One minus the weighted mean over channels of the soft Tversky index (Salehi et al. 2017, arXiv:1706.05721).

    `TP / (TP + false_positives FP + false_negatives FN)`, where probabilities count as parts of voxels; one half for
    both is Dice, up to `smooth`. Arguments as of `soft_dice_loss`.
    """
    space = _space(per)
    both = jnp.sum(_overlap(probabilities, targets), axis=space)
    wrong = false_positives * (jnp.sum(probabilities, axis=space) - both)
    missed = false_negatives * (jnp.sum(targets, axis=space) - both)
    return _one_minus_mean((both + smooth) / (both + wrong + missed + smooth), channel_weights)


def boundary_loss(
    probabilities: jax.Array, targets: jax.Array, channel_weights: Sequence[float] | None = None
) -> jax.Array:
    """Weighted mean over channels of the mean over voxels of probability times signed distance to the target's border.

    Probability costs the more the farther outside it lies, and is worth the more the farther inside, so the loss may be
    below 0 (Kervadec et al. 2021, https://doi.org/10.1016/j.media.2020.101851). It goes beside an overlap loss, with a
    small weight, which the authors let grow from 0.01: a run with `init_from` one of a smaller weight does so.
    Arguments as of `soft_dice_loss`.
    """
    costs = jnp.mean(probabilities * signed_distance(targets > 0.5), axis=(0, 1, 2, 3))
    return jnp.average(costs, weights=None if channel_weights is None else jnp.asarray(channel_weights, jnp.float32))


def cross_entropy(log_likelihood: jax.Array, weights: jax.Array) -> jax.Array:
    """Minus the weighted mean of a head's `log_likelihood`; 0 where no entry has a weight above 0."""
    return -jnp.sum(weights * log_likelihood) / jnp.maximum(jnp.sum(weights), jnp.finfo(jnp.float32).tiny)


def topk_cross_entropy(log_likelihood: jax.Array, share: float = 0.1) -> jax.Array:
    """Mean cross-entropy of the voxels that have the largest (Wu et al. 2016, arXiv:1605.06885, section 3.2).

    Args:
        log_likelihood: A head's, of any shape; each entry counts by itself.
        share: Share of the entries, above 0, up to 1; at least one is taken. Those equal to the least of them share its
            place.
    """
    costs = -log_likelihood
    count = max(round(share * costs.size), 1)
    # Numbers of 0 or more are in the order of their bits, so that the count-th largest is found bit by bit, by counting
    # alone: nothing is sorted, and devices exchange no more than their counts. A cost of -0 becomes 0.
    bits = jnp.maximum(lax.bitcast_convert_type(lax.stop_gradient(costs), jnp.int32), 0)

    def add_bit(place: jax.Array, least: jax.Array) -> jax.Array:
        candidate = least | (1 << (30 - place))
        return jnp.where(jnp.sum(bits >= candidate, dtype=jnp.int32) >= count, candidate, least)

    least = lax.fori_loop(0, 31, add_bit, jnp.int32(0))
    above, equal = bits > least, bits == least
    part = (count - jnp.sum(above, dtype=jnp.int32)) / jnp.sum(equal, dtype=jnp.int32)
    return jnp.sum(costs * jnp.where(equal, part, above.astype(jnp.float32))) / count


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
    classes = logits.shape[-1]
    return focal_loss(LabelsHead(classes).log_likelihood(logits, labels), alpha, gamma) / classes


def focal_loss(log_likelihood: jax.Array, alpha: jax.Array | float, gamma: float) -> jax.Array:
    """Mean of `-alpha (1 - p)^gamma log p` over a head's `log_likelihood`; see `categorical_focal_loss`.

    `alpha` is one number or one for each entry.
    """
    wrong = -jnp.expm1(log_likelihood)
    # An integer power is a product and has a finite gradient at 0; a fractional one has not and is kept off it.
    if float(gamma).is_integer():
        discount = lax.integer_pow(wrong, int(gamma))
    else:
        discount = jnp.maximum(wrong, jnp.finfo(jnp.float32).tiny) ** gamma
    return jnp.mean(-alpha * discount * log_likelihood)


def _overlap(probabilities: jax.Array, targets: jax.Array) -> jax.Array:
    """What probabilities and targets have in common: the lesser of both, their product where targets are 0 or 1.

    With the product, a voxel that is half tumour would cost least where it is predicted to be all of it (Wang et al.
    2023, Dice Semimetric Losses, arXiv:2303.16296).
    """
    # Not the minimum, whose gradient is half of the product's where both are 1.
    return jnp.where(probabilities <= targets, probabilities, targets)


def _space(per: Per) -> tuple[int, ...]:
    return (0, 1, 2, 3) if per == "batch" else (1, 2, 3)


def _one_minus_mean(scores: jax.Array, channel_weights: Sequence[float] | None) -> jax.Array:
    """From the scores `(..., K)` of channels to a loss."""
    weights = None if channel_weights is None else jnp.asarray(channel_weights, jnp.float32)
    return 1 - jnp.mean(jnp.average(scores, axis=-1, weights=weights))


def _overlap_weights(head: Head, settings: Loss) -> Sequence[float]:
    """Weights of the channels in Dice, Tversky and boundary loss."""
    weights = getattr(settings, head.weights_setting)
    return weights if settings.dice_background else (0.0, *weights[1:])


def _dice(head: Head, logits: jax.Array, labels: jax.Array, settings: Loss) -> jax.Array:
    return soft_dice_loss(
        head.probabilities(logits),
        head.targets(labels),
        _overlap_weights(head, settings),
        per=settings.dice_per,
        squared=settings.dice_squared,
    )


def _tversky(head: Head, logits: jax.Array, labels: jax.Array, settings: Loss) -> jax.Array:
    return tversky_loss(
        head.probabilities(logits),
        head.targets(labels),
        _overlap_weights(head, settings),
        settings.tversky_fp,
        settings.tversky_fn,
        per=settings.dice_per,
    )


def _boundary(head: Head, logits: jax.Array, labels: jax.Array, settings: Loss) -> jax.Array:
    return boundary_loss(head.probabilities(logits), head.targets(labels), _overlap_weights(head, settings))


def _cross_entropy(head: Head, logits: jax.Array, labels: jax.Array, settings: Loss) -> jax.Array:
    weights = head.weights(labels, getattr(settings, head.weights_setting))
    return cross_entropy(head.log_likelihood(logits, labels), weights)


def _topk(head: Head, logits: jax.Array, labels: jax.Array, settings: Loss) -> jax.Array:
    return topk_cross_entropy(head.log_likelihood(logits, labels), settings.topk)


def _focal(head: Head, logits: jax.Array, labels: jax.Array, settings: Loss) -> jax.Array:
    log_likelihood = head.log_likelihood(logits, labels)
    mean = focal_loss(log_likelihood, head.focal_alpha(labels, settings.alpha), settings.gamma)
    # Over voxels and channels, also where a voxel has one likelihood for all channels.
    return mean * (log_likelihood.size / logits.size)


TERMS: dict[str, Callable[[Head, jax.Array, jax.Array, Loss], jax.Array]] = {
    "dice": _dice,
    "tversky": _tversky,
    "boundary": _boundary,
    "ce": _cross_entropy,
    "bce": _cross_entropy,
    "topk": _topk,
    "focal": _focal,
}
