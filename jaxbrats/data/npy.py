"""Reading arrays in NumPy's own format, safely and straight into place, and writing them.

The format is at https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. Files are read here by hand
instead of by `numpy.load`, so that a damaged header is refused before any memory is taken, nothing is ever unpickled,
and the voxels of a case go from the file into their row of a batch without a copy.
"""

import dataclasses
import math
import os
import pathlib
import re
import stat
from collections.abc import Callable, Sequence
from typing import BinaryIO

import numpy as np

from jaxbrats.system.errors import InputError, unreadable

WRITE_AGAIN = "Write the file again (jaxbrats preprocess does, once it is deleted), or take the case out"
_MAGIC = b"\x93NUMPY"
# Version -> bytes of the length of the header.
_LENGTH_SIZES = {(1, 0): 2, (2, 0): 4}
_LONGEST_HEADER = 10_000
# An entry of the Python literal that a header is, of an array of plain numbers or text: its key, and then its value.
_ENTRY = re.compile(
    r"""(?P<quote>['"])(?P<key>descr|fortran_order|shape)(?P=quote)\s*:\s*
    (?:(['"])(?P<descr>[<>|=]?[A-Za-z][0-9]{0,9})\3|(?P<order>True|False)|\((?P<shape>[-0-9L,\s]*)\))\s*(?:,\s*|$)""",
    re.VERBOSE,
)
_SIZES = re.compile(r"(?:\s*-?[0-9]{1,20}L?\s*,)*(?:\s*-?[0-9]{1,20}L?)?\s*")


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
        raise unreadable(error, path, case) from error


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
        raise unreadable(error, path, case) from error
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
        raise unreadable(error, path, case) from error


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
    """Reads a header, by hand because NumPy's own reader is not safe in threads.

    NumPy takes the header for a Python literal and evaluates it; in CPython 3.11 threads that do so at the same time
    make each other fail (https://github.com/python/cpython/issues/106905).

    Raises:
        ValueError: it is not one of an array of plain numbers or text.
    """
    start = file.read(len(_MAGIC) + 2)
    if len(start) < len(_MAGIC) + 2 or not start.startswith(_MAGIC):
        raise ValueError(f"expected it to begin with {_MAGIC!r}, found {start!r}")
    version = tuple(start[-2:])
    if version not in _LENGTH_SIZES:
        raise ValueError(f"version {version[0]}.{version[1]} of the format")
    size = int.from_bytes(file.read(_LENGTH_SIZES[version]), "little")
    if size > _LONGEST_HEADER:
        raise ValueError(f"expected a header of at most {_LONGEST_HEADER} bytes, found {size}")
    content = file.read(size)
    if len(content) < size:
        raise ValueError(f"its header is cut short: {len(content)} of {size} bytes")
    return parse_header(content.decode("latin-1"))


def parse_header(text: str) -> Header:
    """Reads the text of a header, `{'descr': '<f4', 'fortran_order': False, 'shape': (128, 128, 128, 3), }`.

    Raises:
        ValueError: it is not of that form.
    """
    found: dict[str, re.Match] = {}
    inside = text.strip()
    whole, inside = inside[:1] + inside[-1:] == "{}", inside[1:-1].strip()
    place = 0
    while whole and place < len(inside) and (entry := _ENTRY.match(inside, place)):
        found[entry["key"]] = entry
        place = entry.end()
    if whole and place == len(inside) and len(found) == 3:
        descr, order, shape = found["descr"]["descr"], found["fortran_order"]["order"], found["shape"]["shape"]
        # Of one axis it is (4,): (4) would be a number.
        if descr and order and shape is not None and _SIZES.fullmatch(shape) and (not shape.strip() or "," in shape):
            sizes = [size.strip().rstrip("L") for size in shape.split(",")]
            return Header(tuple(int(size) for size in sizes if size), _dtype(descr), order == "True")
    raise ValueError(f"expected descr, fortran_order and shape of an array of numbers, found {text.strip()[:80]!r}")


def _dtype(descr: str) -> np.dtype:
    try:
        return np.dtype(descr)
    except TypeError as error:
        raise ValueError(f"unknown number type {descr}") from error


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
