"""The corpus of malformed and odd inputs, and what comes of each.

Every kind is tried with a sound case beside it: a bad file must not change another case's result. Cohorts of NIfTI
files go through preprocessing and through the check, which must agree; folders of arrays, with and without a manifest,
through what training reads them with.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator

import numpy as np

from jaxbrats.data.arrays import ArrayCase, identified, read_image, read_labels
from jaxbrats.data.check.cohort import CohortReport, check_cohort
from jaxbrats.data.cohort import preprocess_cohort
from jaxbrats.data.dataset import array_shape, read_dataset
from jaxbrats.data.manifest import FAILED, KEPT, image_path, mask_path
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.system.errors import InputError
from malformed import bad_arrays, bad_cohorts, bad_files, bad_manifests, bad_voxels, kinds
from malformed.kinds import ACCEPTED, GOOD, ODD, REFUSED, SAME, SKIPPED, Files, Kind

SETTINGS = Preprocessing(crop=(6, 6, 6), min_tumour=0.01)
# What the kinds are made of -> its kinds.
CORPUS = {
    "image": bad_files.KINDS + bad_voxels.IMAGE_KINDS,
    "segmentation": bad_voxels.LABEL_KINDS,
    "cohort": bad_cohorts.KINDS,
    "array": bad_arrays.KINDS,
    "manifest": bad_manifests.KINDS,
}

_NOBODY = 65534
Arrays = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a kind.

    Attributes:
        result: As `Kind.expected`.
        message: The line that refuses it, without the temporary folder; else what the check warns of, if of anything.
        cured: Whether a refusal says what to do.
        file_named: Whether a refusal names a file or folder.
        neighbour_unchanged: Whether the arrays of the sound case beside it are what they are without it.
        check_agrees: Whether the check says of every case what preprocessing makes of it.
        seconds: It took.
    """

    result: str
    message: str
    cured: bool
    file_named: bool
    neighbour_unchanged: bool
    check_agrees: bool
    seconds: float


def attempt(group: str, kind: Kind) -> Outcome:
    """Makes a kind in a temporary folder and tries it.

    Args:
        group: Key of `CORPUS`.
        kind: One of its kinds.

    Raises:
        Exception: whatever the readers raise that they should not.
    """
    sound()
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder).chmod(0o777)
        with _as_user() if kind.needs_user else contextlib.nullcontext():
            begin = time.perf_counter()
            attempts = {"array": _attempt_arrays, "manifest": _attempt_manifest}
            outcome = attempts.get(group, _attempt_cohort)(kind, pathlib.Path(folder))
            seconds = time.perf_counter() - begin
        return dataclasses.replace(outcome, message=outcome.message.replace(folder, ""), seconds=seconds)


def faults(kind: Kind, outcome: Outcome) -> list[str]:
    """What of an outcome is not as it should be; nothing where all is well."""
    promises = {
        f"expected: {kind.expected}": outcome.result == kind.expected,
        f"expected to be told: {kind.says}": kind.says in outcome.message,
        "not one printable line": outcome.message.isprintable(),
        "no hint": outcome.cured,
        "no file": outcome.file_named,
        "the case beside it changed": outcome.neighbour_unchanged,
        "the check and preprocessing disagree": outcome.check_agrees,
    }
    return [fault for fault, kept in promises.items() if not kept]


@contextlib.contextmanager
def _as_user() -> Iterator[None]:
    """Gives up being root for a while, because root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@functools.cache
def sound() -> dict[str, Arrays]:
    """Image and labels of the two cases as they come out unspoilt."""
    with tempfile.TemporaryDirectory() as folder:
        raw, out = pathlib.Path(folder, "raw"), pathlib.Path(folder, "out")
        kinds.write_cohort(raw)
        preprocess_cohort(raw, out, SETTINGS, workers=1, progress=False)
        return {name: _arrays(out, name) for name in (GOOD, ODD)}


def _attempt_cohort(kind: Kind, folder: pathlib.Path) -> Outcome:
    raw, out = folder / "raw", folder / "out"
    kind.spoil(kinds.write_cohort(raw))
    records = preprocess_cohort(raw, out, SETTINGS, workers=1, progress=False)["cases"]
    report = check_cohort(raw, SETTINGS, workers=1, progress=False)
    others = {name: record for name, record in records.items() if name != GOOD}
    (name, record), *more = others.items()
    findings = [finding for finding in report.findings if finding.kind != "patients"]
    if record["status"] == FAILED:
        refusals = {str(finding.what): finding.what for finding in findings if finding.error}
        refusal = refusals.get(record["reason"])
        result, message = REFUSED, record["reason"]
    else:
        refusal, message = None, "; ".join(str(finding.what) for finding in findings)
        result = SKIPPED if record["status"] != KEPT else _taken(_arrays(out, name))
    return Outcome(
        result=result,
        message=message,
        cured=refusal is None or bool(refusal.hint),
        file_named=refusal is None or refusal.file is not None,
        neighbour_unchanged=records[GOOD]["status"] == KEPT and _equal(_arrays(out, GOOD), sound()[GOOD]),
        check_agrees=not more and _agrees(records, report) and (result != REFUSED or refusal is not None),
        seconds=0,
    )


def _agrees(records: dict[str, dict], report: CohortReport) -> bool:
    """Whether the check says of each case what preprocessing recorded; files of no case have a record of their own."""
    expected = {name: record["status"] for name, record in records.items()}
    found = {case.name: case.status for case in report.cases}
    found |= {
        os.path.relpath(error.what.file, report.folder): FAILED
        for error in report.errors
        if error.what.case is None and error.kind == "files"
    }
    return found == expected and bool(report.errors) == (
        FAILED in expected.values() or len({case.patient for case in report.cases if case.status == KEPT}) < 2
    )


def _attempt_arrays(kind: Kind, folder: pathlib.Path) -> Outcome:
    for folder_name, prefix, part in (("images", "image", 0), ("masks", "mask", 1)):
        (folder / folder_name).mkdir(parents=True)
        for number, name in enumerate((GOOD, ODD)):
            np.save(folder / folder_name / f"{prefix}_{number}.npy", sound()[name][part])
    kind.spoil(Files(folder, folder / "images" / "image_1.npy", folder / "masks" / "mask_1.npy"))
    return _read(folder, ArrayCase("image_0", "image_0", folder / "images/image_0.npy", folder / "masks/mask_0.npy"))


def _attempt_manifest(kind: Kind, folder: pathlib.Path) -> Outcome:
    """Also that no file is written or deleted, wherever a manifest may point."""
    raw, out = folder / "raw", folder / "out"
    kinds.write_cohort(raw)
    preprocess_cohort(raw, out, SETTINGS, workers=1, progress=False)
    kind.spoil(Files(out, image_path(out, ODD), mask_path(out, ODD)))
    before = _stamps(folder)
    good = ArrayCase(GOOD, GOOD, image_path(out, GOOD), mask_path(out, GOOD))
    outcome = _read(out, good)
    if outcome.result == REFUSED:
        # What reading refuses, going on with preprocessing refuses too, before it changes anything.
        with contextlib.suppress(InputError):
            preprocess_cohort(raw, out, SETTINGS, workers=1, progress=False)
    unchanged = outcome.neighbour_unchanged and _stamps(folder) == before
    return dataclasses.replace(outcome, neighbour_unchanged=unchanged)


def _read(folder: pathlib.Path, good: ArrayCase) -> Outcome:
    """Reads a folder of arrays as training does."""
    refusal = None
    try:
        cases = read_dataset(folder).cases
        array_shape(cases)
        (odd,) = (case for case in identified(cases) if case.name != good.name)
        result, message = _taken((read_image(odd), read_labels(odd))), ""
    except InputError as error:
        refusal, result, message = error, REFUSED, str(error)
    return Outcome(
        result=result,
        message=message,
        cured=refusal is None or bool(refusal.hint),
        file_named=refusal is None or refusal.file is not None,
        neighbour_unchanged=_equal((read_image(good), read_labels(good)), sound()[GOOD]),
        check_agrees=True,
        seconds=0,
    )


def _stamps(folder: pathlib.Path) -> dict[pathlib.Path, tuple[int, int]]:
    """Size and time of every file but locks."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


def _taken(arrays: Arrays) -> str:
    return SAME if _equal(arrays, sound()[ODD]) else ACCEPTED


def _equal(first: Arrays, second: Arrays) -> bool:
    return all(
        one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
        for one, other in zip(first, second, strict=True)
    )


def _arrays(out: pathlib.Path, name: str) -> Arrays:
    return np.load(image_path(out, name)), np.load(mask_path(out, name))
