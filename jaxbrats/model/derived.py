"""Input channels that are derived from the modalities on the device, where the network begins.

Training, after its augmentation, validation and prediction so give the network the same; nothing of it is stored. All
functions are pure and work on images `(B, X, Y, Z, C)`, modalities normalised as preprocessing leaves them.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxbrats.config.channels import DERIVED


def add_derived(image: jax.Array, derived: Sequence[str], modalities: Sequence[str]) -> jax.Array:
    """The image with the derived channels behind its own.

    Args:
        image: `(B, X, Y, Z, C)`.
        derived: Names of the D channels to add, from `config.channels.DERIVED`, in order.
        modalities: Names of the image's channels.

    Returns:
        `(B, X, Y, Z, C + D)` of the image's type.

    Raises:
        ValueError: the image has another number of channels than there are modalities.
    """
    if image.shape[-1] != len(modalities):
        raise ValueError(f"an image of {', '.join(modalities)} is needed, it has {image.shape[-1]} channels")
    return jnp.stack(
        [*jnp.moveaxis(image, -1, 0), *(_channel(name, image, tuple(modalities)) for name in derived)], axis=-1
    )


def _channel(name: str, image: jax.Array, modalities: tuple[str, ...]) -> jax.Array:
    """`(B, X, Y, Z)` of a name."""
    volumes = [image[..., modalities.index(modality)] for modality in DERIVED[name]]
    if name == "brain":
        return brain_mask(image)
    if name.startswith("gradient_"):
        return gradient_magnitude(*volumes)
    first, second = volumes
    return first - second


def brain_mask(image: jax.Array) -> jax.Array:
    """1 where any channel is not 0, else 0; `(B, X, Y, Z)`.

    Background is 0 in every modality, as augmentation has it too: zscore leaves it 0, minmax does where no voxel of the
    file is below it. A brain voxel at the very mean of its volume is 0 in that modality, but not in all.
    """
    return (image != 0).any(-1).astype(image.dtype)


def gradient_magnitude(volume: jax.Array) -> jax.Array:
    """Length of the gradient of a volume `(B, X, Y, Z)`, in its values a voxel.

    Central differences; the outermost voxels are repeated beyond the volume.
    """
    padded = jnp.pad(volume, [(0, 0), (1, 1), (1, 1), (1, 1)], mode="edge")
    inner = [slice(1, -1)] * 3
    squares = []
    for axis, size in enumerate(volume.shape[1:]):
        row = padded[(slice(None), *inner[:axis], slice(None), *inner[axis + 1 :])]
        ahead, behind = (lax.slice_in_dim(row, start, start + size, axis=axis + 1) for start in (2, 0))
        squares.append(jnp.square((ahead - behind) / 2))
    return jnp.sqrt(sum(squares))
