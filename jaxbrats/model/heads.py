"""What a network's output means: channels, targets, probabilities, labels, and what is counted while training.

Losses, the step, validation, inference, maps and report ask the head; none of them knows of softmax or argmax.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxbrats.data.labels import BACKGROUND, NUM_CLASSES
from jaxbrats.model.counts import Counts, count


@dataclasses.dataclass(frozen=True)
class LabelsHead:
    """Softmax over the labels background, NCR, ED and ET, which exclude each other.

    Attributes:
        channels: Channels of the network's output.
    """

    channels: int = NUM_CLASSES

    def targets(self, labels: jax.Array) -> jax.Array:
        """Labels `(B, X, Y, Z)` to what the probabilities should be, `(B, X, Y, Z, channels)` float32."""
        return jax.nn.one_hot(labels, self.channels, dtype=jnp.float32)

    def probabilities(self, logits: jax.Array) -> jax.Array:
        """Logits `(..., channels)` to probabilities float32."""
        return jax.nn.softmax(logits.astype(jnp.float32))

    def labels(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities `(..., channels)` to the most probable labels `(...)` uint8, the lowest of equals."""
        return np.argmax(probabilities, axis=-1).astype(np.uint8)

    def count(self, logits: jax.Array, labels: jax.Array) -> Counts:
        """Logits `(B, X, Y, Z, channels)` and labels `(B, X, Y, Z)` to the counts that training scores follow from."""
        return count(logits, labels)

    @property
    def background(self) -> np.ndarray:
        """The probabilities `(channels,)` of a voxel that is background for certain."""
        return np.eye(self.channels, dtype=np.float32)[BACKGROUND]

    def entropy(self, probabilities: np.ndarray) -> np.ndarray:
        """Entropy of probabilities `(..., channels)` in nats: 0 where one is certain, at most ln(channels)."""
        least = np.finfo(probabilities.dtype).tiny
        total = np.zeros(probabilities.shape[:-1], probabilities.dtype)
        # Channel by channel: a whole volume has several times the memory of one.
        for channel in range(probabilities.shape[-1]):
            part = probabilities[..., channel]
            total -= part * np.log(np.maximum(part, least))
        return total


LABELS = LabelsHead()
