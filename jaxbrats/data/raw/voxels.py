"""The voxels of a NIfTI file: opened, decompressed, checked and scaled in one pass, every fault named in one line.

nibabel parses the headers (NIfTI-1.1 and NIfTI-2, https://nifti.nimh.nih.gov). The voxels are read here, straight into
one array in the file's own number type: decompressing is most of the time of reading a gzipped volume, and python-isal
does it about twice as fast as zlib on a BraTS volume (and checks the checksum at the end of the stream, which a reader
that stops at the last voxel never meets).
"""

import contextlib
import functools
import io
import logging
import math
import os
import pathlib
import stat
from collections.abc import Iterator, Sequence

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from jaxbrats.data.raw.geometry import frame_of
from jaxbrats.system.errors import CHECK_ACCESS, InputError

_CHUNK = 1 << 20
# The most that deflate can expand its input (zlib's "Technical Details", https://zlib.net/zlib_tech.html).
_MAX_EXPANSION = 1032
# Voxels are followed by nothing, or by padding. More is not decompressed: a few megabytes can hold terabytes of zeros.
_MOST_PADDING = 64 << 20
_COPY_AGAIN = "Copy or download it again"
_CONVERT = "Convert it again from its source, as one 3-D volume of real numbers"
_HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
# nibabel prints each harmless oddity that it mends in a header; over a cohort that buries what matters.
_quiet = logging.Logger("jaxbrats.nifti", level=logging.CRITICAL + 1)


def read_header(path: pathlib.Path, case: str) -> nib.Nifti1Header:
    """Reads the header of a file alone, whose affine is one (see `geometry.frame_of`).

    Raises:
        InputError: the file is missing or unreadable, or its header damaged.
    """
    fault = functools.partial(InputError, case=case, file=path)
    with _naming_faults(fault), _open(path, fault) as (stream, _):
        return _read_header(stream, fault)


def read_voxels(
    path: pathlib.Path, channels: Sequence[int | None], case: str
) -> Iterator[tuple[np.ndarray, nib.Nifti1Header]]:
    """Reads several channels of one file, decompressing it once and holding one channel at a time.

    Args:
        path: A .nii or .nii.gz file, NIfTI-1 or NIfTI-2.
        channels: Ascending channels of a 4-D file, or (None,) for a file of one volume.
        case: Name for error messages.

    Yields:
        The voxels (X, Y, Z) of each channel, in Fortran order as in the file, in the file's own number type (float32
        where the header scales); and the header.

    Raises:
        InputError: the file is missing, unreadable, damaged, cut short, not NIfTI or not a 3-D volume of real numbers;
            claims more voxels than it or the memory can hold. Damage behind a channel is found only after that channel
            was yielded, so use what was read only when the iteration has ended.
    """
    fault = functools.partial(InputError, case=case, file=path)
    with _naming_faults(fault), _open(path, fault) as (stream, capacity):
        header = _read_header(stream, fault)
        shape, volumes, dtype, offset = _check_header(header, capacity, fault)
        if None in channels and volumes > 1:
            raise fault(f"expected a 3-D volume, found 4-D with {volumes} volumes", hint="Save each volume apart")
        last = max(channel or 0 for channel in channels)
        if last >= volumes:
            hint = "Correct the channels in dataset.json, or convert the file again from its source"
            raise fault(f"expected at least {last + 1} channels, found {volumes}", hint=hint)
        size = math.prod(shape) * dtype.itemsize
        position = stream.tell()
        for channel in channels:
            start = offset + (channel or 0) * size
            _skip(stream, start - position, fault)
            voxels = np.empty(math.prod(shape), dtype)
            _fill(stream, voxels.view(np.uint8), fault)
            position = start + size
            yield _scaled(voxels, header).reshape(shape, order="F"), header
        # The checksum is at the end of a gzip stream, and is compared only when reading meets it.
        if not isinstance(stream, io.BufferedReader):
            _drain(stream, offset + volumes * size - position, fault)


@contextlib.contextmanager
def _naming_faults(fault: functools.partial) -> Iterator[None]:
    """What goes wrong in reading a file as one line that names it."""
    try:
        yield
    except (igzip.BadGzipFile, EOFError, isal_zlib.error) as error:
        raise fault(f"is damaged or cut short ({error})", hint=_COPY_AGAIN) from error
    except OSError as error:
        raise fault(f"cannot be read ({error.strerror or error})", hint=CHECK_ACCESS) from error
    except MemoryError as error:
        raise fault("does not fit in memory", hint="Run fewer --workers, or on a machine with more memory") from error


@contextlib.contextmanager
def _open(path: pathlib.Path, fault: functools.partial) -> Iterator[tuple[io.BufferedIOBase, int]]:
    """Yields the decompressed stream of a .nii or .nii.gz file and the most bytes it can hold."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise fault("expected a file, found something else", hint=_COPY_AGAIN)
    if status.st_size == 0:
        raise fault("is empty", hint=_COPY_AGAIN)
    with path.open("rb") as file:
        # By content, not by name: files are renamed without being (de)compressed.
        if file.peek(2)[:2] != b"\x1f\x8b":
            yield file, status.st_size
            return
        with igzip.IGzipFile(fileobj=file) as stream:
            yield stream, status.st_size * _MAX_EXPANSION


def _read_header(stream: io.BufferedIOBase, fault: functools.partial) -> nib.Nifti1Header:
    start = stream.peek(4)[:4]
    header_class = _HEADERS.get(int.from_bytes(start, "little")) or _HEADERS.get(int.from_bytes(start, "big"))
    if header_class is None:
        raise fault(f"is not a NIfTI file: it begins with {start!r}", hint=_COPY_AGAIN)
    try:
        # Extensions are not parsed: nothing here is read from them, and they may be damaged where the image is sound.
        header = header_class(stream.read(header_class.sizeof_hdr), check=False)
        header.check_fix(logger=_quiet, error_level=40)
        if header["magic"] != header.single_magic:
            raise fault("is half of a .hdr and .img pair", hint="Convert it to a single .nii or .nii.gz file")
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused below
            affine = header.get_best_affine()
    except (HeaderDataError, WrapStructError, ValueError, OverflowError) as error:
        raise fault(f"has a damaged header ({error})", hint=_COPY_AGAIN) from error
    try:
        frame_of(affine)
    except InputError as error:
        raise fault(error.problem, hint=error.hint) from error
    return header


def _check_header(
    header: nib.Nifti1Header, capacity: int, fault: functools.partial
) -> tuple[tuple[int, int, int], int, np.dtype, int]:
    """Shape, number of volumes, number type and byte offset of the voxels, checked before memory is taken for them."""
    try:
        dimensions = [int(size) for size in header.get_data_shape()]
        offset = max(int(header["vox_offset"]), header.single_vox_offset)
        dtype = header.get_data_dtype()
        header.get_slope_inter()
    except (HeaderDataError, ValueError, OverflowError) as error:
        raise fault(f"has a damaged header ({error})", hint=_COPY_AGAIN) from error
    size = "x".join(map(str, dimensions))
    if len(dimensions) < 3 or min(dimensions) < 1:
        raise fault(f"expected a 3-D volume, found {size or 'no'} voxels", hint=_CONVERT)
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        name = nib.nifti1.data_type_codes.niistring[int(header["datatype"])]
        found = name.removeprefix("NIFTI_TYPE_")
        raise fault(f"expected real numbers of at most 64 bits, found {found}", hint=_CONVERT)
    if offset + math.prod(dimensions) * dtype.itemsize > capacity:
        raise fault(
            f"is cut short: its header says {size} voxels of {dtype.itemsize} bytes, more than the file can hold",
            hint=_COPY_AGAIN,
        )
    shape = tuple(dimensions[:3])
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if math.prod(shape) * dtype.itemsize > memory:
        problem = f"its {size} voxels do not fit in the {memory / 2**30:.0f} GiB of memory of this machine"
        raise fault(problem, hint="Is its header right? Else use a machine with more")
    return shape, math.prod(dimensions[3:]), dtype, offset


def _skip(stream: io.BufferedIOBase, count: int, fault: functools.partial) -> None:
    while count > 0:
        read = len(stream.read(min(count, _CHUNK)))
        if not read:
            raise fault("is cut short: it ends before its voxels", hint=_COPY_AGAIN)
        count -= read


def _drain(stream: io.BufferedIOBase, expected: int, fault: functools.partial) -> None:
    """Reads a gzip stream to its end, `expected` bytes away, where its checksum is."""
    while count := len(stream.read(_CHUNK)):
        expected -= count
        if expected < -_MOST_PADDING:
            problem = f"goes on for more than {_MOST_PADDING >> 20} MiB after the voxels that its header speaks of"
            raise fault(problem, hint=_COPY_AGAIN)


def _fill(stream: io.BufferedIOBase, buffer: np.ndarray, fault: functools.partial) -> None:
    view = memoryview(buffer)
    filled = 0
    while filled < len(view):
        # In pieces: reading all at once, the gzip classes first hold all of it a second time.
        read = stream.readinto(view[filled : filled + _CHUNK])
        if not read:
            raise fault(f"is cut short: {filled} bytes of voxels, expected {len(view)}", hint=_COPY_AGAIN)
        filled += read


def _scaled(voxels: np.ndarray, header: nib.Nifti1Header) -> np.ndarray:
    """Native byte order, and the header's slope and intercept applied (float32, computed in float64)."""
    if not voxels.dtype.isnative:
        voxels = voxels.byteswap(inplace=True).view(voxels.dtype.newbyteorder())
    slope, intercept = header.get_slope_inter()
    if slope is None or (slope, intercept) == (1, 0):
        return voxels
    scaled = np.empty(voxels.size, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by the callers
        for start in range(0, voxels.size, _CHUNK):
            part = slice(start, start + _CHUNK)
            scaled[part] = voxels[part] * np.float64(slope) + intercept
    return scaled
