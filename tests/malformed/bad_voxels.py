"""Kinds of images and segmentations, whole as files, with the wrong thing in them: shape, type, values, geometry."""

from collections.abc import Callable

import numpy as np

from malformed.bad_files import Spoil, header
from malformed.kinds import (
    ACCEPTED,
    AFFINE,
    REFUSED,
    SAME,
    SHAPE,
    SKIPPED,
    Files,
    Kind,
    content_of,
    nifti,
    voxels_of,
    write,
)

_NOT_3D = "expected a 3-D volume"
_NOT_REAL = "expected real numbers"
_NOT_FINITE = "are NaN, infinite or beyond 32-bit floats"
_NO_AXES = "expected an affine with three independent axes"
_OTHER_AFFINE = "has the affine"


def image(change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    """Changes the voxels of the image."""
    return lambda files: write(files.image, nifti(change(voxels_of(files.image))))


def labels(change: Callable[[np.ndarray], np.ndarray], affine: np.ndarray = AFFINE) -> Spoil:
    """Changes the voxels of the segmentation, and its affine."""
    return lambda files: write(files.labels, nifti(change(voxels_of(files.labels)), affine))


def _with(value: float, dtype: type = np.float32, count: int = 1) -> Callable[[np.ndarray], np.ndarray]:
    """Sets `count` voxels in the middle."""

    def change(array: np.ndarray) -> np.ndarray:
        array = array.astype(dtype)
        array[4, 3, 2 : 2 + count] = value
        return array

    return change


def _colours(channels: str) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: np.zeros(array.shape, [(name, "u1") for name in channels])


def _affine(*changes: tuple[int, int, float]) -> Spoil:
    """Changes entries of the sform; the qform is dropped."""
    affine = AFFINE.copy()
    for row, column, value in changes:
        affine[row, column] = value
    rows = {f"srow_{axis}": affine[row] for row, axis in enumerate("xyz")}
    return header(**rows, sform_code=1, qform_code=0)


def _all_sheared(files: Files) -> None:
    sheared = AFFINE.copy()
    sheared[0, 1] = 0.3
    for path in files.image.parent.iterdir():
        write(path, nifti(voxels_of(path), sheared))


def _with_noise(array: np.ndarray) -> np.ndarray:
    return array + np.random.default_rng(0).integers(1, 40, array.shape).astype(array.dtype)


def _scaled_labels(files: Files) -> None:
    """The same labels, stored as their double and a slope of a half."""
    doubled = bytearray(nifti(voxels_of(files.labels) * np.uint8(2)))
    doubled[112:116] = np.float32(0.5).tobytes()  # scl_slope of NIfTI-1
    write(files.labels, bytes(doubled))


def _one_hot(array: np.ndarray) -> np.ndarray:
    return np.eye(4, dtype=np.uint8)[array]


def _as_2021(array: np.ndarray) -> np.ndarray:
    return np.array([0, 1, 2, 4], np.uint8)[array]


def _voxels_shifted(array: np.ndarray) -> np.ndarray:
    return np.roll(array, 1, axis=0)


def _truncated_labels(files: Files) -> None:
    write(files.labels, bytes(content_of(files.labels)[:-9]))


IMAGE_KINDS = [
    Kind("2-D", image(lambda array: array[:, :, 3]), REFUSED, "expected a 3-D volume, found 9x8 voxels"),
    Kind("1-D", image(lambda array: array[:, 3, 3]), REFUSED, _NOT_3D),
    Kind("4-D with one volume", image(lambda array: array[..., None]), SAME),
    Kind("7-D with one volume", image(lambda array: array.reshape(*SHAPE, 1, 1, 1, 1)), SAME),
    Kind("4-D with two volumes", image(lambda array: np.stack([array] * 2, -1)), REFUSED, "4-D with 2 volumes"),
    Kind("5-D vectors", image(lambda array: np.stack([array[..., None]] * 3, -1)), REFUSED, "with 3 volumes"),
    Kind("axes exchanged", image(lambda array: array.transpose(2, 1, 0)), REFUSED, "has 7x8x9 voxels, but"),
    Kind("RGB", image(_colours("RGB")), REFUSED, "found RGB"),
    Kind("RGBA", image(_colours("RGBA")), REFUSED, _NOT_REAL),
    Kind("complex64", image(lambda array: array.astype(np.complex64)), REFUSED, "found COMPLEX64"),
    Kind("complex128", image(lambda array: array.astype(np.complex128)), REFUSED, _NOT_REAL),
    Kind("128-bit floats", header(datatype=1536, bitpix=128), REFUSED),
    Kind("64-bit floats", image(lambda array: array.astype(np.float64)), SAME),
    Kind("64-bit unsigned integers", image(lambda array: array.astype(np.uint64)), SAME),
    Kind("scl_slope of 0", header(scl_slope=0, scl_inter=7), SAME),
    Kind("scl_slope of NaN", header(scl_slope=np.nan, scl_inter=np.nan), SAME),
    Kind("scl_slope of infinity", header(scl_slope=np.inf), SAME),
    Kind("scl_inter of NaN", header(scl_slope=2, scl_inter=np.nan), REFUSED, "damaged header"),
    Kind("scl_slope below 0", header(scl_slope=-1, scl_inter=0), ACCEPTED),
    Kind("scl_slope that leaves 32 bits", header(scl_slope=3e38, scl_inter=0), REFUSED, _NOT_FINITE),
    Kind("NaN in a voxel", image(_with(np.nan)), REFUSED, _NOT_FINITE),
    Kind("infinity in two voxels", image(_with(np.inf, count=2)), REFUSED, "2 of 504 voxels"),
    Kind("minus infinity", image(_with(-np.inf)), REFUSED, _NOT_FINITE),
    Kind("1e300", image(_with(1e300, np.float64)), REFUSED, _NOT_FINITE),
    Kind("NaN everywhere", image(lambda array: np.full(array.shape, np.nan)), REFUSED, _NOT_FINITE),
    Kind("0 everywhere", image(np.zeros_like), REFUSED, "every voxel has the value 0"),
    Kind(
        "a constant everywhere", image(lambda array: np.full_like(array, 77)), REFUSED, "every voxel has the value 77"
    ),
    Kind("a mask in the place of the image", image(lambda array: np.sign(array)), ACCEPTED, "only 2 different values"),
    Kind("not skull-stripped", image(_with_noise), ACCEPTED, "at its border are not 0"),
    Kind("one voxel a thousand times brighter", image(_with(1e6)), ACCEPTED, "a few voxels reach 1e+06"),
    Kind("negative values", image(lambda array: -array), ACCEPTED),
    Kind("axes not at right angles in all files", _all_sheared, SAME, "not at right angles"),
    Kind("axes not at right angles in one file", _affine((0, 1, 0.3)), REFUSED, _OTHER_AFFINE),
    Kind("affine with an axis of zero", _affine((2, 2, 0)), REFUSED, _NO_AXES),
    Kind("affine of zeros", _affine((0, 0, 0), (1, 1, 0), (2, 2, 0)), REFUSED, _NO_AXES),
    Kind("affine with two parallel axes", _affine((0, 2, -1), (2, 2, 0)), REFUSED, _NO_AXES),
    Kind("affine with NaN", _affine((0, 0, np.nan)), REFUSED, "not finite"),
    Kind("affine with infinity", _affine((1, 3, np.inf)), REFUSED, "not finite"),
    Kind("affine half a voxel off", _affine((0, 3, 0.5)), REFUSED, _OTHER_AFFINE),
    Kind("affine flipped left to right", _affine((0, 0, 1)), REFUSED, _OTHER_AFFINE),
    Kind("affine off by rounding", _affine((1, 3, 239.0004)), SAME),
    Kind("sform and qform that disagree", header(qoffset_x=30), SAME, "sform and qform lie up to 30 mm apart"),
    Kind("qform alone", header(sform_code=0), SAME),
    Kind("neither sform nor qform", header(sform_code=0, qform_code=0), REFUSED, _OTHER_AFFINE),
    Kind("quaternion longer than 1", header(sform_code=0, quatern_b=3, quatern_c=3), REFUSED, "damaged header"),
    Kind("quaternion longer than 1 beside an sform", header(quatern_b=3, quatern_c=3), SAME),
    Kind("voxel size of NaN beside an sform", header(pixdim=[1, np.nan, 1, 2, 0, 0, 0, 0]), SAME),
    Kind("voxel size of 0 beside an sform", header(pixdim=[1, 0, 1, 2, 0, 0, 0, 0]), SAME),
    Kind("voxel size below 0 beside an sform", header(pixdim=[1, -1, 1, 2, 0, 0, 0, 0]), SAME),
]

LABEL_KINDS = [
    Kind("label 4 in a file of labels 0 to 3", labels(_with(4, np.uint8)), REFUSED, "found 0, 1, 2, 3, 4"),
    Kind("label 4 for 3, as BraTS 2021 wrote", labels(_as_2021), REFUSED, "Write the enhancing tumour as 3"),
    Kind("labels as whole floats", labels(lambda array: array.astype(np.float64)), SAME),
    Kind("labels of 64 bits", labels(lambda array: array.astype(np.int64)), SAME),
    Kind("labels stored with a slope", _scaled_labels, SAME),
    Kind("labels 4-D with one volume", labels(lambda array: array[..., None]), SAME),
    Kind("labels interpolated", labels(_with(1.5)), REFUSED, "found 1 voxels whose values are not whole numbers"),
    Kind("label NaN", labels(_with(np.nan)), REFUSED, "not whole numbers, such as nan"),
    Kind("label infinity", labels(_with(np.inf)), REFUSED, "found 0, 1, 2, 3, inf"),
    Kind("label -1", labels(_with(-1, np.int16)), REFUSED, "found -1, 0, 1, 2, 3"),
    Kind("label 259, which is 3 in a byte", labels(_with(259, np.int16)), REFUSED, "found 0, 1, 2, 3, 259"),
    Kind("labels 0 to 255", labels(lambda array: array * np.uint8(85)), REFUSED, "found 0, 85, 170, 255"),
    Kind("no tumour at all", labels(np.zeros_like), SKIPPED, "holds no tumour"),
    Kind("tumour everywhere", labels(np.ones_like), ACCEPTED, "outside the brain"),
    Kind("one-hot labels", labels(_one_hot), REFUSED, "4-D with 4 volumes"),
    Kind("labels in 2-D", labels(lambda array: array[:, :, 3]), REFUSED, _NOT_3D),
    Kind("labels in colour", labels(_colours("RGB")), REFUSED, _NOT_REAL),
    Kind("labels of another shape", labels(lambda array: array[:-1]), REFUSED, "voxels, but"),
    Kind(
        "mask shifted by a voxel, and its affine says so",
        labels(_voxels_shifted, AFFINE + np.eye(4, k=3)),
        REFUSED,
        _OTHER_AFFINE,
    ),
    Kind("mask shifted by a voxel, unknown to its affine", labels(_voxels_shifted), ACCEPTED),
    Kind("mask outside the brain", labels(lambda array: np.roll(array, -2, axis=2)), ACCEPTED, "outside the brain"),
    Kind("segmentation cut short", _truncated_labels, REFUSED, "is cut short"),
    Kind("segmentation missing", lambda files: files.labels.unlink(), SKIPPED, "no segmentation"),
]
