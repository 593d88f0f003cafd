"""The 3×3×3 convolution on a CPU as compiled code: `conv3d.cc`, called through XLA's foreign function interface.

XLA's CPU backend cannot express a Winograd convolution whose transformed data stay in the cache: each transform and
each product is a pass over memory of its own. The C++ file does it in one, two to four times as fast. It is compiled on
first use with the machine's own compiler (`CXX`, c++, g++ or clang++) for its own processor, into the user's cache
folder. Without a compiler `available` says no, and `conv.py` has the same convolution in XLA's terms.
"""

import ctypes
import functools
import hashlib
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile
import warnings

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

_SOURCE = pathlib.Path(__file__).with_name("conv3d.cc")
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared", "-w")
# Fewer voxels than these are soon convolved, but the kernel's 36 matrices take as long as ever.
_FEWEST_VOXELS = 4096
# The gradients of a kernel that are summed apart take memory each.
_MOST_SLICES = 32

# G of F(4, 3): kernel taps to the six weights of the transformed domain.
KERNEL_TRANSFORM = np.array(
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


def available() -> bool:
    """Whether the compiled convolution can be used here; compiles it if that was not done before.

    A program split over several devices cannot: the partitioner does not look into foreign functions.
    """
    return jax.default_backend() == "cpu" and jax.device_count() == 1 and _library() is not None


def fits(inputs: tuple[jax.Array, ...], kernel: jax.Array) -> bool:
    """Whether `convolve` takes these arrays and is worth it: 3×3×3, float32, not too few voxels."""
    batch, X, Y, Z, _ = inputs[0].shape
    voxels = batch * X * Y * Z
    return kernel.shape[:3] == (3, 3, 3) and inputs[0].dtype == jnp.float32 and voxels >= _FEWEST_VOXELS


@jax.custom_vjp
def convolve(inputs: tuple[jax.Array, ...], kernel: jax.Array) -> jax.Array:
    """Convolution of inputs concatenated along their channels, stride 1, zero padding to the same size.

    Args:
        inputs: float32 `(B, X, Y, Z, C_i)` each.
        kernel: float32 `(3, 3, 3, sum of C_i, C_out)`.

    Returns:
        `(B, X, Y, Z, C_out)`; its relative error is about 3e-6, some four times that of a direct convolution.

    Raises:
        RuntimeError: there is no working C++ compiler.
    """
    return _convolve(inputs, kernel)


def _convolve(inputs: tuple[jax.Array, ...], kernel: jax.Array) -> jax.Array:
    c_in, c_out = kernel.shape[3:]
    weights = jnp.einsum("pu,qv,uvwio->pqwio", KERNEL_TRANSFORM, KERNEL_TRANSFORM, kernel, precision="highest")
    weights = weights.reshape(36, 3 * c_in, c_out)
    weights = jnp.pad(weights, ((0, 0), (0, 0), (0, _columns(c_out) - c_out)))
    result = jax.ShapeDtypeStruct((*inputs[0].shape[:4], c_out), jnp.float32)
    return jax.ffi.ffi_call("jaxbrats_convolve", result)(weights, *inputs)


def _convolve_forward(inputs: tuple[jax.Array, ...], kernel: jax.Array) -> tuple[jax.Array, tuple]:
    return _convolve(inputs, kernel), (inputs, kernel)


def _convolve_backward(saved: tuple, dy: jax.Array) -> tuple[tuple[jax.Array, ...], jax.Array]:
    inputs, kernel = saved
    shares = jnp.split(kernel, np.cumsum([part.shape[-1] for part in inputs])[:-1], axis=3)
    # The gradient of the input is the convolution of the output's gradient with the kernel turned around.
    d_inputs = tuple(_convolve((dy,), jnp.flip(share, (0, 1, 2)).swapaxes(3, 4)) for share in shares)
    return d_inputs, jnp.concatenate([_kernel_gradient(part, dy) for part in inputs], axis=3)


convolve.defvjp(_convolve_forward, _convolve_backward)


def _kernel_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    c_in, c_out = x.shape[4], dy.shape[4]
    slices = min(os.cpu_count() or 1, _MOST_SLICES)
    result = jax.ShapeDtypeStruct((slices, 36, 3 * c_in, _columns(c_out)), jnp.float32)
    d_weights = jax.ffi.ffi_call("jaxbrats_correlate", result)(x, dy).sum(0)[..., :c_out]
    d_weights = d_weights.reshape(6, 6, 3, c_in, c_out)
    return jnp.einsum("pu,qv,pqwio->uvwio", KERNEL_TRANSFORM, KERNEL_TRANSFORM, d_weights, precision="highest")


def _columns(channels: int) -> int:
    """Channels rounded up to the whole vectors that the compiled code works in."""
    library = _library()
    if library is None:
        raise RuntimeError("conv='native' needs a working C++ compiler (CXX, c++, g++ or clang++); there is none")
    lanes = library.lanes_for(channels)
    return -(-channels // lanes) * lanes


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The compiled code, its functions registered with XLA; None, with a warning, where it cannot be had."""
    try:
        library = ctypes.CDLL(str(_compiled()))
    except (OSError, subprocess.CalledProcessError) as error:
        detail = error.stderr.strip().splitlines()[-1:] if isinstance(error, subprocess.CalledProcessError) else error
        warnings.warn(f"convolutions will be slower: {_SOURCE.name} could not be compiled ({detail})", stacklevel=2)
        return None
    jax.ffi.register_ffi_target("jaxbrats_convolve", jax.ffi.pycapsule(library.Convolve), platform="cpu")
    jax.ffi.register_ffi_target("jaxbrats_correlate", jax.ffi.pycapsule(library.Correlate), platform="cpu")
    return library


def _compiled() -> pathlib.Path:
    """The shared library, from the cache folder or compiled into it.

    Raises:
        FileNotFoundError: no compiler.
        subprocess.CalledProcessError: the compiler fails.
        OSError: the folder cannot be written to.
    """
    names = filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++"))
    compiler = next(filter(None, map(shutil.which, names)), None)
    if compiler is None:
        raise FileNotFoundError("there is no C++ compiler: CXX, c++, g++ or clang++")
    command = [compiler, *_FLAGS, f"-I{jax.ffi.include_dir()}", str(_SOURCE)]
    what = (_SOURCE.read_bytes(), command, jaxlib.__version__, _processor(), pathlib.Path(compiler).stat().st_mtime_ns)
    name = hashlib.sha256(repr(what).encode()).hexdigest()[:16]
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    library = home / "jaxbrats" / "native" / f"{name}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = pathlib.Path(folder) / library.name
            subprocess.run([*command, "-o", str(made)], check=True, capture_output=True, text=True)
            made.replace(library)  # whole or not at all, whoever else compiles it now
    return library


def _processor() -> str:
    """What `-march=native` depends on: a home folder may be shared by unlike machines."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    return "".join(
        sorted({line for line in lines if line.split(":")[0].strip() in ("model name", "flags", "Features")})
    )
