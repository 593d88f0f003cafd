"""The 3-D convolution that halves a volume: padding as PyTorch's, an algorithm for each processor.

XLA's 'SAME' padding of a stride-2 convolution puts the centre of the window on the second voxel of each pair where the
size is even. Here half the kernel is padded on both sides, as `torch.nn.Conv3d(..., stride=2, padding=1)` does, so that
the result is every second voxel of the stride-1 convolution and weights carry over.

On a CPU the gradient of XLA's own strided 3-D convolution takes up to a hundred times as long as the convolution; as a
sum of strided 2-D convolutions, over (Y, Z) with X folded into the batch, twice to three times as long.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax


def strided_conv3d(x: jax.Array, kernel: jax.Array, strides: Sequence[int], method: str = "auto") -> jax.Array:
    """Convolves a volume with a kernel, padded by half the kernel, and keeps the first of every `strides` voxels.

    Args:
        x: `(B, X, Y, Z, C_in)`.
        kernel: `(K, L, M, C_in, C_out)`, odd sizes.
        strides: Along X, Y and Z.
        method: As of `conv3d`: 'direct' is XLA's own 3-D convolution, 'auto' takes it on accelerators; all others are
            the sum of 2-D convolutions.

    Returns:
        `(B, ceil(X / sx), ceil(Y / sy), ceil(Z / sz), C_out)` in the input's dtype.
    """
    kernel = kernel.astype(x.dtype)
    direct, slices = (functools.partial(function, strides=tuple(strides)) for function in (_direct, _slices))
    if method == "auto":
        return lax.platform_dependent(x, kernel, cpu=slices, default=direct)
    return (direct if method == "direct" else slices)(x, kernel)


def _direct(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...]) -> jax.Array:
    padding = [(size // 2, size // 2) for size in kernel.shape[:3]]
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NXYZC", "XYZIO", "NXYZC"))


def _slices(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...]) -> jax.Array:
    """The sum over the kernel's taps along X of strided 2-D convolutions over (Y, Z), X folded into the batch."""
    if kernel.shape[2] == 1 < kernel.shape[0]:  # of 2-D networks: one over (X, Y), Z folded into the batch
        y = _slices(jnp.moveaxis(x, 3, 1), jnp.moveaxis(kernel, 2, 0), (strides[2], *strides[:2]))
        return jnp.moveaxis(y, 1, 3)
    batch, size = x.shape[:2]
    taps, *plane = kernel.shape[:3]
    padded = jnp.pad(x, ((0, 0), (taps // 2, taps // 2), (0, 0), (0, 0), (0, 0)))
    padding = [(size // 2, size // 2) for size in plane]
    total = None
    for tap in range(taps):
        window = lax.slice_in_dim(padded, tap, tap + size, stride=strides[0], axis=1)
        term = lax.conv_general_dilated(
            window.reshape(-1, *x.shape[2:]),
            kernel[tap],
            strides[1:],
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        total = term if total is None else total + term
    return total.reshape(batch, -1, *total.shape[1:])
