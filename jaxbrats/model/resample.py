"""Making a volume smaller and larger by whole factors, as reshapes.

Where window and stride are equal, pooling is a reduction over reshaped axes and a transposed convolution is one matrix
product; XLA's general forms (`reduce_window`, whose gradient is select-and-scatter, and input dilation) do the same
work several times slower.
"""

import jax
import jax.numpy as jnp

Strides = tuple[int, int, int]


def max_pool(x: jax.Array, strides: Strides = (2, 2, 2)) -> jax.Array:
    """Maximum over blocks of `strides` voxels: `(B, X, Y, Z, C)` to `(B, X/sx, Y/sy, Z/sz, C)`.

    Raises:
        ValueError: sizes that are no multiples of the strides.
    """
    return _blocks(x, strides).max(axis=(2, 4, 6))


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


def transposed_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution whose stride is its window: each voxel becomes a block.

    Args:
        x: `(B, X, Y, Z, C_in)`.
        kernel: `(U, V, W, C_in, C_out)`; `kernel[i, j, k]` makes the voxel at offset (i, j, k) of the block.

    Returns:
        `(B, UX, VY, WZ, C_out)`.
    """
    b, X, Y, Z, _ = x.shape
    u, v, w, _, c_out = kernel.shape
    blocks = jnp.einsum("bxyzi,uvwio->bxuyvzwo", x, kernel.astype(x.dtype))
    return blocks.reshape(b, u * X, v * Y, w * Z, c_out)
