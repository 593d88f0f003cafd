"""Making a volume smaller and larger by whole factors, as reshapes.

Where window and stride are equal, pooling is a reduction over reshaped axes and a transposed convolution is one matrix
product; on a CPU XLA's general forms (`reduce_window`, whose gradient is select-and-scatter, and input dilation) do the
same work several times slower.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

Strides = tuple[int, int, int]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x: jax.Array, strides: Strides = (2, 2, 2)) -> jax.Array:
    """Maximum over blocks of `strides` voxels: `(B, X, Y, Z, C)` to `(B, X/sx, Y/sy, Z/sz, C)`.

    The gradient goes to one voxel of each block, whose place is kept. To look for the maximum again, as JAX's own
    gradient does, finds none where the compiler computes the voxels twice and rounds them otherwise: 0 / 0.

    Raises:
        ValueError: sizes that are not multiples of the strides.
    """
    return _blocks(x, strides).max(axis=(2, 4, 6))


def _max_pool_forward(x: jax.Array, strides: Strides) -> tuple[jax.Array, jax.Array]:
    blocks = _blocks(x, strides)
    first, *others = (blocks[:, :, i, :, j, :, k] for i, j, k in np.ndindex(strides))
    largest, place = first, jnp.zeros(first.shape, jnp.uint8)
    for number, voxel in enumerate(others, start=1):
        place = jnp.where(voxel > largest, jnp.uint8(number), place)
        largest = jnp.maximum(largest, voxel)
    return largest, place


def _max_pool_backward(strides: Strides, place: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    sx, sy, sz = strides
    b, X, Y, Z, c = gradient.shape
    numbers = jnp.arange(sx * sy * sz, dtype=jnp.uint8).reshape(1, 1, sx, 1, sy, 1, sz, 1)
    place, gradient = (array[:, :, None, :, None, :, None] for array in (place, gradient))
    return (jnp.where(place == numbers, gradient, 0).reshape(b, X * sx, Y * sy, Z * sz, c),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def mean_pool(x: jax.Array, strides: Strides = (2, 2, 2)) -> jax.Array:
    """As `max_pool`, the mean of each block."""
    return x if strides == (1, 1, 1) else _blocks(x, strides).mean(axis=(2, 4, 6))


def _blocks(x: jax.Array, strides: Strides) -> jax.Array:
    """`(B, X/sx, sx, Y/sy, sy, Z/sz, sz, C)`."""
    b, X, Y, Z, c = x.shape
    sx, sy, sz = strides
    if X % sx or Y % sy or Z % sz:
        raise ValueError(f"sizes divisible by {sx}, {sy}, {sz} are needed to pool, they are {X}, {Y}, {Z}")
    return x.reshape(b, X // sx, sx, Y // sy, sy, Z // sz, sz, c)


@functools.partial(jax.jit, inline=True)  # both forms are traced, so once for all of one size
def transposed_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution whose stride is its window: each voxel becomes a block.

    On a CPU a matrix product; elsewhere cuDNN's, because what follows a matrix product is a pass that only transposes.

    Args:
        x: `(B, X, Y, Z, C_in)`.
        kernel: `(U, V, W, C_in, C_out)`; `kernel[i, j, k]` makes the voxel at offset (i, j, k) of the block.

    Returns:
        `(B, UX, VY, WZ, C_out)`.
    """
    kernel = kernel.astype(x.dtype)
    return jax.lax.platform_dependent(x, kernel, cpu=_matrix_product, default=_direct)


def _strided(y: jax.Array, kernel: jax.Array) -> jax.Array:
    """What the transposed convolution is the transpose of: `(B, UX, VY, WZ, C_out)` to `(B, X, Y, Z, C_in)`."""
    dimensions = ("NXYZC", "XYZOI", "NXYZC")
    return jax.lax.conv_general_dilated(y, kernel, kernel.shape[:3], "VALID", dimension_numbers=dimensions)


@jax.custom_vjp
def _direct(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """As `_matrix_product`, with cuDNN's convolutions, which write a block's voxels where they belong.

    The gradients are written as those of the strided convolution, which XLA knows to be cuDNN's own.
    """
    sizes = [size * factor for size, factor in zip(x.shape[1:4], kernel.shape, strict=False)]
    y = jax.ShapeDtypeStruct((x.shape[0], *sizes, kernel.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda y: _strided(y, kernel), y)(x)[0]


def _direct_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _direct(x, kernel), (x, kernel)


def _direct_backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    return _strided(dy, kernel), jax.linear_transpose(lambda kernel: _strided(dy, kernel), kernel)(x)[0]


_direct.defvjp(_direct_forward, _direct_backward)


def _matrix_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A product for each offset along X and Y; those along Z lie side by side in it, so that whole rows interleave."""
    b, X, Y, Z, c_in = x.shape
    u, v, w, _, c_out = kernel.shape
    voxels = x.reshape(-1, c_in)
    shares = jnp.moveaxis(kernel, 2, 3).reshape(u, v, c_in, w * c_out)
    rows = [jnp.stack([(voxels @ share).reshape(b, X, Y, -1) for share in row], axis=3) for row in shares]
    return jnp.stack(rows, axis=2).reshape(b, u * X, v * Y, w * Z, c_out)
