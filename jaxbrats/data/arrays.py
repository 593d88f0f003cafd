"""Preprocessed cases on disk: which there are, and reading the arrays of each."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxbrats.data import manifest as manifests
from jaxbrats.data import npy
from jaxbrats.data.labels import NUM_CLASSES
from jaxbrats.data.names import natural_key
from jaxbrats.system.errors import InputError

SIDES = ("train", "val")
_PREPROCESS = "Give the folder that jaxbrats preprocess wrote"
_PREPROCESS_AGAIN = "Run jaxbrats preprocess again: it makes what is missing"


@dataclasses.dataclass(frozen=True)
class ArrayCase:
    """One case of a preprocessed folder.

    Attributes:
        name: Unique in its folder.
        patient: The same for all scans of a patient; the case's own name where the folder doesn't tell.
        image: The .npy file of the image, (X, Y, Z, C).
        mask: The .npy file of the labels, (X, Y, Z) or one-hot (X, Y, Z, 4).
        side: "train" or "val" where the folder itself is split, else None.
    """

    name: str
    patient: str
    image: pathlib.Path
    mask: pathlib.Path
    side: str | None = None


def find_arrays(data_dir: str | pathlib.Path) -> list[ArrayCase]:
    """Finds the cases of a folder of preprocessed arrays, in natural order of their names.

    Two layouts are understood. What `jaxbrats preprocess` writes: images/CASE.npy, masks/CASE.npy and manifest.json, of
    which the cases marked "kept" are used. And what the Keras notebook wrote: images/image_N.npy and masks/mask_N.npy,
    plain or under train/ and val/ as the package splitfolders lays them out; such a case is named image_N.

    Raises:
        InputError: the folder is in neither form or empty, preprocessing was not finished, or a file is missing.
    """
    data_dir = pathlib.Path(data_dir)
    if not data_dir.is_dir():
        raise InputError("is not a folder", file=data_dir, hint=_PREPROCESS)
    split = any((data_dir / side).is_dir() for side in SIDES)
    if manifests.has_manifest(data_dir):
        cases = _manifest_cases(data_dir)
    elif split and (data_dir / "images").is_dir():
        problem = "holds both images/ and train/ or val/, so that it is unclear which to use"
        raise InputError(problem, file=data_dir, hint="Move one of the two elsewhere")
    elif split:
        cases = [case for side in SIDES for case in _keras_cases(data_dir / side, side)]
    else:
        cases = _keras_cases(data_dir, None)
    name, count = collections.Counter(case.name for case in cases).most_common(1)[0]
    if count > 1:
        raise InputError("is in both train/ and val/", case=name, file=data_dir, hint="Remove one of the two")
    return sorted(cases, key=lambda case: natural_key(case.name))


def _manifest_cases(data_dir: pathlib.Path) -> list[ArrayCase]:
    manifest = manifests.read_manifest(data_dir)
    if not manifest["finished"]:
        problem = "holds arrays whose preprocessing was not finished"
        if manifest.get("missing"):
            hint = "Run jaxbrats preprocess with --shard for each of these, or once without to make all that is missing"
            raise InputError(f"{problem}: missing {_shards(manifest)}", file=data_dir, hint=hint)
        raise InputError(problem, file=data_dir, hint=_PREPROCESS_AGAIN)
    records = manifest["cases"]
    cases = [
        ArrayCase(
            name=name,
            patient=str(record.get("patient", name)),
            image=manifests.image_path(data_dir, name),
            mask=manifests.mask_path(data_dir, name),
        )
        for name, record in records.items()
        if record["status"] == manifests.KEPT
    ]
    if not cases:
        counts = collections.Counter(record["status"] for record in records.values())
        found = ", ".join(f"{count} {status}" for status, count in counts.items()) or "no case at all"
        hint = "Preprocess more cases, or lower --min_tumour"
        raise InputError(f"holds no case to train on ({found})", file=data_dir, hint=hint)
    present = {path for folder in ("images", "masks") for path in _array_files(data_dir / folder)}
    for case in cases:
        for path in (case.image, case.mask):
            if path not in present:
                raise InputError("is missing", case=case.name, file=path, hint=_PREPROCESS_AGAIN)
    return cases


def _shards(manifest: dict[str, Any]) -> str:
    missing = manifest["missing"]
    return f"shard {missing[0]}" if len(missing) == 1 else f"shards {', '.join(missing)}"


def _keras_cases(folder: pathlib.Path, side: str | None) -> list[ArrayCase]:
    # By what follows the prefix, usually a number.
    images = {path.stem[6:]: path for path in _array_files(folder / "images") if path.stem.startswith("image_")}
    masks = {path.stem[5:]: path for path in _array_files(folder / "masks") if path.stem.startswith("mask_")}
    if not images and not masks:
        problem = "holds neither a manifest.json nor images/image_N.npy with masks/mask_N.npy"
        raise InputError(problem, file=folder, hint=_PREPROCESS)
    for number in sorted(images.keys() ^ masks.keys(), key=natural_key):
        path, partner = images.get(number), f"masks/mask_{number}.npy"
        if path is None:
            path, partner = masks[number], f"images/image_{number}.npy"
        raise InputError(f"has no partner {partner}", file=path, hint="Add the missing file or remove this one")
    return [ArrayCase(path.stem, path.stem, path, masks[number], side) for number, path in images.items()]


def _array_files(folder: pathlib.Path) -> list[pathlib.Path]:
    if not folder.is_dir():
        return []
    try:
        return [path for path in folder.iterdir() if path.suffix == ".npy" and not path.name.startswith(".")]
    except OSError as error:
        raise InputError(f"cannot be listed ({error.strerror})", file=folder) from error


def fingerprint(cases: Sequence[ArrayCase]) -> str:
    """Hexadecimal SHA-256 of the names of the cases in their order."""
    return hashlib.sha256(json.dumps([case.name for case in cases]).encode()).hexdigest()


def array_shape(cases: Sequence[ArrayCase]) -> tuple[int, int, int, int]:
    """The one image shape (X, Y, Z, C) of all cases, from the headers of the files alone.

    Raises:
        InputError: there is no case, a file is not such an array, a mask doesn't cover its image, or a case has another
            shape than most.
    """
    if not cases:
        raise InputError("there are no cases to read")
    # Threads hide the latency of a network file system.
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        shapes = list(pool.map(_checked_shape, cases))
    expected, _ = collections.Counter(shapes).most_common(1)[0]
    for case, shape in zip(cases, shapes, strict=True):
        if shape != expected:
            problem = f"has shape {shape}, but most cases have {expected}, and a batch needs one shape"
            hint = "Preprocess all cases with the same crop and modalities"
            raise InputError(problem, case=case.name, file=case.image, hint=hint)
    return expected


def _checked_shape(case: ArrayCase) -> tuple[int, ...]:
    image = npy.read_header(case.image, case.name, _check_image)
    mask = npy.read_header(case.mask, case.name, _check_mask)
    if mask.shape[:3] != image.shape[:3]:
        problem = f"covers {mask.shape[:3]} voxels, but the image of the case {image.shape[:3]}"
        raise InputError(problem, case=case.name, file=case.mask, hint=npy.WRITE_AGAIN)
    return image.shape


def _check_image(header: npy.Header) -> str | None:
    if len(header.shape) != 4:
        return f"has shape {header.shape}, expected an image (X, Y, Z, channels)"
    if header.dtype.kind != "f":
        return f"has dtype {header.dtype}, expected float32"
    return None


def _check_mask(header: npy.Header) -> str | None:
    if len(header.shape) != 3 and not (len(header.shape) == 4 and header.shape[3] == NUM_CLASSES):
        return f"has shape {header.shape}, expected labels (X, Y, Z) or one-hot (X, Y, Z, {NUM_CLASSES})"
    if header.dtype.kind not in "uifb":
        return f"has dtype {header.dtype}, expected uint8"
    return None


def read_image(case: ArrayCase, out: np.ndarray | None = None) -> np.ndarray:
    """Reads the image of a case.

    Args:
        case: Which.
        out: C-contiguous float32 (X, Y, Z, C) to read into, for instance a row of a batch.

    Returns:
        float32 (X, Y, Z, C): `out`, or a new array.

    Raises:
        InputError: the file is unreadable or damaged, is not a floating-point array (X, Y, Z, C) in NumPy's format (any
            width, byte order and axis order will do), holds NaN or infinite values, or has another shape than `out`.
    """
    array = npy.read(case.image, case.name, _check_image, out)
    with np.errstate(over="ignore"):
        image = _place(np.asarray(array, np.float32, order="C"), out, case.name, case.image)
    # NaN and infinity survive a sum, cheaper than a test of each voxel; a sum can also overflow, hence the second look.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(image.sum())
    if suspicious and not (finite := np.isfinite(image)).all():
        first = tuple(int(place) for place in np.unravel_index(np.argmin(finite), finite.shape))
        problem = f"holds {np.count_nonzero(~finite)} values that are NaN, infinite or beyond float32, first at {first}"
        raise InputError(problem, case=case.name, file=case.image, hint=npy.WRITE_AGAIN)
    return image


def read_labels(case: ArrayCase, out: np.ndarray | None = None) -> np.ndarray:
    """Reads the labels of a case.

    Args:
        case: Which.
        out: C-contiguous uint8 (X, Y, Z) to read into, for instance a row of a batch.

    Returns:
        uint8 (X, Y, Z), labels 0 to 3: `out`, or a new array.

    Raises:
        InputError: the file is unreadable or damaged, is neither labels (X, Y, Z) nor one-hot (X, Y, Z, 4) in NumPy's
            format (of any integer or floating-point type), holds other values, or has another shape than `out`.
    """
    array = npy.read(case.mask, case.name, _check_mask, out)
    labels = _from_one_hot(array) if array.ndim == 4 else _from_numbers(array)
    if labels is None:
        wanted = f"whole labels 0 to {NUM_CLASSES - 1}" if array.ndim == 3 else "one-hot, a single 1 a voxel and 0 else"
        problem = f"expected {wanted}, found values from {array.min()} to {array.max()}"
        raise InputError(problem, case=case.name, file=case.mask, hint=npy.WRITE_AGAIN)
    return _place(labels, out, case.name, case.mask)


def _from_one_hot(array: np.ndarray) -> np.ndarray | None:
    labels = np.argmax(array, axis=-1, keepdims=True)
    single = np.count_nonzero(array) == labels.size and (np.take_along_axis(array, labels, -1) == 1).all()
    return labels[..., 0].astype(np.uint8) if single else None


def _from_numbers(array: np.ndarray) -> np.ndarray | None:
    with np.errstate(invalid="ignore"):
        labels = np.asarray(array, np.uint8, order="C")
    whole = labels is array or np.array_equal(labels, array)
    return labels if whole and labels.max() < NUM_CLASSES else None


def _place(array: np.ndarray, out: np.ndarray | None, case: str, path: pathlib.Path) -> np.ndarray:
    if out is None or array is out:
        return array
    if array.shape != out.shape:
        raise InputError(f"has shape {array.shape}, expected {out.shape}", case=case, file=path, hint=npy.WRITE_AGAIN)
    out[...] = array
    return out
