"""What a network's output means: the one place of inference that knows of softmax over the labels."""

import jax
import numpy as np

from jaxbrats.data.labels import BACKGROUND


def probabilities_from_logits(logits: jax.Array) -> jax.Array:
    """Logits `(..., K)` to class probabilities `(..., K)`."""
    return jax.nn.softmax(logits)


def labels_from_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities `(..., K)` to the most probable labels `(...)` uint8, the lowest of equals."""
    return np.argmax(probabilities, axis=-1).astype(np.uint8)


def background_probabilities(num_classes: int) -> np.ndarray:
    """The probabilities `(K,)` of a voxel that is background for certain."""
    return np.eye(num_classes, dtype=np.float32)[BACKGROUND]


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Entropy of class probabilities `(..., K)` in nats, 0 where one is certain, ln K where all are equal."""
    least = np.finfo(probabilities.dtype).tiny
    total = np.zeros(probabilities.shape[:-1], probabilities.dtype)
    # Class by class: a whole volume has K times the memory of one.
    for k in range(probabilities.shape[-1]):
        total -= probabilities[..., k] * np.log(np.maximum(probabilities[..., k], least))
    return total
