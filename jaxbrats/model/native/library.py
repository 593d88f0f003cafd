"""The shared library of the compiled convolution: from the user's cache folder, or compiled into it.

A cached file ends with a checksum of all before it, which the loader of shared libraries does not look at: one file,
renamed when whole, is either right or made again, whoever else makes it at the same time.
"""

import ctypes
import hashlib
import logging
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence

import jax
import jaxlib

from jaxbrats.system.cache import cache_folder, is_private
from jaxbrats.system.files import replacing

SYMBOLS = ("Convolve", "Correlate")
_SOURCE = pathlib.Path(__file__).with_name("conv3d.cc")
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared", "-w")
_COMPILERS = ("c++", "g++", "clang++")
_CHECKSUM = hashlib.sha256().digest_size


def load() -> ctypes.CDLL:
    """The library, by the first of `CXX`, c++, g++ and clang++ that can make it.

    Raises:
        OSError: none can; the message says what the last one said.
    """
    problem: Exception = FileNotFoundError("there is no C++ compiler: CXX, c++, g++ or clang++")
    for compiler in _compilers():
        try:
            return _load_or_compile(compiler)
        except (OSError, subprocess.CalledProcessError) as error:
            problem = error
    if isinstance(problem, subprocess.CalledProcessError):
        said = problem.stderr.strip().splitlines()
        raise OSError(f"{problem.cmd[0]} fails: {said[-1] if said else f'exit code {problem.returncode}'}") from problem
    raise OSError(str(problem)) from problem


def _compilers() -> list[list[str]]:
    """The command of each compiler there is, without one coming twice."""
    commands = [shlex.split(os.environ.get("CXX", "")), *([name] for name in _COMPILERS)]
    found = [(path, *command[1:]) for command in commands if command and (path := shutil.which(command[0]))]
    return [list(command) for command in dict.fromkeys(found)]


def _load_or_compile(compiler: Sequence[str]) -> ctypes.CDLL:
    command = [*compiler, *_FLAGS]
    name = f"{_key(command)}.so"
    try:
        cached = cache_folder("native") / name
        if _is_whole(cached):
            return _open(cached)
    except OSError:
        cached = None
    # Not in the cache folder: a compiler that is killed leaves its files where the system clears them away.
    with tempfile.TemporaryDirectory(prefix="jaxbrats-native-") as folder:
        made = pathlib.Path(folder) / name
        command += [f"-I{jax.ffi.include_dir()}", str(_SOURCE), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, text=True, errors="replace")
        library = _open(made)
        _keep(made, cached)
    return library


def _open(path: pathlib.Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    missing = [symbol for symbol in SYMBOLS if not hasattr(library, symbol)]
    if missing:
        raise OSError(f"{path} has no {', '.join(missing)}")
    return library


def _is_whole(path: pathlib.Path) -> bool:
    """Whether a library is there as it was written, by this user."""
    if not path.exists() or not is_private(path):
        return False
    content = path.read_bytes()
    return hashlib.sha256(content[:-_CHECKSUM]).digest() == content[-_CHECKSUM:]


def _keep(made: pathlib.Path, cached: pathlib.Path | None) -> None:
    """Puts a library into the cache; where that cannot be, the next start compiles again."""
    if cached is None:
        return
    content = made.read_bytes()
    try:
        with replacing(cached) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_bytes(content + hashlib.sha256(content).digest())
    except OSError as error:
        logging.getLogger(__name__).warning("the compiled convolution could not be kept (%s)", error)


def _key(command: Sequence[str]) -> str:
    """Of all that the library follows from, wherever code and jaxlib lie: these, compiler and arguments, processor."""
    code = [path.read_bytes() for path in sorted(_SOURCE.parent.glob("*.[ch]*"))]
    what = (code, command, jaxlib.__version__, _processor(), pathlib.Path(command[0]).stat().st_mtime_ns)
    return hashlib.sha256(repr(what).encode()).hexdigest()[:16]


def _processor() -> str:
    """What `-march=native` depends on: a home folder may be shared by unlike machines."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    return "".join(
        sorted({line for line in lines if line.split(":")[0].strip() in ("model name", "flags", "Features")})
    )
