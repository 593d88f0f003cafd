"""A whole cohort from NIfTI files to arrays: several processes, only what is missing or changed, one manifest."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import tqdm

from jaxbrats import files, processes
from jaxbrats.data.cases import Case, VolumeFile, find_cases
from jaxbrats.data.manifest import (
    FAILED,
    KEPT,
    SKIPPED,
    ManifestWriter,
    arrays_are_whole,
    checksum,
    has_manifest,
    image_path,
    mask_path,
    read_manifest,
)
from jaxbrats.data.npy import write_npy
from jaxbrats.data.preprocess import Preprocessing, preprocess_case
from jaxbrats.errors import InputError
from jaxbrats.locks import locked


@dataclasses.dataclass(frozen=True)
class _Task:
    case: Case
    sources: dict[str, Any]
    settings: Preprocessing
    out: pathlib.Path


def preprocess_cohort(
    raw_dir: str | pathlib.Path,
    out_dir: str | pathlib.Path,
    settings: Preprocessing,
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Makes the arrays of every case of a cohort, and the manifest that says how each went.

    Run again it makes only what is missing or whose sources changed (path, size, modification time), and tries failed
    cases anew; with other settings it makes everything. Arrays of cases that are gone or no longer kept are deleted.

    Args:
        raw_dir: Cohort of NIfTI files in any layout of `find_cases`.
        out_dir: Folder of the arrays, see `jaxbrats.data.manifest`.
        settings: What the arrays hold.
        workers: Processes; 0 and 1 work in this one, None takes one a CPU.
        progress: Whether to show a progress bar (only ever on a terminal).

    Returns:
        The manifest. A case whose files cannot be used is in it as 'failed', and the others go on.

    Raises:
        InputError: no case is found, another run is at work in `out_dir`, `out_dir` holds arrays that no manifest
            lists, or a worker process died.
        OSError: an array cannot be written (full disk, no permission).
    """
    raw, out = pathlib.Path(raw_dir), pathlib.Path(out_dir)
    cohort = find_cases(raw, settings.modalities)
    with locked(out, "preprocess", "a preprocess run"):
        records, tasks = _plan(raw, out, settings, cohort.cases)
        problems = {problem.case or str(problem.file): problem for problem in cohort.problems}
        records |= {name: {"status": FAILED, "reason": str(problem)} for name, problem in problems.items()}
        names = [*(case.name for case in cohort.cases), *problems]
        writer = ManifestWriter(out, settings, names, records)
        results = processes.map_in_processes(
            _work,
            tasks,
            min(processes.available_cpus() if workers is None else workers, len(tasks)),
            name=lambda task: task.case.name,
            cure="Run again with fewer workers: finished cases are kept",
        )
        bar = tqdm.tqdm(
            total=len(names),
            initial=len(names) - len(tasks),
            desc="preprocess",
            unit="case",
            disable=None if progress else True,
        )
        try:
            with bar:
                for task, record in results:
                    writer.add(task.case.name, record)
                    bar.update()
        except BaseException:
            writer.save()
            raise
        return writer.save(finished=True)


def _plan(
    raw: pathlib.Path, out: pathlib.Path, settings: Preprocessing, cases: Iterable[Case]
) -> tuple[dict[str, dict[str, Any]], list[_Task]]:
    """Splits a cohort into the records that still hold and the work that is left, and deletes arrays that don't."""
    old: dict[str, dict[str, Any]] = {}
    same_settings = False
    if has_manifest(out):
        manifest = read_manifest(out)
        old = manifest["cases"]
        same_settings = manifest["settings"] == settings.to_dict()
    elif any(path for folder in ("images", "masks") for path in (out / folder).glob("*.npy")):
        problem = "the folder holds arrays that no manifest.json lists, perhaps of another program"
        raise InputError(problem, file=out, cure="Choose another folder for the output")
    for folder in ("images", "masks"):
        for partial in (out / folder).glob(".partial-*"):  # of a run that was killed: the lock says that none is alive
            partial.unlink(missing_ok=True)
    records, tasks = {}, []
    for case in cases:
        try:
            sources = _sources(case, settings, raw)
        except InputError as error:
            records[case.name] = _failed(case, error)
            continue
        record = old.get(case.name, {})
        if same_settings and record.get("sources") == sources and _is_done(case.name, record, settings, out):
            records[case.name] = record
        else:
            tasks.append(_Task(case, sources, settings, out))
    for name, record in old.items():
        if record["status"] == KEPT and record is not records.get(name):
            image_path(out, name).unlink(missing_ok=True)
            mask_path(out, name).unlink(missing_ok=True)
    return records, tasks


def _sources(case: Case, settings: Preprocessing, raw: pathlib.Path) -> dict[str, Any]:
    """What tells whether the files of a case changed since they were read, in the form that JSON gives back."""
    volumes = {modality: case.modalities[modality] for modality in settings.modalities}
    sources = {modality: _source(volume, case, raw) for modality, volume in volumes.items()}
    if case.labels is not None:
        label_map = {str(label): new for label, new in sorted(case.label_map.items())}
        sources["seg"] = _source(case.labels, case, raw) | {"label_map": label_map}
    return sources


def _source(volume: VolumeFile, case: Case, raw: pathlib.Path) -> dict[str, Any]:
    try:
        status = volume.path.stat()
    except OSError as error:
        cure = "Check that the file is there and its permissions"
        raise InputError(f"cannot be read ({error.strerror})", case=case.name, file=volume.path, cure=cure) from error
    path = pathlib.PurePath(os.path.relpath(volume.path, raw)).as_posix()
    source = {"path": path, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    return source if volume.channel is None else source | {"channel": volume.channel}


def _is_done(name: str, record: dict[str, Any], settings: Preprocessing, out: pathlib.Path) -> bool:
    kept = record["status"] == KEPT and arrays_are_whole(out, name, settings)
    return kept or record["status"] == SKIPPED


def _failed(case: Case, error: InputError) -> dict[str, Any]:
    return {"status": FAILED, "reason": str(error), "patient": case.patient}


def _work(task: _Task) -> dict[str, Any]:
    """Makes and writes the arrays of one case; returns its record. Runs in a worker process."""
    case = task.case
    try:
        image, labels, record = preprocess_case(case, task.settings)
    except InputError as error:
        return _failed(case, error)
    record |= {"patient": case.patient, "sources": task.sources}
    if image is not None:
        paths = (image_path(task.out, case.name), mask_path(task.out, case.name))
        for path, array in zip(paths, (image, labels), strict=True):
            with files.replacing(path) as temporary:
                write_npy(temporary, array)
        record["checksum"] = {"image": checksum(image), "mask": checksum(labels)}
    return record
