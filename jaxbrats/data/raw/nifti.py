"""NIfTI volumes in and out: images, segmentations and their geometry.

Every fault of a file becomes one `InputError` that names case and file.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import nibabel as nib
import numpy as np

from jaxbrats.data import labels as conventions
from jaxbrats.data.raw.cases import VolumeFile
from jaxbrats.data.raw.voxels import read_voxels
from jaxbrats.system import files
from jaxbrats.system.errors import InputError

AFFINE_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where the voxels of a file lie: its shape (X, Y, Z) and its affine (4, 4), voxel index to millimetres."""

    path: pathlib.Path
    shape: tuple[int, ...]
    affine: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Volume:
    """One modality as read from its file.

    Attributes:
        data: Voxel values (X, Y, Z), scaled as the header says.
        affine: (4, 4), from voxel index to millimetres.
        header: The file's header; `write_labels` takes it as its model.
        path: The file.
        minimum: Least voxel value.
        maximum: Greatest voxel value, above `minimum`.
    """

    data: np.ndarray
    affine: np.ndarray
    header: nib.Nifti1Header
    path: pathlib.Path
    minimum: float
    maximum: float

    @property
    def grid(self) -> Grid:
        """Shape and affine, for `check_geometry`."""
        return Grid(self.path, self.data.shape, self.affine)


def read_channels(path: pathlib.Path, channels: Sequence[int | None], case: str) -> Iterator[Volume]:
    """Reads several channels of one file, decompressing it once and holding one channel at a time.

    Args:
        path: The file.
        channels: Ascending channels of a 4-D file, or (None,) for a file of one volume.
        case: Name for error messages.

    Yields:
        One volume for each channel, in the number type of the file (float32 where the header scales).

    Raises:
        InputError: the file is unreadable or damaged, not a volume of real numbers, larger than it can be, holds NaN or
            infinite voxels, or has the same value everywhere. Damage behind a channel is found only after it was
            yielded, so use what was read only when the iteration has ended.
    """
    for data, header in read_voxels(path, channels, case):
        minimum, maximum = _check_values(data, path, case)
        yield Volume(data, header.get_best_affine(), header, path, minimum, maximum)


def read_labels(file: VolumeFile, case: str, label_map: Mapping[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Reads a segmentation and maps it to the project's labels.

    Args:
        file: The file, and the channel of it where it is 4-D.
        case: Name for error messages.
        label_map: From each label the file may hold to the project's label.

    Returns:
        uint8 labels (X, Y, Z), and the affine (4, 4).

    Raises:
        InputError: the file is unreadable, not 3-D, or holds a value that `label_map` does not.
    """
    ((data, header),) = read_voxels(file.path, (file.channel,), case)
    flat = data.ravel("K")
    if flat.dtype.kind == "f" and not np.array_equal(np.rint(flat), flat):
        odd = flat[np.rint(flat) != flat]
        raise InputError(
            f"expected labels, found {odd.size} voxels whose values are not whole numbers, such as {odd[0]:g}",
            case=case,
            file=file.path,
            hint="Resample segmentations with nearest neighbour",
        )
    in_bytes = flat.min() >= 0 and flat.max() <= 255
    mapped = flat.astype(np.uint8, copy=False) if in_bytes else None
    if mapped is None or sum(np.count_nonzero(mapped == label) for label in label_map) != mapped.size:
        found = np.unique(flat)
        shown = ", ".join(f"{value:g}" for value in found[:12]) + (", ..." if found.size > 12 else "")
        raise InputError(
            f"expected the labels {', '.join(map(str, sorted(label_map)))}, found {shown}",
            case=case,
            file=file.path,
            hint=_hint_for_labels(set(found.tolist()), label_map),
        )
    # All masks before any change: a map may swap two labels.
    moved = [(mapped == old, new) for old, new in label_map.items() if old != new]
    for mask, new in moved:
        np.copyto(mapped, new, where=mask)
    return mapped.reshape(data.shape, order="F"), header.get_best_affine()


def _hint_for_labels(found: set[float], label_map: Mapping[int, int]) -> str:
    if label_map == conventions.BRATS_2023 and found <= conventions.BRATS_2021.keys():
        enhancing = "Write the enhancing tumour as 3, or name the files as BraTS 2018 to 2021 does, where it is 4"
        return f"{enhancing}; but where 4 is the resection cavity of BraTS 2024, leave the case out"
    if label_map == conventions.BRATS_2023 and found <= conventions.BRATS_2023.keys() | {4}:
        return "4 is the resection cavity of BraTS 2024, which is no label here: leave the case out"
    if label_map == conventions.BRATS_2021 and found <= conventions.BRATS_2023.keys():
        return "Write the enhancing tumour as 4, or name the files as BraTS 2023 does, where it is 3"
    return "Is this the segmentation, and in the convention of the file names?"


def check_geometry(
    case: str, first: Grid, second: Grid, hint: str = "Resample all files of the case to one grid"
) -> None:
    """Checks that two volumes of a case lie on the same voxels: same shape, same affine to `AFFINE_TOLERANCE`.

    Raises:
        InputError: they don't; it names both files and both values, and says by `hint` what to do.
    """
    if first.shape != second.shape:
        sizes = ["x".join(map(str, grid.shape)) for grid in (first, second)]
        problem = f"has {sizes[1]} voxels, but {first.path} has {sizes[0]}"
        raise InputError(problem, case=case, file=second.path, hint=hint)
    if not np.allclose(first.affine, second.affine, rtol=0, atol=AFFINE_TOLERANCE):
        rows = ["; ".join(" ".join(f"{x:g}" for x in row) for row in grid.affine[:3]) for grid in (first, second)]
        problem = f"has the affine [{rows[1]}], but {first.path} has [{rows[0]}]"
        raise InputError(problem, case=case, file=second.path, hint=hint)


def write_labels(
    path: str | pathlib.Path, labels: np.ndarray, like: nib.Nifti1Header, convention: str = "2023"
) -> None:
    """Writes a segmentation as uint8 NIfTI on the grid of an input file.

    Affines with their codes, voxel sizes and units are those of `like`; scaling, intent and display range, which spoke
    of its voxel values, are cleared.

    Args:
        path: Ends with .nii or .nii.gz.
        labels: Project labels (X, Y, Z).
        like: Header of an input file, as `Volume.header`.
        convention: '2023' writes the enhancing tumour as 3, '2021' as 4.

    Raises:
        ValueError: the labels are not on that grid, or not project labels.
    """
    if labels.shape != like.get_data_shape()[:3]:
        raise ValueError(f"labels of shape {labels.shape} for a header of shape {like.get_data_shape()}")
    if labels.min() < 0 or labels.max() >= conventions.NUM_CLASSES:
        raise ValueError(f"labels from {labels.min()} to {labels.max()}, expected 0 to {conventions.NUM_CLASSES - 1}")
    in_file = {"2023": conventions.BRATS_2023, "2021": conventions.BRATS_2021}[convention]
    voxels = labels.astype(np.uint8)
    voxels[labels == conventions.ET] = next(old for old, new in in_file.items() if new == conventions.ET)
    _save(path, voxels, like)


def write_map(path: str | pathlib.Path, values: np.ndarray, like: nib.Nifti1Header) -> None:
    """Writes a map of numbers as float32 NIfTI on the grid of an input file, as `write_labels` does.

    Args:
        path: Ends with .nii or .nii.gz.
        values: (X, Y, Z), or (X, Y, Z, K) for K maps.
        like: Header of an input file, as `Volume.header`.

    Raises:
        ValueError: the values are not on that grid.
    """
    if values.shape[:3] != like.get_data_shape()[:3]:
        raise ValueError(f"values of shape {values.shape} for a header of shape {like.get_data_shape()}")
    _save(path, values.astype(np.float32, copy=False), like)


def _save(path: str | pathlib.Path, voxels: np.ndarray, like: nib.Nifti1Header) -> None:
    """Writes voxels with the geometry of `like`, and with none of what it says of its own voxels' values."""
    header = like.copy()
    header.extensions.clear()
    header.set_data_dtype(voxels.dtype)
    header.set_slope_inter(1, 0)
    header.set_intent("none")
    header["cal_min"] = header["cal_max"] = 0
    image_class = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    # Without an affine, nibabel leaves sform, qform and their codes as they are in the header.
    image = image_class(voxels, None, header)
    with files.replacing(path) as temporary:
        nib.save(image, temporary)


def _check_values(data: np.ndarray, path: pathlib.Path, case: str) -> tuple[float, float]:
    """Minimum and maximum of an image; NaN and infinity show in them, so that no pass is spent on looking for them."""
    minimum, maximum = float(data.min()), float(data.max())
    largest = float(np.finfo(np.float32).max)
    if not (-largest <= minimum and maximum <= largest):
        with np.errstate(over="ignore"):
            bad = np.count_nonzero(~np.isfinite(data.astype(np.float32)))
        problem = f"{bad} of {data.size} voxels are NaN, infinite or beyond 32-bit floats"
        raise InputError(problem, case=case, file=path, hint="Make the file again from its source")
    if minimum == maximum:
        problem = f"every voxel has the value {minimum:g}, expected an image"
        raise InputError(problem, case=case, file=path, hint="Export it again")
    return minimum, maximum
