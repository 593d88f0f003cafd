"""One case from its files to the arrays that a network sees: normalised, cropped, stacked.

Training and prediction go through the same steps, so that a new patient is treated as the cases trained on. (Where a
case is resampled, a prediction resamples the brain's box alone, whose size is rounded to whole voxels by itself.) All
arrays of a cohort are in one frame (orientation and spacing); only cases in another are turned and resampled.
Statistics are of whole volumes; only the box that becomes the array is ever converted to floats, because it is a
quarter of the voxels of a BraTS volume.
"""

import dataclasses
import math
import operator
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np

from jaxbrats.config import Data
from jaxbrats.config.data import Crop
from jaxbrats.data.array_box import BRAIN, array_box, brain_region
from jaxbrats.data.boxes import CropBox, crop
from jaxbrats.data.labels import BACKGROUND, DEFAULT_MODALITIES, MODALITIES, NUM_CLASSES, most_covered
from jaxbrats.data.normalization import NORMALIZATIONS, statistics_of
from jaxbrats.data.raw.alignment import Alignment
from jaxbrats.data.raw.cases import Case, missing_modalities
from jaxbrats.data.raw.geometry import Frame, reorient, reoriented_affine, resample
from jaxbrats.data.raw.nifti import Grid, Volume, check_geometry, read_channels, read_labels
from jaxbrats.system.errors import InputError

NO_SEGMENTATION = "no segmentation"


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Everything that decides what the arrays hold.

    Attributes:
        modalities: Channels, in order.
        crop: Size (X, Y, Z) in voxels of the arrays, cut out about the centre of the volume; 'brain' for the bounding
            box of the brain, see `array_box`.
        normalization: 'minmax' maps each whole volume to [0, 1]; 'zscore' gives its brain voxels, those that are not
            zero, mean 0 and standard deviation 1, and leaves the others 0.
        min_tumour: Least share of tumour voxels in the crop for a case to be used in training.
        spacing: Size in mm of the arrays' voxels along each axis; None for that of most cases.
        incomplete: Whether cases that lack some of the modalities are taken too; a missing channel is all zeros.
        soft_labels: Whether the masks hold what part of each voxel every label covers, rather than one label.

    Raises:
        InputError: a value is not one of these.
    """

    modalities: tuple[str, ...] = DEFAULT_MODALITIES
    crop: Crop = (128, 128, 128)
    normalization: str = "minmax"
    min_tumour: float = 0.01
    spacing: tuple[float, float, float] | None = None
    incomplete: bool = False
    soft_labels: bool = False

    def __post_init__(self) -> None:
        modalities = tuple(self.modalities)
        if not modalities or len(set(modalities)) < len(modalities) or not set(modalities) <= set(MODALITIES):
            raise InputError(f"modalities: expected some of {', '.join(MODALITIES)}, found {', '.join(modalities)}")
        try:
            crop = self.crop if isinstance(self.crop, str) else tuple(operator.index(size) for size in self.crop)
        except TypeError:
            crop = ()
        if crop != BRAIN and (isinstance(crop, str) or len(crop) != 3 or min(crop) < 1):
            raise InputError(f"crop: expected three sizes in voxels such as 128,128,128, or brain, found {self.crop}")
        if self.normalization not in NORMALIZATIONS:
            raise InputError(f"normalization: expected {' or '.join(NORMALIZATIONS)}, found {self.normalization}")
        if not isinstance(self.min_tumour, int | float) or not 0 <= self.min_tumour <= 1:
            raise InputError(f"min_tumour: expected a share from 0 to 1 (0.01 is 1 %), found {self.min_tumour}")
        if self.spacing is not None:
            try:
                spacing = tuple(float(size) for size in self.spacing)
            except (TypeError, ValueError):
                spacing = ()
            if len(spacing) != 3 or not all(0 < size < math.inf for size in spacing):
                raise InputError(f"spacing: expected three sizes in mm such as 1,1,1, found {self.spacing}")
            object.__setattr__(self, "spacing", spacing)
        for name in ("incomplete", "soft_labels"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name}: expected true or false, found {getattr(self, name)}")
        object.__setattr__(self, "modalities", modalities)
        object.__setattr__(self, "crop", crop)
        object.__setattr__(self, "min_tumour", float(self.min_tumour))

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def of_images(self) -> dict[str, Any]:
        """What of `to_dict` decides the images: neither which cases are kept nor the form of their labels."""
        others = ("min_tumour", "incomplete", "soft_labels")
        return {name: value for name, value in self.to_dict().items() if name not in others}

    def refusal(self, case: Case) -> InputError | None:
        """The error where a case lacks a modality, or may be incomplete and has none at all; else None."""
        return missing_modalities(case, self.modalities, self.incomplete)

    def present(self, case: Case) -> tuple[str, ...]:
        """The modalities that a case has, in the order of the channels.

        Raises:
            InputError: see `refusal`.
        """
        if problem := self.refusal(case):
            raise problem
        return tuple(modality for modality in self.modalities if modality in case.modalities)

    @classmethod
    def of(cls, data: Data) -> "Preprocessing":
        """What the settings of a run ask for."""
        return cls(**{field.name: getattr(data, field.name) for field in dataclasses.fields(cls)})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """From what `to_dict` gave.

        Raises:
            InputError: a key is missing or unknown, or a value is not allowed.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        # Arrays that are older than a setting were made as its default says.
        given = {"incomplete": False, "soft_labels": False, **values} if isinstance(values, Mapping) else {}
        if given.keys() != names:
            raise InputError(
                f"expected preprocessing settings with the keys {', '.join(sorted(names))}, found {values}"
            )
        return cls(**given)


def preprocess_images(
    case: Case,
    settings: Preprocessing,
    orientation: str | None = None,
    choose_box: Callable[[Sequence[Volume]], CropBox] | None = None,
) -> tuple[np.ndarray, CropBox, nib.Nifti1Header]:
    """Reads, normalises, crops and stacks the modalities of a case.

    Args:
        case: Whose files.
        settings: What the image holds. Channels of modalities that are missing are 0 everywhere, as modality dropout
            leaves them in training.
        orientation: What the volumes are turned to, such as 'LPS'; None leaves them in their files' voxel order.
        choose_box: From the turned modalities to what is wanted of them; None takes what training does.

    Returns:
        The image (X, Y, Z, C) float32; the box of the turned volume that it is; and the header of the first modality
        that is there, whose `get_best_affine()` is the affine, as the model for a segmentation to write.

    Raises:
        InputError: a modality is not there that must be, a file cannot be used (see `nifti.read_channels`), or the
            modalities do not lie on the same voxels.
    """
    present = settings.present(case)
    volumes = dict(_read_modalities(case, present, None))
    header = volumes[present[0]].header
    if orientation is not None:
        volumes = {modality: _turned(volume, orientation) for modality, volume in volumes.items()}
    turned = list(volumes.values())
    box = choose_box(turned) if choose_box else _training_box(turned, settings.crop)
    image, _ = _stack(case, settings, volumes.items(), box)
    return image, box, header


def preprocess_case(
    case: Case, settings: Preprocessing, frame: Frame | None = None
) -> tuple[np.ndarray | None, np.ndarray | None, dict[str, Any]]:
    """Makes the arrays that a case is trained on.

    Args:
        case: Whose files.
        settings: What the arrays hold.
        frame: What the volumes are turned and resampled to; None leaves them on their files' voxels.

    Returns:
        The image (X, Y, Z, C) float32; the labels uint8, (X, Y, Z) or soft (X, Y, Z, 3); and the case's entry for the
        manifest: status, reason, what `Alignment.to_record` gives, crop_origin, normalization, tumour_fraction,
        label_voxels in the crop, label_voxels_outside of tumour outside it. A case that is skipped has None for both
        arrays and no normalization, because its images are not read.

    Raises:
        InputError: as `preprocess_images`, or the segmentation cannot be used (see `nifti.read_labels`).
    """
    if case.labels is None:
        return None, None, {"status": "skipped", "reason": NO_SEGMENTATION}
    whole_labels, affine = read_labels(case.labels, case.name, case.label_map)
    grid = Grid(case.labels.path, whole_labels.shape, affine)
    alignment = align(grid, frame, case.name)
    volumes = _read_modalities(case, settings.present(case), grid)
    if alignment.turns:
        volumes = ((modality, _turned(volume, alignment.orientation)) for modality, volume in volumes)
    turned, brain = alignment.turned_shape, None
    if settings.crop == BRAIN:
        volumes = list(volumes)
        brain = brain_region(volume.data for _, volume in volumes)
    box = array_box(settings.crop, alignment.shape, brain, turned)
    labels, record = crop_labels(whole_labels, grid, alignment, box, settings, case.name)
    del whole_labels
    if record["status"] == "skipped":
        return None, None, record
    if alignment.shape == turned:
        image, statistics = _stack(case, settings, volumes, box)
    else:
        image, statistics = _stack(case, settings, volumes, CropBox((0, 0, 0), turned, turned))
        image = _resampled_crop(image, box, case)
    return image, labels, record | {"normalization": statistics}


def align(grid: Grid, frame: Frame | None, case: str) -> Alignment:
    """How a segmentation's grid is brought to a frame; None leaves it as it is.

    Raises:
        InputError: it cannot be; names case and file.
    """
    try:
        return Alignment.to(frame, grid.shape, grid.affine)
    except InputError as error:
        raise InputError(error.problem, case=case, file=grid.path, hint=error.hint) from error


def crop_labels(
    whole_labels: np.ndarray, grid: Grid, alignment: Alignment, box: CropBox, settings: Preprocessing, case: str
) -> tuple[np.ndarray, dict[str, Any]]:
    """Cuts the array's box out of a segmentation and decides by its tumour whether the case is kept.

    Args:
        whole_labels: `(X, Y, Z)`, on `grid`.
        grid: Its shape and affine.
        alignment: How it is turned and resampled first.
        box: What of it becomes the array.
        settings: What the arrays hold.
        case: Name for error messages.

    Returns:
        The labels of the box, soft where the settings say so, and the record as `preprocess_case` returns it, without
        the normalization.

    Raises:
        InputError: the resampled volume does not fit in memory.
    """
    try:
        whole = alignment.soft_labels(whole_labels) if settings.soft_labels else alignment.labels(whole_labels)
        labels = array = crop(whole, box)
        if settings.soft_labels:
            labels, whole = most_covered(array), most_covered(whole)
    except MemoryError as error:
        raise _too_large(alignment.shape, case, grid.path) from error
    counts = [int(np.count_nonzero(labels == label)) for label in range(NUM_CLASSES)]
    everywhere = np.bincount(whole[whole != BACKGROUND], minlength=NUM_CLASSES).tolist()
    outside = [everywhere[label] - counts[label] if label != BACKGROUND else 0 for label in range(NUM_CLASSES)]
    tumour = (labels.size - counts[BACKGROUND]) / labels.size
    record = {
        "status": "kept",
        "reason": "",
        **alignment.to_record(),
        "crop_origin": list(box.origin),
        "tumour_fraction": tumour,
        "label_voxels": counts,
        "label_voxels_outside": outside,
    }
    if tumour < settings.min_tumour:
        reason = f"{tumour:.3%} tumour voxels in the crop, expected at least {settings.min_tumour:.3%}"
        record |= {"status": "skipped", "reason": reason}
    return array, record


def _training_box(turned: Sequence[Volume], crop: Crop) -> CropBox:
    shape = turned[0].data.shape
    return array_box(crop, shape, brain_region(volume.data for volume in turned) if crop == BRAIN else None, shape)


def _resampled_crop(image: np.ndarray, box: CropBox, case: Case) -> np.ndarray:
    try:
        return crop(resample(image, box.volume), box)
    except MemoryError as error:
        raise _too_large(box.volume, case.name, None) from error


def _too_large(shape: tuple[int, int, int], case: str, file: pathlib.Path | None) -> InputError:
    problem = f"resampled to {'x'.join(map(str, shape))} voxels it does not fit in memory"
    return InputError(problem, case=case, file=file, hint="Choose a larger --spacing or fewer --workers")


def _read_modalities(case: Case, names: Sequence[str], grid: Grid | None) -> Iterator[tuple[str, Volume]]:
    """Reads the modalities one at a time, in the order of the files, and checks them against `grid` or the first."""
    for path, modalities in case.files(names).items():
        channels = [case.modalities[modality].channel for modality in modalities]
        for modality, volume in zip(modalities, read_channels(path, channels, case.name), strict=True):
            grid = grid or volume.grid
            check_geometry(case.name, grid, volume.grid)
            yield modality, volume


def _turned(volume: Volume, orientation: str) -> Volume:
    return dataclasses.replace(
        volume,
        data=reorient(volume.data, volume.affine, orientation),
        affine=reoriented_affine(volume.affine, volume.data.shape, orientation),
    )


def _stack(
    case: Case, settings: Preprocessing, volumes: Iterable[tuple[str, Volume]], box: CropBox
) -> tuple[np.ndarray, dict[str, dict[str, float]]]:
    """The normalised box `(X, Y, Z, C)` of volumes as they come, and the statistics of each modality."""
    image, statistics = _zeros((*box.size, len(settings.modalities)), case), {}
    for modality, volume in volumes:
        out = image[..., settings.modalities.index(modality)]
        statistics[modality] = _normalise(volume, settings.normalization, box, out, case)
    return image, {name: statistics[name] for name in settings.modalities if name in statistics}


def _normalise(volume: Volume, normalization: str, box: CropBox, out: np.ndarray, case: Case) -> dict[str, float]:
    """Writes the normalised crop of a volume to `out` (X, Y, Z), zeros before; returns the volume's statistics."""
    # C order first, in the file's small numbers: crossing from the file's Fortran order in float32 takes twice as long.
    values = np.ascontiguousarray(volume.data[box.in_volume])
    inside = out[box.in_box]
    # float32 has 24 bits: enough for 16-bit integers and their differences, not for wider numbers far from zero.
    working = np.float32 if values.dtype.itemsize <= 2 else np.float64
    offset, scale, statistics = statistics_of(volume, normalization, case.name)
    normalised = np.subtract(values, offset, dtype=working)
    np.divide(normalised, working(scale), out=inside, casting="same_kind")
    if normalization == "zscore":
        np.copyto(inside, 0, where=values == 0)
    return statistics


def _zeros(shape: tuple[int, ...], case: Case) -> np.ndarray:
    try:
        return np.zeros(shape, np.float32)
    except (MemoryError, ValueError) as error:
        size = math.prod(shape) * 4 / 2**30
        problem = f"a crop of {'x'.join(map(str, shape))} needs {size:.1f} GiB"
        raise InputError(problem, case=case.name, hint="Choose a smaller --crop or fewer --workers") from error
