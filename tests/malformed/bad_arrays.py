"""Kinds of bad and odd .npy files, as somebody else's program may have written them."""

import io
import os
import struct
from collections.abc import Callable

import numpy as np

from malformed.bad_cohorts import instead
from malformed.bad_files import Spoil
from malformed.kinds import ACCEPTED, REFUSED, SAME, Kind

_NO_NPY = "is not an array in NumPy's .npy format"


class Payload:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple:
        return os._exit, (99,)


def image(change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    """Changes the image `(X, Y, Z, C)`."""
    return lambda files: np.save(files.image, change(np.load(files.image)), allow_pickle=True)


def mask(change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    """Changes the labels `(X, Y, Z)`."""
    return lambda files: np.save(files.labels, change(np.load(files.labels)))


def content(change: Callable[[bytes], bytes]) -> Spoil:
    """Changes the bytes of the image's file."""
    return lambda files: files.image.write_bytes(change(files.image.read_bytes()))


def claims(header: str, version: tuple[int, int] = (1, 0)) -> Spoil:
    """A file with this header and a few voxels."""
    text = header.encode().ljust(117) + b"\n"
    return content(lambda whole: b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(text)) + text + bytes(64))


def _with(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[2, 2, 2] = value
        return array

    return change


def _objects(array: np.ndarray) -> np.ndarray:
    objects = np.empty(array.shape, object)
    objects[...] = Payload()
    return objects


def _zipped(whole: bytes) -> bytes:
    made = io.BytesIO()
    np.savez(made, image=np.zeros(3))
    return made.getvalue()


def _fractional(array: np.ndarray) -> np.ndarray:
    return array + np.float32(0.5)


def _two_hot(array: np.ndarray) -> np.ndarray:
    hot = np.eye(4, dtype=np.uint8)[array]
    hot[2, 2, 2] = 1, 1, 0, 0
    return hot


_HUGE = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000, 1000000, 3)}"
_NEGATIVE = "{'descr': '<f4', 'fortran_order': False, 'shape': (-4, -4, 4, 3)}"
_CODE = "{'descr': '<f4', 'fortran_order': False, 'shape': __import__('os')._exit(99)}"

KINDS = [
    Kind("array in Fortran order", image(np.asfortranarray), SAME),
    Kind("array of big-endian floats", image(lambda array: array.astype(">f4")), SAME),
    Kind("array of 64-bit floats", image(lambda array: array.astype(np.float64)), SAME),
    Kind("array of 16-bit floats", image(lambda array: array.astype(np.float16)), ACCEPTED),
    Kind("labels one-hot, as the Keras notebook wrote", mask(lambda array: np.eye(4, dtype="f4")[array]), SAME),
    Kind("labels as 64-bit floats", mask(lambda array: array.astype(np.float64)), SAME),
    Kind("array of pickled objects", image(_objects), REFUSED, "pickled Python objects"),
    Kind("array header with code", claims(_CODE), REFUSED, _NO_NPY),
    Kind("array header of petabytes", claims(_HUGE), REFUSED, "is truncated"),
    Kind("array header of a negative shape", claims(_NEGATIVE), REFUSED, "has shape (-4, -4, 4, 3)"),
    Kind("array header of an unknown version", claims(_HUGE, (9, 0)), REFUSED, _NO_NPY),
    Kind("array header that never closes", claims("{'descr': '<f4', 'shape': ((((((("), REFUSED, _NO_NPY),
    Kind("array file of no bytes", content(lambda whole: b""), REFUSED, _NO_NPY),
    Kind("array file that is text", content(lambda whole: b"1.0 2.0 3.0\n" * 40), REFUSED, _NO_NPY),
    Kind("array file that is an .npz", content(_zipped), REFUSED, _NO_NPY),
    Kind("array file cut in its header", content(lambda whole: whole[:40]), REFUSED, _NO_NPY),
    Kind("array file cut in its voxels", content(lambda whole: whole[:-1]), REFUSED, "is truncated"),
    Kind("array file with more than its voxels", content(lambda whole: whole + bytes(8)), REFUSED, "longer than"),
    Kind("array of rank 3", image(lambda array: array[..., 0]), REFUSED, "expected an image (X, Y, Z, channels)"),
    Kind("array of rank 5", image(lambda array: array[None]), REFUSED, "expected an image (X, Y, Z, channels)"),
    Kind("array of one number", image(lambda array: array.max()), REFUSED, "expected an image (X, Y, Z, channels)"),
    Kind("array without voxels", image(lambda array: array[:0]), REFUSED, "which holds no voxel"),
    Kind("array of integers", image(lambda array: array.astype(np.int32)), REFUSED, "has dtype int32"),
    Kind("array of complex numbers", image(lambda array: array.astype(np.complex64)), REFUSED, "has dtype complex64"),
    Kind("array of text", image(lambda array: array.astype("U4")), REFUSED, "has dtype <U4"),
    Kind("array with NaN", image(_with(np.nan)), REFUSED, "NaN, infinite or beyond float32"),
    Kind("array with infinity", image(_with(np.inf)), REFUSED, "NaN, infinite or beyond float32"),
    Kind("array of another shape than most", image(lambda array: array[:-1]), REFUSED, "covers (6, 6, 6) voxels"),
    Kind("labels of another shape than the image", mask(lambda array: array[:-1]), REFUSED, "covers (5, 6, 6) voxels"),
    Kind("labels of rank 2", mask(lambda array: array[0]), REFUSED, "expected labels (X, Y, Z)"),
    Kind("label 4 in an array", mask(_with(4)), REFUSED, "expected whole labels 0 to 3"),
    Kind("labels that are not whole numbers", mask(_fractional), REFUSED, "expected whole labels 0 to 3"),
    Kind("labels with two classes in a voxel", mask(_two_hot), REFUSED, "expected one-hot"),
    Kind(
        "array file that links to itself",
        instead(lambda files: files.image.symlink_to(files.image)),
        REFUSED,
        "cannot be read",
    ),
    Kind(
        "array file that is a named pipe",
        instead(lambda files: os.mkfifo(files.image)),
        REFUSED,
        "is not a regular file",
    ),
    Kind("array file nobody may read", lambda files: files.image.chmod(0), REFUSED, "cannot be read", needs_user=True),
    Kind("array file missing", lambda files: files.image.unlink(), REFUSED, "has no partner"),
]
