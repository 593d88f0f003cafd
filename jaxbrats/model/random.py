"""Random numbers for dropout and initial parameters: one hash of (key, position) for each element.

JAX's own bits (threefry, 20 rounds) are made for statistics. Dropout needs one cheap decision for each of tens of
millions of activations, fused into the multiplication that uses it; threefry costs more than the convolutions around
it on a CPU and seconds of compilation for every shape. The hash is pcg3d of Jarzynski and Olano 2020, "Hash Functions
for GPU Rendering" (Journal of Computer Graphics Techniques 9(3), https://jcgt.org/published/0009/03/02/), which
passes their statistical tests. It depends on an element's position in the whole array alone, so the numbers are the
same however the array is split over devices, and on every processor.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax


def bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform uint32, a pure function of the key and the position.

    Args:
        key: From `jax.random.key`; take a new one (`jax.random.split`, `fold_in`) for each array.
        shape: Of the result; up to 2^32 elements.
    """
    words = jax.random.key_data(key).ravel()
    position = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = jnp.uint32(math.prod(shape[axis + 1 :]))
        position = position + lax.broadcasted_iota(jnp.uint32, shape, axis) * stride

    def congruential(v: jax.Array) -> jax.Array:
        return v * jnp.uint32(1664525) + jnp.uint32(1013904223)

    x, y, z = congruential(position), congruential(words[0]), congruential(words[-1])
    x, y, z = _mix(x, y, z)
    x, y, z = (v ^ (v >> 16) for v in (x, y, z))
    return _mix(x, y, z)[0]


def _mix(x: jax.Array, y: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    x = x + y * z
    y = y + z * x
    z = z + x * y
    return x, y, z


def uniform(key: jax.Array, shape: tuple[int, ...], limit: float) -> jax.Array:
    """Uniform float32 in [-limit, limit)."""
    # The upper 24 bits fill a float32's mantissa exactly.
    unit = (bits(key, shape) >> 8).astype(jnp.float32) * 2.0**-24
    return limit * (2 * unit - 1)


def between(key: jax.Array, shape: tuple[int, ...], low: float, high: float) -> jax.Array:
    """Uniform float32 from `low` to `high`."""
    return low + (high - low) * (uniform(key, shape, 0.5) + 0.5)


def normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal float32, up to 5.4 in size."""
    # The middles of 2^23 equal parts of (-1, 1), all of them float32 numbers: never -1 or 1, which would be infinite.
    odd = (bits(key, shape) >> 9).astype(jnp.float32) * 2 + 1
    return math.sqrt(2) * lax.erf_inv(odd * 2.0**-23 - 1)


def he_uniform(key: jax.Array, shape: tuple[int, ...], fan_in: int) -> jax.Array:
    """He-uniform parameters: limit sqrt(6 / fan_in) (He et al. 2015, arXiv:1502.01852, for rectifiers)."""
    return uniform(key, shape, math.sqrt(6 / fan_in))


def dropout(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
    """Sets a share `rate` of the elements to zero and scales the others so that the expectation stays.

    Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from Overfitting".
    """
    kept = bits(key, x.shape) >= jnp.uint32(round(rate * 2**32))
    return jnp.where(kept, x * (1 / (1 - rate)), jnp.zeros((), x.dtype))
