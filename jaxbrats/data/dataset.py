"""A folder of preprocessed arrays as one object, read once at the start of a program and handed down."""

import collections
import concurrent.futures
import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxbrats.data import manifest as manifests
from jaxbrats.data import npy
from jaxbrats.data.arrays import ArrayCase, check_image, check_mask
from jaxbrats.data.names import natural_key
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.data.raw.geometry import Frame
from jaxbrats.system.errors import InputError

SIDES = ("train", "val")
_PREPROCESS = "Give the folder that jaxbrats preprocess wrote"
_PREPROCESS_AGAIN = "Run jaxbrats preprocess again: it makes what is missing"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What a folder of arrays holds.

    Attributes:
        folder: The folder.
        cases: Its cases, in natural order of their names.
        preprocessing: How the arrays were made; None where no manifest tells.
        frame: Orientation and spacing of all arrays; None where no manifest tells.
        raw_dir: The cohort that the arrays were made from; None where no manifest tells.
        failures: A line for each case of the cohort that could not be preprocessed.
    """

    folder: pathlib.Path
    cases: tuple[ArrayCase, ...]
    preprocessing: Preprocessing | None = None
    frame: Frame | None = None
    raw_dir: pathlib.Path | None = None
    failures: tuple[str, ...] = ()

    def select(self, names: Iterable[str]) -> list[ArrayCase]:
        """The cases of these names, in their order.

        Raises:
            InputError: the folder does not hold one of them.
        """
        by_name = {case.name: case for case in self.cases}
        missing = [name for name in names if name not in by_name]
        if missing:
            more = f", nor {len(missing) - 1} more" if len(missing) > 1 else ""
            raise InputError(
                f"does not hold the case {missing[0]}{more}",
                file=self.folder,
                hint="Restore the arrays, or run jaxbrats preprocess again",
            )
        return [by_name[name] for name in names]


def read_dataset(folder: str | pathlib.Path) -> Dataset:
    """Reads what a folder of preprocessed arrays holds, without the arrays.

    Two layouts are understood. What `jaxbrats preprocess` writes: images/CASE.npy, masks/CASE.npy and manifest.json, of
    which the cases marked "kept" are used. And what the Keras notebook wrote: images/image_N.npy and masks/mask_N.npy,
    plain or under train/ and val/ as the package splitfolders lays them out; such a case is named image_N.

    Raises:
        InputError: the folder is in neither form or empty, preprocessing was not finished, or a file is missing.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise InputError("is not a folder", file=folder, hint=_PREPROCESS)
    if manifests.has_manifest(folder):
        return _preprocessed(folder, manifests.read_manifest(folder))
    split = any((folder / side).is_dir() for side in SIDES)
    if split and (folder / "images").is_dir():
        problem = "holds both images/ and train/ or val/, so that it is unclear which to use"
        raise InputError(problem, file=folder, hint="Move one of the two elsewhere")
    sides = SIDES if split else (None,)
    cases = [case for side in sides for case in _keras_cases(folder / (side or ""), side)]
    name, count = collections.Counter(case.name for case in cases).most_common(1)[0]
    if count > 1:
        raise InputError("is in both train/ and val/", case=name, file=folder, hint="Remove one of the two")
    return Dataset(folder, _sorted(cases))


def array_shapes(cases: Sequence[ArrayCase]) -> list[tuple[int, int, int, int]]:
    """The image shape (X, Y, Z, C) of each case, C the same of all, from the headers of the files alone.

    Raises:
        InputError: there is no case, a file is not such an array, a mask doesn't cover its image, or a case has another
            number of channels than most.
    """
    shapes = _checked_shapes(cases)
    _check_alike(cases, shapes, [shape[3] for shape in shapes], "a network needs one number of channels")
    return shapes


def array_shape(cases: Sequence[ArrayCase]) -> tuple[int, int, int, int]:
    """The one image shape (X, Y, Z, C) of all cases.

    Raises:
        InputError: as `array_shapes`, or a case has another shape than most.
    """
    shapes = _checked_shapes(cases)
    _check_alike(cases, shapes, shapes, "a batch of whole arrays needs one shape")
    return shapes[0]


def _checked_shapes(cases: Sequence[ArrayCase]) -> list[tuple[int, ...]]:
    if not cases:
        raise InputError("there are no cases to read")
    # Threads hide the latency of a network file system.
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return list(pool.map(_checked_shape, cases))


def _check_alike(cases: Sequence[ArrayCase], shapes: Sequence[tuple], parts: Sequence[Any], why: str) -> None:
    """Refuses the first case of another kind than most; `parts` are what must be alike of the shapes."""
    usual, _ = collections.Counter(parts).most_common(1)[0]
    for case, shape, part in zip(cases, shapes, parts, strict=True):
        if part != usual:
            problem = f"has shape {shape}, but most cases have {shapes[parts.index(usual)]}, and {why}"
            hint = "Preprocess all cases with the same crop and modalities"
            raise InputError(problem, case=case.name, file=case.image, hint=hint)


def _checked_shape(case: ArrayCase) -> tuple[int, ...]:
    image = npy.read_header(case.image, case.name, check_image)
    mask = npy.read_header(case.mask, case.name, check_mask)
    if mask.shape[:3] != image.shape[:3]:
        problem = f"covers {mask.shape[:3]} voxels, but the image of the case {image.shape[:3]}"
        raise InputError(problem, case=case.name, file=case.mask, hint=npy.WRITE_AGAIN)
    return image.shape


def _preprocessed(folder: pathlib.Path, manifest: Mapping[str, Any]) -> Dataset:
    if not manifest["finished"]:
        problem = "holds arrays whose preprocessing was not finished"
        if manifest.get("missing"):
            hint = "Run jaxbrats preprocess with --shard for each of these, or once without to make all that is missing"
            raise InputError(f"{problem}: missing {_shards(manifest)}", file=folder, hint=hint)
        raise InputError(problem, file=folder, hint=_PREPROCESS_AGAIN)
    records = manifest["cases"]
    cases = [
        ArrayCase(
            name=name,
            patient=str(record.get("patient", name)),
            image=manifests.image_path(folder, name),
            mask=manifests.mask_path(folder, name),
            record=record,
        )
        for name, record in records.items()
        if record["status"] == manifests.KEPT
    ]
    if not cases:
        counts = collections.Counter(record["status"] for record in records.values())
        found = ", ".join(f"{count} {status}" for status, count in counts.items()) or "no case at all"
        hint = "Preprocess more cases, or lower --min_tumour"
        raise InputError(f"holds no case to train on ({found})", file=folder, hint=hint)
    present = {path for kind in ("images", "masks") for path in _array_files(folder / kind)}
    for case in cases:
        for path in (case.image, case.mask):
            if path not in present:
                raise InputError("is missing", case=case.name, file=path, hint=_PREPROCESS_AGAIN)
    return Dataset(
        folder,
        _sorted(cases),
        Preprocessing.from_dict(manifest["settings"]),
        Frame.from_dict(manifest["frame"]) if manifest.get("frame") else None,
        folder / manifest["raw"],
        tuple(str(record["reason"]) for record in records.values() if record["status"] == manifests.FAILED),
    )


def _sorted(cases: Iterable[ArrayCase]) -> tuple[ArrayCase, ...]:
    return tuple(sorted(cases, key=lambda case: natural_key(case.name)))


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
