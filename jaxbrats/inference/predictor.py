"""The predictor: trained networks, applied to a volume of any size.

Validation, `evaluate` and `predict` all ask this one, so that what is validated is what a patient gets.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxbrats.inference.network import Network
from jaxbrats.inference.sliding_window import Size, predict_probabilities
from jaxbrats.model.heads import Head


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """A function from an image `(X, Y, Z, C)` float32 to class probabilities `(X, Y, Z, K)` float32.

    The networks are compiled once for each shape of their input, `(batch, *window, C)`; networks that differ in nothing
    but their parameters, in this predictor or another, share the program.

    Attributes:
        networks: The ensemble; their probabilities are averaged.
        window: Size in voxels of what the networks are given. A smaller image is padded with zeros, one of this size is
            predicted in one call, over a larger one windows slide and their predictions are blended.
        overlap: Least share of a window that the next one covers.
        batch: Windows that the networks are given at once.
        mirror: Whether to average also over the image mirrored along each combination of its axes, eight in all (four
            of single slices), every prediction mirrored back (test-time augmentation).
    """

    networks: Sequence[Network]
    window: Size
    overlap: float = 0.5
    batch: int = 1
    mirror: bool = False

    @classmethod
    def of(cls, network: Network) -> "Predictor":
        """Of a run's network, applied as its settings have it."""
        return cls([network], network.window, network.inference.overlap, mirror=network.inference.mirror)

    @property
    def head(self) -> Head:
        """What the networks' output means."""
        return self.networks[0].head

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Probabilities `(X, Y, Z, K)` of an image.

        Raises:
            MemoryError: the memory of the host or of the device does not suffice.
        """
        channels = self.head.channels
        return predict_probabilities(self.apply, image, self.window, self.overlap, self.batch, num_classes=channels)

    def labels(self, image: np.ndarray) -> np.ndarray:
        """Labels `(X, Y, Z)` uint8 of an image; raises as a call does."""
        return self.head.labels(self(image))

    def apply(self, windows: jax.Array | np.ndarray) -> jax.Array:
        """Windows `(B, X, Y, Z, C)` to probabilities `(B, X, Y, Z, K)`, the mean over networks and mirrorings."""
        sides = [(False, True) if size > 1 else (False,) for size in self.window]
        mirrorings = [np.array(axes) for axes in itertools.product(*sides)] if self.mirror else [None]
        windows, total = jnp.asarray(windows), None
        for network, axes in itertools.product(self.networks, mirrorings):
            probabilities = probabilities_of(network.model, network.head, network.variables, windows, axes)
            total = probabilities if total is None else _add(total, probabilities)
        count = len(self.networks) * len(mirrorings)
        return total if count == 1 else total / count


@functools.partial(jax.jit, static_argnames=("model", "head"))
def probabilities_of(
    model: nn.Module, head: Head, variables: Any, images: jax.Array, mirror: jax.Array | None
) -> jax.Array:
    """Class probabilities; `mirror` says for each axis whether to reverse it before, and back afterwards."""
    return _mirror(head.probabilities(model.apply(variables, _mirror(images, mirror))), mirror)


@functools.partial(jax.jit, donate_argnames="total")
def _add(total: jax.Array, probabilities: jax.Array) -> jax.Array:
    return total + probabilities


def _mirror(x: jax.Array, axes: jax.Array | None) -> jax.Array:
    """Reverses axes of `(B, X, Y, Z, C)`; which ones is data, so that all mirrorings are one compiled program."""
    for axis in range(0 if axes is None else 3):
        x = jnp.where(axes[axis], jnp.flip(x, axis + 1), x)
    return x
