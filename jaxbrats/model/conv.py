"""The one 3-D convolution of the network: stride 1, zero padding to the same size, an algorithm for each processor.

On an accelerator 'auto' takes cuDNN's direct convolution. On a CPU it takes compiled code where some was registered
(`register`; `jaxbrats.model.native.register()` compiles and registers ours, which the programs do when they start), and
otherwise XLA alone, whose CPU backend runs 3-D convolutions far below the speed of its 2-D ones: a 3×3×3 convolution
becomes 2-D convolutions over (Y, Z) with X folded into the batch. Winograd's minimal filtering F(4, 3) along X (Lavin
and Gray 2015, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308, section 4.1) then needs 6 of them
for every 4 output slices instead of 12. The kernel is the same array whichever algorithm runs, so a checkpoint moves
between machines; `lax.platform_dependent` chooses when the program is lowered.

A convolution of several inputs concatenated along their channels is written `conv3d((a, b), kernel)`. The concatenated
tensor is then never made on a CPU: each input meets its share of the kernel and the results are added in the
transformed domain.
"""

import functools
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbrats.system.errors import InputError
from jaxbrats.system.processes import available_cpus

METHODS = ("auto", "direct", "slices", "winograd", "native")


class Algorithm(NamedTuple):
    """A convolution for CPUs that is not written in XLA's terms.

    Attributes:
        convolve: `(inputs, kernel) -> output`, arrays as those of `conv3d`, its inputs always a tuple.
        fits: Whether it takes such inputs and kernel and is worth it; 'winograd' is taken for others.
        by_default: Whether 'auto' takes it in this process.
    """

    convolve: Callable[[tuple[jax.Array, ...], jax.Array], jax.Array]
    fits: Callable[[tuple[jax.Array, ...], jax.Array], bool]
    by_default: Callable[[], bool]


_registered: dict[str, Algorithm] = {}


def register(name: str, algorithm: Algorithm) -> None:
    """Makes an algorithm available as one of `METHODS`. What was traced before goes on with what it took then."""
    _registered[name] = algorithm


# Up to so many channels the kernel's gradient is taken as matrix products; above, XLA's own convolution is as fast.
_THIN = 16

# Up to so many outputs a pointwise convolution's gradient is a sum over them on accelerators.
_FEW = 4

# F(4, 3) with the interpolation points 0, 1, -1, 2, -2 and infinity: output = A (G kernel * B input).
_TILE = 4
_INPUT_TRANSFORM = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float32,
)
_KERNEL_TRANSFORM = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    np.float32,
)
_OUTPUT_TRANSFORM = np.array(
    [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ],
    np.float32,
)


def conv3d(x: jax.Array | Sequence[jax.Array], kernel: jax.Array, method: str = "auto") -> jax.Array:
    """Convolves volumes with a kernel, stride 1, zero padding, output of the input's size.

    Args:
        x: `(B, X, Y, Z, C_in)`, or several such arrays that stand for their concatenation along the channels.
        kernel: `(K, L, M, C_in, C_out)`, odd sizes; `C_in` is the sum over the inputs.
        method: 'auto' takes 'native' where it is registered, or 'winograd', on a CPU and 'direct' elsewhere. 'direct'
            is XLA's own 3-D convolution, 'slices' the sum over the kernel's first axis of 2-D convolutions (a single
            one over X and Y for a kernel of one voxel along Z, as 2-D networks have it), 'winograd'
            F(4, 3) along the first axis (3×3×3 kernels; others, and volumes too thin for a tile to pay, take 'slices'),
            'native' compiled code after `jaxbrats.model.native.register()` (3×3×3 kernels in float32; others, and small
            volumes, take 'winograd'). All give the same values up to rounding.

    Returns:
        `(B, X, Y, Z, C_out)` in the inputs' dtype.

    Raises:
        ValueError: unknown method, inputs of different sizes or dtypes, or a kernel that does not fit them.
        InputError: 'native' where it is not registered.
    """
    inputs = (x,) if hasattr(x, "shape") else tuple(x)
    _check(inputs, kernel, method)
    kernel = kernel.astype(inputs[0].dtype)
    if kernel.shape[:3] == (1, 1, 1):
        # A single voxel, as squeeze-and-excitation has it, is a matrix product everywhere.
        single = inputs[0].shape[1:4] == (1, 1, 1)
        return _pointwise(inputs, kernel) if single else _pointwise_by_processor(inputs, kernel)
    if method == "auto":
        return lax.platform_dependent(inputs, kernel, cpu=_algorithm(_cpu_default()), default=_direct)
    return _algorithm(method)(inputs, kernel)


def describe(method: str) -> dict[str, str | int | None]:
    """What `conv3d` does here with a method, on which the last digits of its results depend.

    Returns:
        'conv', the algorithm that `method` stands for, and 'threads', those of XLA's pool on a CPU, None elsewhere.
    """
    on_cpu = jax.default_backend() == "cpu"
    resolved = (_cpu_default() if on_cpu else "direct") if method == "auto" else method
    # XLA's own rule for the size of its pool.
    threads = int(os.environ.get("NPROC") or available_cpus())
    return {"conv": resolved, "threads": threads if on_cpu else None}


def _check(inputs: Sequence[jax.Array], kernel: jax.Array, method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"method is one of {', '.join(METHODS)}; it is {method!r}")
    if not inputs or any(part.ndim != 5 for part in inputs):
        raise ValueError(f"inputs (B, X, Y, Z, C) were expected, their shapes are {[part.shape for part in inputs]}")
    if any(part.shape[:4] != inputs[0].shape[:4] or part.dtype != inputs[0].dtype for part in inputs):
        found = ", ".join(f"{part.dtype}{list(part.shape)}" for part in inputs)
        raise ValueError(f"inputs of one size (B, X, Y, Z) and one dtype were expected, they are {found}")
    channels = sum(part.shape[-1] for part in inputs)
    if kernel.ndim != 5 or kernel.shape[3] != channels or any(size % 2 == 0 for size in kernel.shape[:3]):
        raise ValueError(f"a kernel (odd, odd, odd, {channels}, C_out) was expected, its shape is {kernel.shape}")


def _cpu_default() -> str:
    return next((name for name, algorithm in _registered.items() if algorithm.by_default()), "winograd")


def _algorithm(name: str) -> Callable[[tuple[jax.Array, ...], jax.Array], jax.Array]:
    if name in _XLA:
        return _XLA[name]
    if name not in _registered:
        raise InputError(
            f"conv='{name}' is not available in this process",
            hint="It needs a C++ compiler (CXX, c++, g++ or clang++), and as a library a call of "
            f"jaxbrats.model.{name}.register(); conv='auto' runs without",
        )
    convolve, fits, _ = _registered[name]
    return lambda inputs, kernel: (convolve if fits(inputs, kernel) else _winograd)(inputs, kernel)


def _split(kernel: jax.Array, inputs: Sequence[jax.Array]) -> list[jax.Array]:
    """The kernel's share for each input, cut along its second-last axis."""
    ends = np.cumsum([part.shape[-1] for part in inputs])[:-1]
    return jnp.split(kernel, ends, axis=-2)


def _pointwise(inputs: Sequence[jax.Array], kernel: jax.Array) -> jax.Array:
    return sum(part @ share for part, share in zip(inputs, _split(kernel[0, 0, 0], inputs), strict=True))


def _direct(inputs: Sequence[jax.Array], kernel: jax.Array) -> jax.Array:
    x = inputs[0] if len(inputs) == 1 else jnp.concatenate(inputs, axis=-1)
    return lax.conv_general_dilated(x, kernel, (1, 1, 1), "SAME", dimension_numbers=("NXYZC", "XYZIO", "NXYZC"))


@functools.partial(jax.jit, inline=True)  # both forms are traced, so once for all of one size
def _pointwise_by_processor(inputs: tuple[jax.Array, ...], kernel: jax.Array) -> jax.Array:
    return lax.platform_dependent(inputs, kernel, cpu=_pointwise, default=_pointwise_direct)


@jax.custom_vjp
def _pointwise_direct(inputs: tuple[jax.Array, ...], kernel: jax.Array) -> jax.Array:
    """As `_pointwise`, in the layout of the convolutions around it instead of with the channels last.

    Where there are few outputs, as of the logits, the inputs' gradient is a short sum, which XLA takes up in whatever
    reads it, and so is never written down.
    """
    return _direct(inputs, kernel)


def _pointwise_forward(inputs: tuple[jax.Array, ...], kernel: jax.Array) -> tuple[jax.Array, tuple]:
    return _direct(inputs, kernel), (inputs, kernel)


def _pointwise_backward(saved: tuple, dy: jax.Array) -> tuple[tuple[jax.Array, ...], jax.Array]:
    inputs, kernel = saved
    (d_kernel,) = jax.linear_transpose(lambda kernel: _direct(inputs, kernel), kernel)(dy)
    if kernel.shape[-1] > _FEW:
        return jax.linear_transpose(lambda inputs: _direct(inputs, kernel), inputs)(dy)[0], d_kernel
    shares = _split(kernel[0, 0, 0], inputs)
    return tuple(sum(dy[..., k, None] * share[:, k] for k in range(dy.shape[-1])) for share in shares), d_kernel


_pointwise_direct.defvjp(_pointwise_forward, _pointwise_backward)


def _conv2d(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _slices(inputs: Sequence[jax.Array], kernel: jax.Array) -> jax.Array:
    """The sum over the K taps along X of 2-D convolutions over (Y, Z), X folded into the batch."""
    if kernel.shape[2] == 1:
        return _planes(inputs, kernel)
    batch, size = inputs[0].shape[:2]
    taps = kernel.shape[0]
    total = None
    for part, share in zip(inputs, _split(kernel, inputs), strict=True):
        padded = jnp.pad(part, ((0, 0), (taps // 2, taps // 2), (0, 0), (0, 0), (0, 0)))
        for tap in range(taps):
            window = lax.slice_in_dim(padded, tap, tap + size, axis=1)
            term = _conv2d(window.reshape(-1, *part.shape[2:]), share[tap])
            total = term if total is None else total + term
    return total.reshape(batch, size, *total.shape[1:])


def _planes(inputs: Sequence[jax.Array], kernel: jax.Array) -> jax.Array:
    """One 2-D convolution over (X, Y), Z folded into the batch, for a kernel of one voxel along Z."""
    total = None
    for part, share in zip(inputs, _split(kernel[:, :, 0], inputs), strict=True):
        planes = jnp.moveaxis(part, 3, 1)
        term = _conv2d(planes.reshape(-1, *planes.shape[2:]), share)
        total = term if total is None else total + term
    batch, X, Y, Z, _ = inputs[0].shape
    return jnp.moveaxis(total.reshape(batch, Z, X, Y, -1), 1, 3)


def _combine(matrix: np.ndarray, terms: Sequence[jax.Array]) -> list[jax.Array]:
    """`matrix @ terms`, written out so that XLA fuses each row into one pass and skips the zeros."""
    rows = []
    for weights in matrix:
        products = [
            term if weight == 1 else -term if weight == -1 else weight.item() * term
            for weight, term in zip(weights, terms, strict=True)
            if weight != 0
        ]
        rows.append(sum(products[1:], products[0]))
    return rows


@jax.custom_vjp
def _winograd(inputs: tuple[jax.Array, ...], kernel: jax.Array) -> jax.Array:
    """F(4, 3) along X: six 2-D convolutions for every four output slices."""
    batch, size = inputs[0].shape[:2]
    if not _tiles_pay(inputs, kernel):
        return _slices(inputs, kernel)
    products = [None] * 6
    weights = _combine(_KERNEL_TRANSFORM, list(kernel))
    for part, shares in zip(inputs, zip(*(_split(weight, inputs) for weight in weights), strict=True), strict=True):
        for index, (tap, share) in enumerate(zip(_transformed(part), shares, strict=True)):
            product = _conv2d(tap, share)
            products[index] = product if products[index] is None else products[index] + product
    rows = _combine(_OUTPUT_TRANSFORM, products)
    y = jnp.stack([row.reshape(batch, -1, *row.shape[1:]) for row in rows], axis=2)
    y = y.reshape(batch, -1, *y.shape[3:])
    return y if y.shape[1] == size else lax.slice_in_dim(y, 0, size, axis=1)


def _tiles_pay(inputs: Sequence[jax.Array], kernel: jax.Array) -> bool:
    # Below a tile the padding costs more than the twelve plain convolutions; half precision would lose what the
    # transforms' large coefficients cancel.
    return kernel.shape[:3] == (3, 3, 3) and inputs[0].shape[1] >= _TILE and inputs[0].dtype == jnp.float32


def _winograd_forward(inputs: tuple[jax.Array, ...], kernel: jax.Array) -> tuple[jax.Array, tuple]:
    return _winograd(inputs, kernel), (inputs, kernel)


def _winograd_backward(saved: tuple, dy: jax.Array) -> tuple[tuple[jax.Array, ...], jax.Array]:
    inputs, kernel = saved
    plain = _winograd.__wrapped__
    (d_inputs,) = jax.vjp(lambda inputs: plain(inputs, kernel), inputs)[1](dy)
    thickest = max(kernel.shape[-1], *(part.shape[-1] for part in inputs))
    if thickest > _THIN or not _tiles_pay(inputs, kernel):
        (d_kernel,) = jax.vjp(lambda kernel: plain(inputs, kernel), kernel)[1](dy)
        return d_inputs, d_kernel
    return d_inputs, jnp.concatenate([_kernel_gradient(part, dy) for part in inputs], axis=3)


_winograd.defvjp(_winograd_forward, _winograd_backward)


def _kernel_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """The kernel's gradient in the transformed domain, as matrix products over all voxels.

    XLA makes a convolution with a window as large as the volume of it, which is slow where channels are few: the
    products are then thin. Three shifts of the input beside each other along Z, and three of the gradient along Y,
    make them three times as thick on both sides and give all nine taps of a plane at once.
    """
    batch, size, Y, Z, c_in = x.shape
    c_out = dy.shape[-1]
    tiles = -(-size // _TILE)
    dy = jnp.pad(dy, ((0, 0), (0, tiles * _TILE - size), (0, 0), (0, 0), (0, 0)))
    dy = dy.reshape(batch * tiles, _TILE, Y, Z, c_out)
    planes = []
    for v, m in zip(_transformed(x), _combine(_OUTPUT_TRANSFORM.T, [dy[:, i] for i in range(_TILE)]), strict=True):
        v = jnp.pad(v, ((0, 0), (1, 1), (1, 1), (0, 0)))
        v = jnp.concatenate([v[:, :, shift : shift + Z] for shift in range(3)], axis=-1)
        m = jnp.concatenate([jnp.pad(m, ((0, 0), (shift, 2 - shift), (0, 0), (0, 0))) for shift in range(3)], axis=-1)
        # A product for each tile, then their sum: one long sum would lose two digits.
        product = jnp.einsum("tyzi,tyzo->tio", v, m).sum(0)
        planes.append(product.reshape(3, c_in, 3, c_out).transpose(2, 0, 1, 3))
    return jnp.stack(_combine(_KERNEL_TRANSFORM.T, planes))


def _transformed(x: jax.Array) -> list[jax.Array]:
    """The six input taps of F(4, 3): each `(B * tiles, Y, Z, C)`."""
    size = x.shape[1]
    tiles = -(-size // _TILE)
    padded = jnp.pad(x, ((0, 0), (1, tiles * _TILE - size + 1), (0, 0), (0, 0), (0, 0)))
    return _combine(_INPUT_TRANSFORM, [_every_fourth(padded, offset, tiles) for offset in range(6)])


def _every_fourth(padded: jax.Array, offset: int, tiles: int) -> jax.Array:
    """Slices offset, offset + 4, ... along X, folded into the batch: `(B * tiles, Y, Z, C)`."""
    taken = lax.slice_in_dim(padded, offset, offset + (tiles - 1) * _TILE + 1, stride=_TILE, axis=1)
    return taken.reshape(-1, *taken.shape[2:])


_XLA = {"direct": _direct, "slices": _slices, "winograd": _winograd}
