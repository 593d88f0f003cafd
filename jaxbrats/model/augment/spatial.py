"""Rotation, scaling and elastic deformation in one resampling, and mirroring.

Images are interpolated trilinearly, and labels likewise, each by itself, whereupon a voxel has the one that covers most
of it or, where labels are soft, its part of each; outside the volume is background, 0. Angles and scales are those of
voxels about the volume's centre, so a rotation keeps shapes where voxels are cubes. Slices and slabs, thinner than a
third of their longest axis, are changed in plane only, as nnU-Net's are ('dummy 2-D').
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbrats.config import Augment
from jaxbrats.data.labels import NUM_CLASSES
from jaxbrats.model import random
from jaxbrats.model.augment.fields import smooth_field, thick_axes

_MIRRORED_AXES = [axes for count in range(4) for axes in itertools.combinations(range(3), count)]


class Deformation(NamedTuple):
    """What is drawn for a case.

    Attributes:
        drawn: Whether there is anything to resample, boolean scalar.
        angles: About each axis in radians, `(3,)`.
        scale: Along each axis, `(3,)`; above 1 the case becomes smaller.
        displacement: Greatest shift of a point by the elastic deformation, as a share of each axis, `(3,)`.
    """

    drawn: jax.Array
    angles: jax.Array
    scale: jax.Array
    displacement: jax.Array


def change_space(settings: Augment, key: jax.Array, image: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Resamples and mirrors a case `(X, Y, Z, C)` and its labels `(X, Y, Z)` or `(X, Y, Z, 3)`, each where drawn."""
    keys = jax.random.split(key, 8)
    draw_keys, field_keys, mirror_key = keys[:4], keys[4:7], keys[7]
    if settings.rotation or settings.scaling or settings.elastic:
        shape = image.shape[:3]
        deformation = draw_deformation(settings, draw_keys, shape)

        def resample(image: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
            matrix = affine_matrix(deformation.angles, deformation.scale)
            shifts = (0.0, 0.0, 0.0)
            if settings.elastic:
                sizes = [share * size for share, size in zip(deformation.displacement, shape, strict=True)]
                shifts = [size * smooth_field(key, shape) for size, key in zip(sizes, field_keys, strict=True)]
            return sample(image, labels, source_coordinates(shape, matrix, shifts))

        image, labels = lax.cond(deformation.drawn, resample, lambda *same: same, image, labels)
    if settings.mirror:
        image, labels = mirror(image, labels, random.between(mirror_key, (3,), 0, 1) < settings.mirror)
    return image, labels


def draw_deformation(settings: Augment, keys: jax.Array, shape: tuple[int, int, int]) -> Deformation:
    """Draws which of rotation, scaling and elastic deformation a case (X, Y, Z) has, how strong they are, by 4 keys."""
    x, y, z = thick = np.array(thick_axes(shape))
    turning = np.array([y and z, x and z, x and y])
    probabilities = jnp.array([settings.rotation, settings.scaling, settings.elastic])
    rotated, scaled, deformed = drawn = random.between(keys[0], (3,), 0, 1) < probabilities
    angles = jnp.deg2rad(random.between(keys[1], (3,), *settings.rotation_degrees))
    return Deformation(
        drawn.any(),
        jnp.where(rotated & turning, angles, 0),
        jnp.where(scaled & thick, random.between(keys[2], (), *settings.scaling_range), 1),
        jnp.where(deformed & thick, random.between(keys[3], (), *settings.elastic_displacement), 0),
    )


def affine_matrix(angles: jax.Array, scale: jax.Array) -> jax.Array:
    """Rotation about X, then Y, then Z, rows times `scale`, of each axis `(3,)` or of all; `(3, 3)`."""
    (cx, cy, cz), (sx, sy, sz) = jnp.cos(angles), jnp.sin(angles)
    about_x = jnp.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = jnp.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = jnp.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return jnp.reshape(scale, (-1, 1)) * functools.reduce(
        functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST), (about_z, about_y, about_x)
    )


def source_coordinates(
    shape: tuple[int, int, int], matrix: jax.Array, shifts: Sequence[jax.Array | float]
) -> list[jax.Array]:
    """Where each voxel of the result comes from: first shifted, then multiplied by the matrix about the centre.

    Args:
        shape: (X, Y, Z) of the volume.
        matrix: `(3, 3)`.
        shifts: Along each axis in voxels, `(X, Y, Z)` or a number.

    Returns:
        Three arrays `(X, Y, Z)`, float32 voxels.
    """
    centre = [(size - 1) / 2 for size in shape]
    offsets = [lax.broadcasted_iota(jnp.float32, shape, axis) - centre[axis] + shifts[axis] for axis in range(3)]
    return [
        sum(row[axis] * offsets[axis] for axis in range(3)) + middle for row, middle in zip(matrix, centre, strict=True)
    ]


def sample(image: jax.Array, labels: jax.Array, coordinates: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """An image `(X, Y, Z, C)` and its labels `(X, Y, Z)` or `(X, Y, Z, 3)` at coordinates `(X', Y', Z')`."""
    if labels.ndim == 3:
        return sample_linear(image, coordinates), sample_labels(labels, coordinates)
    both = sample_linear(jnp.concatenate([image, labels.astype(image.dtype)], axis=-1), coordinates)
    # Cut off, not rounded: no voxel gets more than its whole. The weights of an interpolation sum to 1 but for their
    # last digits, with which 255 would become 254.
    return both[..., : image.shape[-1]], (both[..., image.shape[-1] :] + 1e-2).astype(labels.dtype)


def sample_linear(image: jax.Array, coordinates: Sequence[jax.Array]) -> jax.Array:
    """Trilinear values of an image `(X, Y, Z, C)` at coordinates `(X', Y', Z')`; 0 outside."""
    return sum(weight[..., None] * corner for weight, corner in _corners(image, coordinates))


def sample_labels(labels: jax.Array, coordinates: Sequence[jax.Array]) -> jax.Array:
    """The labels `(X', Y', Z')` that cover most where labels `(X, Y, Z)` are interpolated, of equals the lowest."""
    covered = [0.0] * NUM_CLASSES
    for weight, corner in _corners(labels[..., None], coordinates):
        covered = [part + jnp.where(corner[..., 0] == label, weight, 0) for label, part in enumerate(covered)]
    most, found = covered[0], jnp.zeros_like(covered[0], labels.dtype)
    for label, part in enumerate(covered[1:], start=1):
        found = jnp.where(part > most, jnp.asarray(label, labels.dtype), found)
        most = jnp.maximum(part, most)
    return found


def _corners(volume: jax.Array, coordinates: Sequence[jax.Array]) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Weights `(X', Y', Z')` and values `(X', Y', Z', C)` of the eight voxels about each coordinate; 0 outside."""
    shape = volume.shape[:3]
    # In a border of one voxel of background, a row a voxel.
    rows = jnp.pad(volume, [(1, 1)] * 3 + [(0, 0)]).reshape(-1, volume.shape[-1])
    positions = [jnp.clip(at + 1, 0, size + 1) for at, size in zip(coordinates, shape, strict=True)]
    lower = [jnp.minimum(jnp.floor(position), size) for position, size in zip(positions, shape, strict=True)]
    above = [position - floor for position, floor in zip(positions, lower, strict=True)]
    for corner in itertools.product((0, 1), repeat=3):
        weight = functools.reduce(
            jnp.multiply, [part if up else 1 - part for part, up in zip(above, corner, strict=True)]
        )
        x, y, z = ((floor + up).astype(jnp.int32) for floor, up in zip(lower, corner, strict=True))
        voxel = (x * (shape[1] + 2) + y) * (shape[2] + 2) + z
        yield weight, rows.at[voxel].get(mode="promise_in_bounds")


def mirror(image: jax.Array, labels: jax.Array, mirrored: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mirrors a case along the axes that `mirrored` `(3,)` marks, in one pass."""
    choices = [functools.partial(_flip, axes=axes) for axes in _MIRRORED_AXES]
    wanted = jnp.array([[axis in axes for axis in range(3)] for axes in _MIRRORED_AXES])
    return lax.switch(jnp.argmax((wanted == mirrored).all(1)), choices, image, labels)


def _flip(image: jax.Array, labels: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    return jnp.flip(image, axes), jnp.flip(labels, axes)
