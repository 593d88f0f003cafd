"""Halving and doubling a volume, as reshapes.

Where window and stride are equal, pooling is a maximum over reshaped axes and a transposed convolution is one matrix
product; XLA's general forms (`reduce_window`, whose gradient is select-and-scatter, and input dilation) do the same
work several times slower.
"""

import jax
import jax.numpy as jnp


def max_pool(x: jax.Array) -> jax.Array:
    """Maximum over 2×2×2 blocks: `(B, X, Y, Z, C)` to `(B, X/2, Y/2, Z/2, C)`. Sizes must be even."""
    b, X, Y, Z, c = x.shape
    if X % 2 or Y % 2 or Z % 2:
        raise ValueError(f"sizes divisible by 2 are needed to pool, they are {X}, {Y}, {Z}")
    return x.reshape(b, X // 2, 2, Y // 2, 2, Z // 2, 2, c).max(axis=(2, 4, 6))


def transposed_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution, window 2, stride 2: each voxel becomes a 2×2×2 block.

    Args:
        x: `(B, X, Y, Z, C_in)`.
        kernel: `(2, 2, 2, C_in, C_out)`; `kernel[i, j, k]` makes the voxel at offset (i, j, k) of the block.

    Returns:
        `(B, 2X, 2Y, 2Z, C_out)`.
    """
    b, X, Y, Z, _ = x.shape
    blocks = jnp.einsum("bxyzi,uvwio->bxuyvzwo", x, kernel.astype(x.dtype))
    return blocks.reshape(b, 2 * X, 2 * Y, 2 * Z, kernel.shape[-1])
