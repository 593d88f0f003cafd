"""Everything wrong with one case, read as preprocessing reads it but without stopping at the first fault."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from jaxbrats.data.array_box import BRAIN, Region, array_box, brain_region
from jaxbrats.data.check.findings import Finding, warning
from jaxbrats.data.check.image import FileFacts, doubts, facts_of
from jaxbrats.data.labels import BACKGROUND, LABEL_NAMES, MODALITIES
from jaxbrats.data.manifest import FAILED, KEPT, SKIPPED
from jaxbrats.data.normalization import statistics_of
from jaxbrats.data.preprocessing import NO_SEGMENTATION, Preprocessing, align, crop_labels
from jaxbrats.data.raw.cases import Case
from jaxbrats.data.raw.geometry import Frame
from jaxbrats.data.raw.nifti import Grid, Volume, check_geometry, read_channels, read_labels
from jaxbrats.system.errors import InputError

# Segmentations reach a little beyond a brain that was cut out tightly; one that lies elsewhere is of another volume.
_MOST_OUTSIDE = 0.02


@dataclasses.dataclass(frozen=True)
class CaseReport:
    """What was found in a case.

    Attributes:
        name: The case.
        patient: Its patient.
        layout: The layout its files are in; empty where it is not known.
        status: What preprocessing makes of it: 'kept', 'skipped' or 'failed'.
        parts: Which of t1n, t1c, t2w, t2f, seg it has.
        files: What each of them holds; those that can be read.
        labels: Name of each label -> its voxels in the whole volume; empty without a readable segmentation.
        findings: What is wrong.
        array_shape: Size (X, Y, Z) of the array that it becomes; None where nothing says so.
        tumour_fraction: Share of tumour voxels in it.
    """

    name: str
    patient: str
    layout: str
    status: str
    parts: tuple[str, ...]
    files: dict[str, FileFacts]
    labels: dict[str, int]
    findings: list[Finding]
    array_shape: tuple[int, int, int] | None = None
    tumour_fraction: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "patient": self.patient,
            "layout": self.layout,
            "status": self.status,
            "parts": list(self.parts),
            "files": {part: facts.to_dict() for part, facts in self.files.items()},
            "labels": self.labels,
            "array_shape": None if self.array_shape is None else list(self.array_shape),
            "tumour_fraction": self.tumour_fraction,
            "findings": [finding.to_dict() for finding in self.findings],
        }


def check_case(settings: Preprocessing, frame: Frame | None, case: Case) -> CaseReport:
    """Reads every file of a case and says what is wrong with it.

    Holds the segmentation and one image at a time; both together where the crop is the brain's box.

    Args:
        settings: Of the preprocessing that is asked after.
        frame: Of its arrays.
        case: Whose files. Modalities that `settings` does not name are read as well; what is wrong with them, or with
            the images of a case that is skipped, stops nothing and is a warning.
    """
    inspection = _Inspection(settings, frame, case)
    missing = settings.refusal(case)
    if missing is not None:
        inspection.fault("files", missing)
    inspection.segmentation()
    # What is used first and apart: what is wrong with the rest of a 4-D file stops nothing.
    for used in (True, False):
        names = [modality for modality in case.modalities if (modality in settings.modalities) == used]
        for path, modalities in case.files(names).items():
            inspection.images(path, modalities, used)
    return inspection.report()


class _Inspection:
    """Collects what the files of a case tell, one after the other."""

    def __init__(self, settings: Preprocessing, frame: Frame | None, case: Case) -> None:
        self._settings, self._frame, self._case = settings, frame, case
        self._files: dict[str, FileFacts] = {}
        self._findings: list[Finding] = []
        self._status = KEPT
        self._grid: Grid | None = None
        self._labels: dict[str, int] = {}
        self._array: tuple[tuple[int, int, int], float] | None = None  # its size, and how much of it is tumour
        # Of a segmentation: places of the tumour's voxels in the order of the file, and which of them no image shows.
        self._tumour: np.ndarray | None = None
        self._outside: np.ndarray | None = None
        # For a crop of the brain: the segmentation, until all images have said where that lies in the turned volume.
        self._waiting: np.ndarray | None = None
        self._brain: Region | None = None

    def fault(self, kind: str, error: InputError, used: bool = True) -> None:
        """Takes what preprocessing would refuse; `used` says whether it reads that far."""
        stops = used and self._status != SKIPPED
        self._findings.append(Finding(kind, stops, error))
        if stops:
            self._status = FAILED

    def segmentation(self) -> None:
        """Reads the segmentation, which decides whether preprocessing skips the case."""
        case = self._case
        if case.labels is None:
            folder = next(iter(case.modalities.values())).path.parent
            self._skip(NO_SEGMENTATION, folder, "Add one to train on the case; predict needs none")
            return
        try:
            labels, affine = read_labels(case.labels, case.name, case.label_map)
        except InputError as error:
            self.fault("segmentation", error)
            return
        self._grid = Grid(case.labels.path, labels.shape, affine)
        flat = labels.ravel("K")
        counts = np.bincount(flat, minlength=len(LABEL_NAMES)).tolist()
        self._labels = dict(zip(LABEL_NAMES, counts, strict=True))
        self._files["seg"] = facts_of(self._grid, labels, None, int(flat.min()), int(flat.max()))
        try:
            self._alignment = align(self._grid, self._frame, case.name)
        except InputError as error:
            self.fault("segmentation", error)
            return
        if self._settings.crop == BRAIN:
            self._waiting = labels
        elif not self._fits(labels):
            return
        if flat.size == counts[BACKGROUND]:
            hint = "Right for a patient without tumour; else export it again"
            self._warn("tumour", "holds no tumour: every label is 0", file=case.labels.path, hint=hint)
        else:
            self._tumour = np.flatnonzero(flat)
            self._outside = np.ones(self._tumour.shape, bool)

    def _fits(self, labels: np.ndarray) -> bool:
        """Whether the segmentation can be brought to the frame; skips the case where too little of it is tumour."""
        alignment, settings = self._alignment, self._settings
        box = array_box(settings.crop, alignment.shape, self._brain, alignment.turned_shape)
        try:
            _, record = crop_labels(labels, self._grid, alignment, box, settings, self._case.name)
        except InputError as error:
            self.fault("segmentation", error)
            return False
        self._array = box.size, record["tumour_fraction"]
        if record["status"] == SKIPPED:
            hint = "To train on it, lower --min_tumour or choose a --crop that fits the tumour"
            self._skip(record["reason"], self._case.labels.path, hint)
        return True

    def images(self, path: pathlib.Path, modalities: list[str], used: bool) -> None:
        """Reads modalities of one file, in the order of its channels."""
        channels = [self._case.modalities[modality].channel for modality in modalities]
        volumes = read_channels(path, channels, self._case.name)
        try:
            for modality, volume in zip(modalities, volumes, strict=True):
                self._image(modality, volume, used)
        except InputError as error:
            self.fault("image", error, used)

    def _image(self, modality: str, volume: Volume, used: bool) -> None:
        dtype = str(volume.header.get_data_dtype().newbyteorder("="))
        self._files[modality] = facts_of(volume.grid, volume.data, dtype, volume.minimum, volume.maximum)
        self._findings += doubts(volume, self._case.name, self._settings.normalization)
        self._grid = self._grid or volume.grid
        try:
            check_geometry(self._case.name, self._grid, volume.grid)
        except InputError as error:
            self.fault("voxels", error, used)
        else:
            if used and self._waiting is not None:
                self._add_to_brain(brain_region([self._alignment.turn(volume.data)]))
            if self._tumour is not None:
                self._outside &= volume.data.ravel("K")[self._tumour] == 0
        statistics_of(volume, self._settings.normalization, self._case.name)

    def _add_to_brain(self, region: Region) -> None:
        both = zip(self._brain or region, region, strict=True)
        self._brain = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in both)

    def report(self) -> CaseReport:
        """What was collected."""
        case = self._case
        if self._waiting is not None and self._brain is not None:
            self._fits(self._waiting)
        images = self._files.keys() - {"seg"}
        if images and self._tumour is not None and (share := self._outside.mean()) > _MOST_OUTSIDE:
            problem = f"{share:.0%} of its tumour lies where every image is 0, outside the brain"
            self._warn("tumour", problem, file=case.labels.path, hint="Is it of this patient, and on the same voxels?")
        parts = tuple(part for part in MODALITIES if part in case.modalities) + ("seg",) * (case.labels is not None)
        files = {part: self._files[part] for part in parts if part in self._files}
        about = (case.name, case.patient, case.layout, self._status, parts, files, self._labels, self._findings)
        return CaseReport(*about, *(self._array or ()))

    def _skip(self, reason: str, file: pathlib.Path, hint: str) -> None:
        if self._status == KEPT:
            self._status = SKIPPED
        self._warn("skipped", reason, file=file, hint=hint)

    def _warn(self, kind: str, problem: str, **about: Any) -> None:
        self._findings.append(warning(kind, problem, case=self._case.name, **about))
