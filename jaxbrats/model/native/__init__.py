"""The 3×3×3 convolution on a CPU as compiled code: `conv3d.cc`, called through XLA's foreign function interface.

XLA's CPU backend cannot express a Winograd convolution whose transformed data stay in the cache: each transform and
each product is a pass over memory of its own. The C++ code goes tile by tile. It is compiled on first use with the
machine's own compiler (`CXX`, c++, g++ or clang++) for its own processor, into the user's cache folder. Without a
compiler `available` says no, and `conv.py` has the same convolution in XLA's terms.
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
# With fewer voxels most of the time would go to the transforms of the kernel, which has 36 matrices for 27 taps.
_FEWEST_VOXELS = 4096


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


def _convolve(inputs: tuple[jax.Array, ...], kernel: jax.Array, flip_kernel: bool = False) -> jax.Array:
    """The convolution, with the kernel reversed along X, Y and Z if asked."""
    _need_library()
    result = jax.ShapeDtypeStruct((*inputs[0].shape[:4], kernel.shape[4]), jnp.float32)
    return jax.ffi.ffi_call("jaxbrats_convolve", result)(kernel, *inputs, flip_kernel=flip_kernel)


def _kernel_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    result = jax.ShapeDtypeStruct((3, 3, 3, x.shape[4], dy.shape[4]), jnp.float32)
    return jax.ffi.ffi_call("jaxbrats_correlate", result)(x, dy)


def _convolve_forward(inputs: tuple[jax.Array, ...], kernel: jax.Array) -> tuple[jax.Array, tuple]:
    return _convolve(inputs, kernel), (inputs, kernel)


def _convolve_backward(saved: tuple, dy: jax.Array) -> tuple[tuple[jax.Array, ...], jax.Array]:
    inputs, kernel = saved
    shares = jnp.split(kernel, np.cumsum([part.shape[-1] for part in inputs])[:-1], axis=3)
    d_inputs = tuple(_convolve((dy,), share.swapaxes(3, 4), flip_kernel=True) for share in shares)
    return d_inputs, jnp.concatenate([_kernel_gradient(part, dy) for part in inputs], axis=3)


convolve.defvjp(_convolve_forward, _convolve_backward)


def _need_library() -> None:
    if _library() is None:
        raise RuntimeError("conv='native' needs a working C++ compiler (CXX, c++, g++ or clang++); there is none")


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
    code = [path.read_bytes() for path in sorted(_SOURCE.parent.glob("*.[ch]*"))]
    what = (code, command, jaxlib.__version__, _processor(), pathlib.Path(compiler).stat().st_mtime_ns)
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
