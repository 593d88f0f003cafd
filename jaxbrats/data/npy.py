"""Reading arrays in NumPy's own format, safely and straight into place, and writing them.

The format is at https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. Headers are read by NumPy, and
elements here instead of by `numpy.load`, so that a damaged file is refused before memory is taken for them, nothing is
ever unpickled, and the voxels of a case go from the file into their row of a batch without a copy.
"""

import dataclasses
import math
import os
import pathlib
import stat
import threading
from collections.abc import Callable, Sequence
from typing import BinaryIO

import numpy as np

from jaxbrats.system.errors import InputError

WRITE_AGAIN = "Write the file again (jaxbrats preprocess does, once it is deleted), or take the case out"
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# NumPy evaluates a header as a Python literal. In CPython before 3.11.8 threads that do so at the same time make each
# other fail (https://github.com/python/cpython/issues/106905).
_EVALUATING = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Header:
    """What an array file says of itself.

    Attributes:
        shape: Of the array.
        dtype: Of its elements, in the file's byte order.
        fortran: Whether the first axis varies fastest.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool


# Says what is wrong with a header for its purpose, None for nothing.
Check = Callable[[Header], str | None]


def write_npy(path: pathlib.Path, array: np.ndarray) -> None:
    """Writes the file that `numpy.save` would, byte for byte, but tells what the system says where it cannot be.

    Raises:
        OSError: with its number; `numpy.save` raises one without where a disk is full.
    """
    array = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.reshape(-1).view(np.uint8).data)


def read_header(path: pathlib.Path, case: str, check: Check) -> Header:
    """Reads and checks the header alone.

    Args:
        path: The file.
        case: Name of its case, for errors.
        check: Refuses headers of the wrong kind.

    Raises:
        InputError: the file is unreadable, not in NumPy's format, holds Python objects or nothing, is refused by
            `check`, or is shorter or longer than its header promises.
    """
    try:
        with open(path, "rb", buffering=0, opener=_open) as file:
            return _parse(file, path, case, check)
    except OSError as error:
        raise _unreadable(error, path, case) from error


def read(path: pathlib.Path, case: str, check: Check, out: np.ndarray | None = None) -> np.ndarray:
    """Reads an array.

    Args:
        path: The file.
        case: Name of its case, for errors.
        check: Refuses headers of the wrong kind.
        out: A C-contiguous array to read into if it has the file's shape, type and order.

    Returns:
        `out` if it fitted, else a new array with the file's shape, type and order.

    Raises:
        InputError: as `read_header`.
    """
    try:
        with open(path, "rb", buffering=0, opener=_open) as file:
            header = _parse(file, path, case, check)
            order = "F" if header.fortran else "C"
            if out is None or header != Header(out.shape, out.dtype, False):
                out = np.empty(header.shape, header.dtype, order=order)
            left = memoryview(out.reshape(-1, order=order).view(np.uint8))
            # Linux reads at most 2 GiB a call.
            while left and (count := file.readinto(left)):
                left = left[count:]
    except OSError as error:
        raise _unreadable(error, path, case) from error
    if left:
        raise InputError("was shortened while it was read", case=case, file=path, hint=WRITE_AGAIN)
    return out


def read_box(path: pathlib.Path, case: str, check: Check, start: Sequence[int], out: np.ndarray) -> None:
    """Reads a box of an array, touching no more of the file than that.

    Args:
        path: The file.
        case: Name of its case, for errors.
        check: Refuses headers of the wrong kind.
        start: First element of the box, along the first axes.
        out: The array to read into, whose shape is the box's.

    Raises:
        InputError: as `read_header`, or the box does not lie inside the array.
    """
    try:
        with open(path, "rb", buffering=0, opener=_open) as file:
            header = _parse(file, path, case, check)
            box = tuple(slice(first, first + size) for first, size in zip(start, out.shape, strict=False))
            if any(side.stop > size for side, size in zip(box, header.shape, strict=False)):
                problem = f"has shape {header.shape}, expected {out.shape} from {tuple(start)} on"
                raise InputError(problem, case=case, file=path, hint=WRITE_AGAIN)
            order = "F" if header.fortran else "C"
            out[...] = np.memmap(file, header.dtype, "r", file.tell(), header.shape, order)[box]
    except OSError as error:
        raise _unreadable(error, path, case) from error


def _open(path: str, flags: int) -> int:
    # Opening a named pipe would otherwise wait for its other end.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _parse(file: BinaryIO, path: pathlib.Path, case: str, check: Check) -> Header:
    """Reads the header, leaving `file` at the first element."""
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise InputError("is not a regular file", case=case, file=path, hint=WRITE_AGAIN)
    try:
        header = _read_header(file)
    except ValueError as error:
        problem = f"is not an array in NumPy's .npy format ({error})"
        raise InputError(problem, case=case, file=path, hint=WRITE_AGAIN) from error
    problem = _problem(header, status.st_size - file.tell(), check)
    if problem is not None:
        raise InputError(problem, case=case, file=path, hint=WRITE_AGAIN)
    return header


def _read_header(file: BinaryIO) -> Header:
    """Reads a header by NumPy's own reader.

    Raises:
        ValueError: it is none that NumPy writes.
    """
    version = np.lib.format.read_magic(file)
    if version not in _READERS:
        raise ValueError(f"version {version[0]}.{version[1]} of the format")
    try:
        with _EVALUATING:
            shape, fortran, dtype = _READERS[version](file)
    except Exception as error:  # whatever evaluating a damaged literal raises
        raise ValueError(" ".join(str(error).split())[:200]) from error
    return Header(shape, dtype, fortran)


def _problem(header: Header, present: int, check: Check) -> str | None:
    """What is wrong with a header that `present` bytes follow; arithmetic alone, however large it claims to be."""
    if header.dtype.hasobject:
        return "holds pickled Python objects, which are never loaded because they could run code"
    if min(header.shape, default=1) < 1:
        return f"has shape {header.shape}, which holds no voxel"
    problem = check(header)
    promised = math.prod(header.shape) * header.dtype.itemsize
    if problem is None and promised != present:
        word = "truncated" if present < promised else "longer than it should be"
        problem = f"is {word}: {header.dtype} of shape {header.shape} is {promised} bytes, {present} follow the header"
    return problem


def _unreadable(error: OSError, path: pathlib.Path, case: str) -> InputError:
    problem = f"cannot be read ({error.strerror or error})"
    return InputError(problem, case=case, file=path, hint="Check that the file is there and its permissions")
