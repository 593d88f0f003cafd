"""What a plan asks of a cohort: modalities, voxel sizes, brains, tumours."""

import collections
import dataclasses
import math
import pathlib
import statistics

from jaxbrats.data.array_box import BRAIN
from jaxbrats.data.check.cohort import check_cohort
from jaxbrats.data.labels import DEFAULT_MODALITIES, MODALITIES
from jaxbrats.data.manifest import KEPT
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.data.raw.alignment import cohort_frame
from jaxbrats.data.raw.cases import Case, find_cases
from jaxbrats.data.raw.geometry import Frame
from jaxbrats.system.errors import InputError

Size = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Facts:
    """What was measured of a cohort.

    Attributes:
        raw_dir: Its folder.
        found: Cases there.
        modalities: Those that every case to train on has, the default's first.
        lacking: Each other modality -> how many of these cases are without it.
        frame: Orientation that most of them have, and the median spacing of these.
        spacings: Least and greatest voxel size in mm along each axis, of the files in that orientation.
        boxes: Size (X, Y, Z) in voxels of the box of the brain of each case that can be used, in that frame.
        tumours: Share of tumour voxels in each of these boxes.
    """

    raw_dir: pathlib.Path
    found: int
    modalities: tuple[str, ...]
    lacking: dict[str, int]
    frame: Frame
    spacings: tuple[tuple[float, float], ...]
    boxes: tuple[Size, ...]
    tumours: tuple[float, ...]

    @property
    def box(self) -> Size:
        """The median along each axis, rounded up."""
        x, y, z = (math.ceil(statistics.median(sizes)) for sizes in zip(*self.boxes, strict=True))
        return x, y, z


def measure(raw_dir: pathlib.Path, workers: int | None = None) -> Facts:
    """Reads every file of a cohort.

    Args:
        raw_dir: Folder in any layout of `find_cases`.
        workers: Processes; 0 and 1 work in this one, None takes one a CPU.

    Raises:
        InputError: no case is found, the cases have no modality in common, or none can be used.
    """
    labelled = [case for case in find_cases(raw_dir).cases if case.labels is not None]
    modalities, lacking = _shared_modalities(labelled)
    frame = cohort_frame(labelled, None)
    if not modalities or frame is None:
        what = "no segmentation that can be read" if frame is None else "no modality that all cases have"
        raise _nothing_to_plan_for(raw_dir, what)
    # Nothing is left out for a small tumour; how many that would be is a fact like the others.
    settings = Preprocessing(modalities, BRAIN, min_tumour=0.0, spacing=frame.spacing_mm)
    cases = check_cohort(raw_dir, settings, workers).cases
    usable = [case for case in cases if case.status == KEPT and case.array_shape is not None]
    if not usable:
        raise _nothing_to_plan_for(raw_dir, f"no case to train on among its {len(cases)}")
    frames = [case.files["seg"].frame for case in usable]
    sizes = [other.spacing_mm for other in frames if other.orientation == frame.orientation] or [frame.spacing_mm]
    return Facts(
        raw_dir,
        len(cases),
        modalities,
        lacking,
        frame,
        tuple((min(axis), max(axis)) for axis in zip(*sizes, strict=True)),
        tuple(case.array_shape for case in usable),
        tuple(case.tumour_fraction for case in usable),
    )


def _shared_modalities(cases: list[Case]) -> tuple[tuple[str, ...], dict[str, int]]:
    counts = collections.Counter(modality for case in cases for modality in case.modalities)
    order = [*DEFAULT_MODALITIES, *(name for name in MODALITIES if name not in DEFAULT_MODALITIES)]
    shared = tuple(name for name in order if cases and counts[name] == len(cases))
    return shared, {name: len(cases) - counts[name] for name in order if name not in shared}


def _nothing_to_plan_for(raw_dir: pathlib.Path, found: str) -> InputError:
    problem = f"expected cases with images and a segmentation, found {found}"
    return InputError(problem, file=raw_dir, hint=f"jaxbrats check --raw={raw_dir} says what is wrong with each")
