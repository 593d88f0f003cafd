"""What spatial and intensity transforms share: linear maps along each axis, and smooth random fields."""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbrats.model import random

# Intervals between the control points of a smooth field, along each axis.
_INTERVALS = 4
# How much thinner than its longest axis a volume is along one that is left out of what happens in space, in nnU-Net
# (`ANISO_THRESHOLD` of its configuration).
_THIN = 3


def thick_axes(shape: tuple[int, int, int]) -> tuple[bool, bool, bool]:
    """Which axes are not thin, as that across a slice or a slab is: neighbouring voxels along it are few or far."""
    x, y, z = (_THIN * size >= max(shape) for size in shape)
    return x, y, z


def along_axes(volume: jax.Array, matrices: Iterable[jax.Array]) -> jax.Array:
    """Multiplies a volume `(X, Y, Z)` by one matrix `(new size, size)` along each axis: a separable linear map."""
    for matrix in matrices:  # each product takes the first axis away and puts the new one last
        volume = jnp.tensordot(volume, matrix, (0, 1), precision=lax.Precision.HIGHEST)
    return volume


def smooth_field(key: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
    """A random field `(X, Y, Z)` between -1 and 1: uniform control points joined by cubic B-splines.

    These are the free-form deformations of Rueckert et al. 1999 (https://doi.org/10.1109/42.796284), with
    control points a quarter of the volume's size apart. Along a thin axis it is constant.
    """
    points = random.uniform(key, (_INTERVALS + 3,) * 3, 1.0)
    sizes = [size if thick else 1 for size, thick in zip(shape, thick_axes(shape), strict=True)]
    return jnp.broadcast_to(along_axes(points, map(_spline_matrix, sizes)), shape)


@functools.cache
def _spline_matrix(size: int) -> np.ndarray:
    """Weights `(size, control points)` of the uniform cubic B-spline at each voxel; each row sums to 1."""
    position = (np.arange(size) + 0.5) / size * _INTERVALS
    distance = np.abs(position[:, None] - np.arange(-1, _INTERVALS + 2))
    inner = 2 / 3 - distance**2 + distance**3 / 2
    outer = np.maximum(2 - distance, 0) ** 3 / 6
    return np.where(distance < 1, inner, outer).astype(np.float32)
