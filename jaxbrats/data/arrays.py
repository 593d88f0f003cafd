"""The arrays of a preprocessed case: what identifies them, and reading them."""

import concurrent.futures
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from jaxbrats.data import npy
from jaxbrats.data.boxes import CropBox
from jaxbrats.data.labels import NUM_CLASSES, SHARES, WHOLE, most_covered
from jaxbrats.data.manifest import checksum
from jaxbrats.system.errors import InputError, unreadable


class ArrayIdentity(NamedTuple):
    """What identifies an array: its content, and how its file looked when that was made sure of.

    Attributes:
        checksum: CRC-32 of the elements, as `manifest.checksum` writes it.
        size: Bytes of the file.
        mtime_ns: When the file was last written, nanoseconds since 1970.
    """

    checksum: str
    size: int
    mtime_ns: int


class CaseContent(NamedTuple):
    """Name and patient of a case, and the checksums of its two arrays."""

    name: str
    patient: str
    image: str
    mask: str


@dataclasses.dataclass(frozen=True)
class ArrayCase:
    """One case of a preprocessed folder.

    Attributes:
        name: Unique in its folder.
        patient: The same for all scans of a patient; the case's own name where the folder doesn't tell.
        image: The .npy file of the image, (X, Y, Z, C).
        mask: The .npy file of the labels, (X, Y, Z), one-hot (X, Y, Z, 4) or soft (X, Y, Z, 3).
        side: "train" or "val" where the folder itself is split, else None.
        record: The manifest's record of the case: geometry, sources, label counts. None where there is no manifest.
        identity: What identifies image and mask, once `identified` has seen to it; reading then refuses files that
            were written since.
    """

    name: str
    patient: str
    image: pathlib.Path
    mask: pathlib.Path
    side: str | None = None
    record: Mapping[str, Any] | None = dataclasses.field(default=None, compare=False, repr=False)
    identity: tuple[ArrayIdentity, ArrayIdentity] | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def content(self) -> CaseContent:
        """What the case is, wherever it lies; of a case that `identified` returned."""
        image, mask = self.identity
        return CaseContent(self.name, self.patient, image.checksum, mask.checksum)


def identified(cases: Sequence[ArrayCase]) -> list[ArrayCase]:
    """The cases with what identifies their arrays.

    A file that has the size and time it was written with, by the manifest, is taken to hold what was written. Any other
    (of a folder that was copied, of the Keras notebook) is read, and must have the manifest's checksum where there is
    one.

    Raises:
        InputError: an array is not what preprocessing wrote, or cannot be read.
    """
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        bar = tqdm(
            pool.map(identify, cases), "checking arrays", total=len(cases), unit="case", delay=2, dynamic_ncols=True
        )
        return list(bar)


def identify(case: ArrayCase) -> ArrayCase:
    """As `identified`, one case."""
    image = _identify_file(case, case.image, "image", check_image)
    mask = _identify_file(case, case.mask, "mask", check_mask)
    return dataclasses.replace(case, identity=(image, mask))


def _identify_file(case: ArrayCase, path: pathlib.Path, kind: str, check: npy.Check) -> ArrayIdentity:
    found, written = _stat(case, path), None
    if case.record is not None:
        written, known = case.record["checksum"][kind], case.record["stat"][kind]
        if (found.st_size, found.st_mtime_ns) == (known["size"], known["mtime_ns"]):
            return ArrayIdentity(written, found.st_size, found.st_mtime_ns)
    content = checksum(np.ascontiguousarray(npy.read(path, case.name, check)))
    if written is not None and content != written:
        raise InputError(
            f"holds other values than preprocessing wrote (checksum {content}, expected {written})",
            case=case.name,
            file=path,
            hint="Restore it, or delete it and run jaxbrats preprocess again",
        )
    return ArrayIdentity(content, found.st_size, found.st_mtime_ns)


def _stat(case: ArrayCase, path: pathlib.Path) -> Any:
    try:
        return path.stat()
    except OSError as error:
        raise unreadable(error, path, case.name) from error


def _check_unchanged(case: ArrayCase, path: pathlib.Path, index: int) -> None:
    """Refuses a file that was written since the case was identified."""
    if case.identity is None:
        return
    found, expected = _stat(case, path), case.identity[index]
    if (found.st_size, found.st_mtime_ns) != (expected.size, expected.mtime_ns):
        raise InputError(
            "was written by something else while it was in use",
            case=case.name,
            file=path,
            hint="Run the same command again: it checks whether the array is still the one that the run began with",
        )


def check_image(header: npy.Header) -> str | None:
    """What is wrong with the header of an image, None for nothing."""
    if len(header.shape) != 4:
        return f"has shape {header.shape}, expected an image (X, Y, Z, channels)"
    if header.dtype.kind != "f":
        return f"has dtype {header.dtype}, expected float32"
    return None


def check_mask(header: npy.Header) -> str | None:
    """What is wrong with the header of a mask, None for nothing."""
    if len(header.shape) != 3 and not (len(header.shape) == 4 and header.shape[3] in (NUM_CLASSES, len(SHARES))):
        forms = f"one-hot (X, Y, Z, {NUM_CLASSES}) or soft (X, Y, Z, {len(SHARES)})"
        return f"has shape {header.shape}, expected labels (X, Y, Z), {forms}"
    if header.dtype != np.uint8 if _is_soft(header.shape) else header.dtype.kind not in "uifb":
        return f"has dtype {header.dtype}, expected uint8"
    return None


def _is_soft(shape: Sequence[int]) -> bool:
    return len(shape) == 4 and shape[3] == len(SHARES)


def read_image(case: ArrayCase, out: np.ndarray | None = None) -> np.ndarray:
    """Reads the image of a case.

    Args:
        case: Which.
        out: C-contiguous float32 (X, Y, Z, C) to read into, for instance a row of a batch.

    Returns:
        float32 (X, Y, Z, C): `out`, or a new array.

    Raises:
        InputError: the file is unreadable or damaged, is not a floating-point array (X, Y, Z, C) in NumPy's format (any
            width, byte order and axis order will do), holds NaN or infinite values, has another shape than `out`, or
            was written since the case was identified.
    """
    _check_unchanged(case, case.image, 0)
    array = npy.read(case.image, case.name, check_image, out)
    with np.errstate(over="ignore"):
        image = _fill(np.asarray(array, np.float32, order="C"), out, case.name, case.image)
    _check_finite(image, case)
    return image


def read_patch(case: ArrayCase, box: CropBox, out: np.ndarray) -> None:
    """Reads a box of the image of a case.

    Args:
        case: Which.
        box: Of the array; zeros are where it reaches beyond.
        out: float32 (X, Y, Z, C) of the box's size, to read into.

    Raises:
        InputError: as `read_image`.
    """
    _check_unchanged(case, case.image, 0)
    with np.errstate(over="ignore"):
        inside = out[box.in_box]
        if inside.shape != out.shape:
            out[...] = 0
        npy.read_box(case.image, case.name, check_image, [side.start for side in box.in_volume], inside)
    _check_finite(out, case)


def read_labels(case: ArrayCase, out: np.ndarray | None = None) -> np.ndarray:
    """Reads the labels of a case.

    Args:
        case: Which.
        out: C-contiguous uint8 (X, Y, Z) to read into, for instance a row of a batch.

    Returns:
        uint8 (X, Y, Z), labels 0 to 3: `out`, or a new array.

    Raises:
        InputError: the file is unreadable or damaged, is neither labels (X, Y, Z) nor one-hot (X, Y, Z, 4) in NumPy's
            format (of any integer or floating-point type) nor soft labels (X, Y, Z, 3) uint8, holds other values, has
            another shape than `out`, or was written since the case was identified.
    """
    _check_unchanged(case, case.mask, 1)
    array = npy.read(case.mask, case.name, check_mask, out)
    if _is_soft(array.shape):
        return _fill(most_covered(_parts(array, case)), out, case.name, case.mask)
    labels = _from_one_hot(array) if array.ndim == 4 else _from_numbers(array)
    if labels is None:
        wanted = f"whole labels 0 to {NUM_CLASSES - 1}" if array.ndim == 3 else "one-hot, a single 1 a voxel and 0 else"
        problem = f"expected {wanted}, found values from {array.min()} to {array.max()}"
        raise InputError(problem, case=case.name, file=case.mask, hint=npy.WRITE_AGAIN)
    return _fill(labels, out, case.name, case.mask)


def channels_present(image: np.ndarray) -> list[int]:
    """The channels of an image `(..., C)` that are not 0 everywhere, as those of missing modalities are; of one that is
    nothing but 0 the first.
    """
    return np.flatnonzero(image.any(tuple(range(image.ndim - 1)))).tolist() or [0]


def read_soft_labels(case: ArrayCase, out: np.ndarray | None = None) -> np.ndarray:
    """Reads the soft labels of a case.

    Args:
        case: Which.
        out: C-contiguous uint8 (X, Y, Z, 3) to read into.

    Returns:
        uint8 (X, Y, Z, 3), see `labels.SHARES`: `out`, or a new array.

    Raises:
        InputError: as `read_labels`, or the file holds one label a voxel.
    """
    _check_unchanged(case, case.mask, 1)
    array = npy.read(case.mask, case.name, check_mask, out)
    if not _is_soft(array.shape):
        problem = f"has shape {array.shape}, expected soft labels (X, Y, Z, {len(SHARES)})"
        raise InputError(problem, case=case.name, file=case.mask, hint=npy.WRITE_AGAIN)
    return _fill(_parts(array, case), out, case.name, case.mask)


def label_voxels(cases: Sequence[ArrayCase]) -> np.ndarray:
    """Voxels of each label in the masks of cases, int64 `(cases, 4)`: as the manifest has them, else counted now.

    Raises:
        InputError: a mask cannot be read.
    """

    def count(case: ArrayCase) -> np.ndarray:
        counts = (case.record or {}).get("label_voxels")
        return np.bincount(read_labels(case).ravel(), minlength=NUM_CLASSES) if counts is None else np.array(counts)

    # Few threads, since each may hold a mask.
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return np.array(list(pool.map(count, cases)), np.int64).reshape(len(cases), NUM_CLASSES)


def _check_finite(image: np.ndarray, case: ArrayCase) -> None:
    # NaN and infinity survive a sum, cheaper than a test of each voxel; a sum can also overflow, hence the second look.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(image.sum())
    if suspicious and not (finite := np.isfinite(image)).all():
        first = tuple(int(place) for place in np.unravel_index(np.argmin(finite), finite.shape))
        problem = f"holds {np.count_nonzero(~finite)} values that are NaN, infinite or beyond float32, first at {first}"
        raise InputError(problem, case=case.name, file=case.image, hint=npy.WRITE_AGAIN)


def _from_one_hot(array: np.ndarray) -> np.ndarray | None:
    labels = np.argmax(array, axis=-1, keepdims=True)
    single = np.count_nonzero(array) == labels.size and (np.take_along_axis(array, labels, -1) == 1).all()
    return labels[..., 0].astype(np.uint8) if single else None


def _from_numbers(array: np.ndarray) -> np.ndarray | None:
    with np.errstate(invalid="ignore"):
        labels = np.asarray(array, np.uint8, order="C")
    whole = labels is array or np.array_equal(labels, array)
    return labels if whole and labels.max() < NUM_CLASSES else None


def _parts(soft: np.ndarray, case: ArrayCase) -> np.ndarray:
    """Soft labels, if they are some."""
    if (most := soft.sum(-1, dtype=np.int16).max()) > WHOLE:
        problem = f"expected labels that cover {WHOLE} parts of a voxel at most, found {most}"
        raise InputError(problem, case=case.name, file=case.mask, hint=npy.WRITE_AGAIN)
    return soft


def _fill(array: np.ndarray, out: np.ndarray | None, case: str, path: pathlib.Path) -> np.ndarray:
    if out is None or array is out:
        return array
    if array.shape != out.shape:
        raise InputError(f"has shape {array.shape}, expected {out.shape}", case=case, file=path, hint=npy.WRITE_AGAIN)
    out[...] = array
    return out
