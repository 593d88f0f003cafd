"""What a network's output means: channels, targets, probabilities, labels, and what is counted while training.

Losses, the step, validation, inference, maps and report ask the head; none of them knows of softmax or argmax. Labels
for training are numbers `(B, X, Y, Z)`, or soft, `(B, X, Y, Z, 3)` uint8: what part of each voxel NCR, ED and ET cover,
in 255ths. What the probabilities should be are then such parts, too.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxbrats.data.labels import BACKGROUND, ED, ET, NCR, NUM_CLASSES, REGIONS, SHARES, WHOLE, most_covered
from jaxbrats.model.counts import Counts, confusion_matrix

# Least probability that has a logit.
_LEAST = 1e-7


@dataclasses.dataclass(frozen=True)
class LabelsHead:
    """Softmax over the labels background, NCR, ED and ET, which exclude each other.

    Attributes:
        channels: Channels of the network's output.
        weights_setting: Name of the channels' weights in `jaxbrats.config.Loss`.
    """

    channels: int = NUM_CLASSES
    weights_setting: ClassVar[str] = "class_weights"

    def targets(self, labels: jax.Array) -> jax.Array:
        """Labels to what the probabilities should be, `(B, X, Y, Z, channels)` float32."""
        if _is_soft(labels):
            return jnp.stack([_share(labels, label) for label in range(self.channels)], axis=-1)
        return jax.nn.one_hot(labels, self.channels, dtype=jnp.float32)

    def probabilities(self, logits: jax.Array) -> jax.Array:
        """Logits `(..., channels)` to probabilities float32."""
        return jax.nn.softmax(logits.astype(jnp.float32))

    def logits(self, probabilities: jax.Array) -> jax.Array:
        """Logits that `probabilities` turns into these, of which none is taken as smaller than 1e-7."""
        return jnp.log(jnp.maximum(probabilities, _LEAST))

    def log_likelihood(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """Logarithm of the probability of each voxel's own label, `(B, X, Y, Z, 1)` float32; the mean of soft ones."""
        log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
        return jnp.sum(log_probabilities * self.targets(labels), axis=-1, keepdims=True)

    def weights(self, labels: jax.Array, channel_weights: Sequence[float]) -> jax.Array:
        """How much each entry of `log_likelihood` weighs where the channels weigh so: as its own label's."""
        return jnp.sum(self.targets(labels) * jnp.asarray(channel_weights, jnp.float32), axis=-1, keepdims=True)

    def focal_alpha(self, labels: jax.Array, alpha: float) -> jax.Array | float:
        """Scale of the focal loss of each entry of `log_likelihood`: one for all."""
        del labels
        return alpha

    def labels(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities `(..., channels)` to the most probable labels `(...)` uint8, the lowest of equals."""
        return np.argmax(probabilities, axis=-1).astype(np.uint8)

    def count(self, logits: jax.Array, labels: jax.Array) -> Counts:
        """Logits `(B, X, Y, Z, channels)` and labels to the counts that training scores follow from."""
        labels = _hard(labels)
        predicted = jnp.argmax(logits, axis=-1)
        # p > 1/2 of the largest class, without the softmax: the others' exponentials sum to less than its own.
        top = jnp.max(logits, axis=-1, keepdims=True)
        above_half = jnp.sum(jnp.exp((logits - top).astype(jnp.float32)), axis=-1) < 2
        return Counts(
            confusion_matrix(labels, predicted, self.channels),
            confusion_matrix(labels, predicted, self.channels, above_half),
        )

    @property
    def background(self) -> np.ndarray:
        """The probabilities `(channels,)` of a voxel that is background for certain."""
        return np.eye(self.channels, dtype=np.float32)[BACKGROUND]

    def entropy(self, probabilities: np.ndarray) -> np.ndarray:
        """Entropy of probabilities `(..., channels)` in nats: 0 where one is certain, at most ln(channels)."""
        # Channel by channel: a whole volume has several times the memory of one.
        return sum(_surprise(probabilities[..., channel]) for channel in range(self.channels))


@dataclasses.dataclass(frozen=True)
class RegionsHead:
    """A sigmoid for each of the nested regions WT, TC and ET that BraTS scores (Isensee et al. 2018, arXiv:1809.10483).

    Attributes:
        thresholds: Probability of each region above which a voxel belongs to it.
        channels: Channels of the network's output.
        weights_setting: Name of the channels' weights in `jaxbrats.config.Loss`.
    """

    thresholds: tuple[float, float, float] = (0.5, 0.5, 0.5)
    channels: ClassVar[int] = len(REGIONS)
    weights_setting: ClassVar[str] = "region_weights"

    def targets(self, labels: jax.Array) -> jax.Array:
        """Labels to what the probabilities should be, `(B, X, Y, Z, 3)` float32."""
        inside = [[label in region for region in REGIONS.values()] for label in range(NUM_CLASSES)]
        return sum(_share(labels, label)[..., None] * np.float32(inside[label]) for label in range(NUM_CLASSES))

    def probabilities(self, logits: jax.Array) -> jax.Array:
        """Logits `(..., 3)` to probabilities float32, each region's by itself."""
        return jax.nn.sigmoid(logits.astype(jnp.float32))

    def logits(self, probabilities: jax.Array) -> jax.Array:
        """Logits that `probabilities` turns into these, of which none is taken as nearer to 0 or 1 than 1e-7."""
        inside = jnp.clip(probabilities, _LEAST, 1 - _LEAST)
        return jnp.log(inside) - jnp.log1p(-inside)

    def log_likelihood(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """Logarithm of the probability that a voxel is in, or outside, each region as it is: `(B, X, Y, Z, 3)`.

        Of a voxel that is in part inside, the mean of both.
        """
        targets, logits = self.targets(labels), logits.astype(jnp.float32)
        # 1 - sigmoid(x) = sigmoid(-x), without the difference that rounds to 0.
        if _is_soft(labels):
            return targets * jax.nn.log_sigmoid(logits) + (1 - targets) * jax.nn.log_sigmoid(-logits)
        return jax.nn.log_sigmoid((2 * targets - 1) * logits)

    def weights(self, labels: jax.Array, channel_weights: Sequence[float]) -> jax.Array:
        """How much each entry of `log_likelihood` weighs where the channels weigh so: as its region."""
        return jnp.broadcast_to(jnp.asarray(channel_weights, jnp.float32), (*labels.shape[:4], self.channels))

    def focal_alpha(self, labels: jax.Array, alpha: float) -> jax.Array | float:
        """Scale of the focal loss of each entry of `log_likelihood`: alpha within a region, 1 - alpha outside."""
        return jnp.where(self.targets(labels) > 0.5, alpha, 1 - alpha)

    def labels(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities `(..., 3)` to labels `(...)` uint8; see `_nested`."""
        return _nested(probabilities, self.thresholds, np.where)

    def count(self, logits: jax.Array, labels: jax.Array) -> Counts:
        """Logits `(B, X, Y, Z, 3)` and labels to the counts that training scores follow from."""
        labels = _hard(labels)
        probabilities = self.probabilities(logits)
        decoded, at_half = (_nested(probabilities, one, jnp.where) for one in (self.thresholds, (0.5, 0.5, 0.5)))
        return Counts(confusion_matrix(labels, decoded, NUM_CLASSES), confusion_matrix(labels, at_half, NUM_CLASSES))

    @property
    def background(self) -> np.ndarray:
        """The probabilities `(3,)` of a voxel that is background for certain."""
        return np.zeros(self.channels, np.float32)

    def entropy(self, probabilities: np.ndarray) -> np.ndarray:
        """Sum of the regions' binary entropies in nats: 0 where all are certain, at most 3 ln 2."""
        parts = (probabilities[..., channel] for channel in range(self.channels))
        return sum(_surprise(part) + _surprise(1 - part) for part in parts)


def _is_soft(labels: jax.Array) -> bool:
    return labels.ndim == 5


def _share(labels: jax.Array, label: int) -> jax.Array:
    """What part of each voxel a label covers, `(B, X, Y, Z)`: float32 of soft labels, else boolean."""
    if not _is_soft(labels):
        return labels == label
    shares = labels.astype(jnp.float32) / WHOLE
    return 1 - shares.sum(-1) if label == BACKGROUND else shares[..., SHARES.index(label)]


def _hard(labels: jax.Array) -> jax.Array:
    return most_covered(labels, jnp) if _is_soft(labels) else labels


def _surprise(probability: np.ndarray) -> np.ndarray:
    """What an outcome of this probability adds to the entropy: `-p ln p`, 0 at 0."""
    return -probability * np.log(np.maximum(probability, np.finfo(probability.dtype).tiny))


def _nested(probabilities: jax.Array, thresholds: Sequence[float], where: Callable[..., jax.Array]) -> jax.Array:
    """Labels uint8 from the probabilities of WT, TC and ET: ED within WT, over it NCR within TC, over it ET.

    A region that is found outside the one around it has its label all the same, as in nnU-Net, where later regions
    overwrite earlier ones (`regions_class_order`, nnunetv2/utilities/label_handling/label_handling.py).
    """
    labels = np.uint8(BACKGROUND)
    for channel, (label, threshold) in enumerate(zip((ED, NCR, ET), thresholds, strict=True)):
        labels = where(probabilities[..., channel] > threshold, np.uint8(label), labels)
    return labels


Head = LabelsHead | RegionsHead
LABELS = LabelsHead()
