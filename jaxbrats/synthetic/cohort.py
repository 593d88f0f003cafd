"""A cohort of synthetic glioma patients on disk, in the form of BraTS 2023.

Case `i` of a cohort depends on the seed, the shape and `i`, not on how many cases there are or who makes them: the same
command writes the same bytes. Every sixth scan is a second time point of the patient before it, the tumour grown in the
same head, so that splitting by scan instead of by patient would show.

The files are what BraTS has (https://www.synapse.org/brats2023): int16, skull-stripped with a background of exactly 0,
orientation LPS, origin at the volume's corner. 240x240x155 voxels measure 1 mm; smaller volumes hold the same head in
larger voxels (`phantom.Grid`). The header's description says that a file is synthetic.
"""

import dataclasses
import functools
import gzip
import pathlib
import zlib
from collections.abc import Set

import nibabel
import numpy as np
from tqdm import tqdm

from jaxbrats.data.labels import MODALITIES
from jaxbrats.synthetic import hard, phantom
from jaxbrats.synthetic import scan as phantom_scan
from jaxbrats.synthetic import tumour as phantom_tumour
from jaxbrats.system import files, processes
from jaxbrats.system.errors import InputError

SMALLEST_SHAPE, LARGEST_SHAPE = 16, 1024
SPLIT = "split.json"
_LONGEST_STAMP = 80  # characters that NIfTI-1 has for a description
_PARTS = (*MODALITIES, "seg")
_FOLLOW_UP_EVERY = 6
# Random streams of a patient; those of the scans follow.
_OUTLINE, _PLAN, _HEAD, _TUMOUR, _SCANS = range(5)


@dataclasses.dataclass(frozen=True)
class Scan:
    """One scan of the cohort: patient and time point count from 0."""

    patient: int
    time_point: int

    @property
    def name(self) -> str:
        """As BraTS 2023 names it."""
        return f"BraTS-GLI-{self.patient:05d}-{self.time_point:03d}"

    def file_names(self) -> dict[str, str]:
        """t1n, t1c, t2w, t2f, seg -> name of the file."""
        return {part: f"{self.name}-{part}.nii.gz" for part in _PARTS}


def scan_at(index: int) -> Scan:
    """The scan at a place of the cohort: the 6th, 12th, ... are the second ones of the patient before."""
    patient = index - (index + 1) // _FOLLOW_UP_EVERY
    return Scan(patient, int(index % _FOLLOW_UP_EVERY == _FOLLOW_UP_EVERY - 1))


def draw_case(seed: int, scan: Scan, shape: tuple[int, int, int], is_hard: bool = False) -> dict[str, np.ndarray]:
    """Makes the volumes of a scan, of the usual cohort or of the hard one (`synthetic.hard`).

    Returns:
        t1n, t1c, t2w, t2f -> int16 and seg -> uint8 (labels 0 to 3), each (X, Y, Z).
    """

    def stream(number: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(scan.patient, number)))

    outline = phantom.draw_outline(phantom.Grid(shape), stream(_OUTLINE))
    plan_stream = stream(_PLAN)
    growth = float(plan_stream.uniform(1.25, 1.6)) ** scan.time_point
    aged = float(plan_stream.uniform()) if is_hard else 0.0
    plan = (hard if is_hard else phantom_tumour).plan_tumour(outline, plan_stream).grown(growth)
    head = phantom.draw_head(outline, stream(_HEAD), phantom_tumour.mass_effect(outline, plan), aged)
    tumour = phantom_tumour.draw_tumour(outline, head, plan, stream(_TUMOUR))
    scanner = hard.SCANNERS[hard.scanner_of(scan.patient)] if is_hard else phantom_scan.Scanner()
    images = phantom_scan.scan(outline, head, tumour, stream(_SCANS + scan.time_point), scanner)
    return {**images, "seg": outline.volume(tumour.labels(), np.uint8)}


def write_cohort(
    folder: str | pathlib.Path,
    cases: int,
    shape: tuple[int, int, int],
    seed: int = 0,
    workers: int | None = None,
    is_hard: bool = False,
) -> dict[str, float]:
    """Writes a cohort, `FOLDER/CASE/CASE-{t1n,t1c,t2w,t2f,seg}.nii.gz`, with a progress bar.

    Memory does not grow with the number of cases. A hard cohort (`synthetic.hard`) also has `FOLDER/split.json`, which
    trains on the patients of one scanner and validates on those of the other.

    Args:
        folder: Made if it is not there. May hold (part of) the same cohort, which is written again.
        cases: Number of scans, at least 1.
        shape: Voxels along x, y, z, each from 16 to 1024.
        seed: 0 or more.
        workers: Processes; None for one a processor.
        is_hard: Whether it is the hard cohort.

    Returns:
        Name of each case -> share of the volume that is tumour.

    Raises:
        InputError: an argument is out of range, or the folder holds anything but this cohort: then nothing is written.
            Or a worker process died.
        OSError: the folder cannot be written.
    """
    _check_arguments(cases, shape, seed, is_hard)
    folder, scans = pathlib.Path(folder), [scan_at(index) for index in range(cases)]
    _check_folder(folder, scans, _stamp(seed, shape, is_hard), {SPLIT} if is_hard else set())
    write = functools.partial(_write_scan, folder, seed, shape, is_hard)
    count = min(workers or processes.available_cpus(), cases)
    results = processes.map_in_processes(write, scans, count, name=lambda scan: scan.name)
    fractions = dict(tqdm(results, total=cases, desc="synthetic cases", unit="case", smoothing=0))
    if is_hard:
        imaged_by = {scan.name: hard.scanner_of(scan.patient) for scan in scans}
        sides = {"train": "A", "val": "B"}
        split = {side: [name for name in imaged_by if imaged_by[name] == sides[side]] for side in sides}
        files.write_json(folder / SPLIT, split)
    return {scan.name: fractions[scan] for scan in scans}


def _write_scan(folder: pathlib.Path, seed: int, shape: tuple[int, int, int], is_hard: bool, scan: Scan) -> float:
    """Returns the share of the volume that is tumour."""
    volumes = draw_case(seed, scan, shape, is_hard)
    affine, stamp = phantom.Grid(shape).affine, _stamp(seed, shape, is_hard)
    for part, name in scan.file_names().items():
        with files.replacing(folder / scan.name / name) as temporary:
            temporary.write_bytes(_nifti(volumes[part], affine, stamp))
    return float(np.count_nonzero(volumes["seg"]) / volumes["seg"].size)


def _nifti(volume: np.ndarray, affine: np.ndarray, stamp: str) -> bytes:
    image = nibabel.Nifti1Image(volume, affine)
    image.header["descrip"] = stamp
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    # Level 1 writes several times faster than the default and little larger; without a time the same bytes come out.
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)


def _stamp(seed: int, shape: tuple[int, int, int], is_hard: bool) -> str:
    kind = " --hard" if is_hard else ""
    return f"synthetic: jaxbrats synth{kind} --seed={seed} --shape={','.join(map(str, shape))}"


def _check_arguments(cases: int, shape: tuple[int, int, int], seed: int, is_hard: bool) -> None:
    if cases < 1:
        raise InputError(f"expected at least 1 case, was asked for {cases}", hint="Set --cases to 1 or more")
    if len(shape) != 3 or not all(SMALLEST_SHAPE <= count <= LARGEST_SHAPE for count in shape):
        raise InputError(
            f"expected a shape of three numbers from {SMALLEST_SHAPE} to {LARGEST_SHAPE}, found {shape}",
            hint="Set --shape=X,Y,Z, for example 96,96,80",
        )
    if not 0 <= seed < 2**63:
        raise InputError(f"expected a seed from 0 to 2^63 - 1, found {seed}", hint="Choose another --seed")
    if len(stamp := _stamp(seed, shape, is_hard)) > _LONGEST_STAMP:
        problem = f"the files' headers have {_LONGEST_STAMP} characters for how they were made, not for '{stamp}'"
        raise InputError(problem, hint="Choose a shorter --seed")


def _check_folder(folder: pathlib.Path, scans: list[Scan], stamp: str, beside: Set[str]) -> None:
    """Refuses a folder with anything in it that is not this cohort: mixed cohorts train and score without a warning."""
    if folder.exists() and not folder.is_dir():
        raise InputError("is a file, expected a folder to write the cohort to", file=folder)
    expected = {scan.name: set(scan.file_names().values()) for scan in scans}
    for path in _visible(folder):
        if path.name in beside and path.is_file():
            continue
        if path.name not in expected or not path.is_dir():
            raise InputError(
                f"is not one of the {len(scans)} cases to write, and a cohort is not mixed with other files",
                file=path,
                hint="Choose an empty folder for --out, or delete what is in it",
            )
        for file in _visible(path):
            found = _description(file) if file.name in expected[path.name] else "another kind of file"
            if found != stamp:
                raise InputError(
                    f"expected a folder that is empty or holds the same cohort ('{stamp}'), found '{found}'",
                    case=path.name,
                    file=file,
                    hint="Choose another folder for --out, or delete what is in it",
                )


def _visible(folder: pathlib.Path) -> list[pathlib.Path]:
    # Hidden files are what an interrupted run or the file system left behind.
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def _description(path: pathlib.Path) -> str:
    try:
        return nibabel.load(path).header["descrip"].item().decode("latin-1") or "a file without a description"
    except (OSError, EOFError, ValueError, KeyError, zlib.error, nibabel.filebasedimages.ImageFileError):
        return "a file that is not readable as NIfTI"
