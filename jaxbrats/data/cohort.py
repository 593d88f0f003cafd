"""A whole cohort from NIfTI files to arrays: several processes, only what is missing or changed, one manifest.

Several runs, on one machine or many, may share a cohort as shards (see `jaxbrats.data.shards`); a run of its own is the
one shard of one.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import tqdm

from jaxbrats.data.manifest import (
    FAILED,
    KEPT,
    SKIPPED,
    ManifestWriter,
    checksum,
    holds_its_arrays,
    image_path,
    mask_path,
    raw_path,
    read_file,
    read_manifest,
    read_parts,
    stat_of,
)
from jaxbrats.data.npy import write_npy
from jaxbrats.data.preprocessing import Preprocessing, preprocess_case
from jaxbrats.data.raw.alignment import cohort_frame
from jaxbrats.data.raw.cases import Case, find_cases
from jaxbrats.data.raw.geometry import Frame
from jaxbrats.data.shards import MANIFEST, WHOLE, Shard
from jaxbrats.data.sources import CONTENT, STAT, Sources, agree, sources_of, with_checksums
from jaxbrats.system import files, processes
from jaxbrats.system.errors import InputError
from jaxbrats.system.locks import held_briefly, locked


@dataclasses.dataclass(frozen=True)
class _Task:
    case: Case
    sources: Sources
    settings: Preprocessing
    frame: Frame | None
    out: pathlib.Path
    before: dict[str, Any] | None  # its record, which holds if the content of its files and arrays is still the same


def preprocess_cohort(
    raw_dir: str | pathlib.Path,
    out_dir: str | pathlib.Path,
    settings: Preprocessing,
    workers: int | None = None,
    progress: bool = True,
    shard: Shard = WHOLE,
) -> dict[str, Any]:
    """Makes the arrays of every case of a cohort, or of a shard of them, and the manifest that says how each went.

    All arrays are in the orientation and spacing that most cases have (see `alignment.cohort_frame`). Run again it
    makes only what is missing or whose files hold something else (where size or time differ, the content decides), and
    tries failed cases again; with other settings or another frame it makes everything. Arrays of cases that are gone or
    no longer kept are deleted.

    Args:
        raw_dir: Cohort of NIfTI files in any layout of `find_cases`.
        out_dir: Folder of the arrays, see `jaxbrats.data.manifest`.
        settings: What the arrays hold.
        workers: Processes; 0 and 1 work in this one, None takes one a CPU.
        progress: Whether to show a progress bar (only ever on a terminal).
        shard: The share of the cases that this run makes. Shards may be at work in one folder at the same time.

    Returns:
        The manifest of these cases, of a shard with the entry `missing` (see `shards.merge`). A case whose files cannot
        be used is in it as 'failed', and the others go on.

    Raises:
        InputError: no case is found, another run is at work in `out_dir`, `out_dir` holds arrays that no manifest
            lists, other shards there were started with other settings or another number, or a worker process died.
        OSError: an array cannot be written (full disk, no permission).
    """
    raw, out = pathlib.Path(raw_dir), pathlib.Path(out_dir)
    cohort = find_cases(raw, settings.modalities, settings.incomplete)
    problems = cohort.unusable(raw)
    everything = [*(case.name for case in cohort.cases), *problems]
    names = shard.share(everything)
    frame = cohort_frame(cohort.cases, settings.spacing)
    head = {
        "settings": settings.to_dict(),
        "frame": None if frame is None else frame.to_dict(),
        "raw": raw_path(raw, out),
    }
    with _at_work(out, shard):
        with held_briefly(out, "manifest"):
            records, tasks = _plan(raw, out, settings, frame, head, cohort.cases, shard, set(names))
            records |= {name: {"status": FAILED, "reason": str(problems[name])} for name in names if name in problems}
            writer = ManifestWriter(out, head, names, records, shard, files.fingerprint(everything))
            if shard == WHOLE:
                _delete_parts(out)
        results = processes.map_in_processes(
            _work,
            tasks,
            min(processes.available_cpus() if workers is None else workers, len(tasks)),
            name=lambda task: task.case.name,
            hint="Run again with fewer workers: finished cases are kept",
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
        manifest = writer.save(finished=True)
        if shard != WHOLE:
            with held_briefly(out, "manifest"):
                manifest["missing"] = _merge_parts(out)
        return manifest


@contextlib.contextmanager
def _at_work(out: pathlib.Path, shard: Shard) -> Iterator[None]:
    """Holds a folder for this run, whole or, beside other shards, as one of them.

    Raises:
        InputError: another run holds it.
    """
    alone = shard == WHOLE
    with locked(out, "preprocess", "a preprocess run", shared=not alone), contextlib.ExitStack() as locks:
        if not alone:
            name = f"preprocess-{shard.index}-of-{shard.count}"
            locks.enter_context(locked(out, name, f"a preprocess run of shard {shard}"))
        yield


def _plan(
    raw: pathlib.Path,
    out: pathlib.Path,
    settings: Preprocessing,
    frame: Frame | None,
    head: dict[str, Any],
    cases: Sequence[Case],
    shard: Shard,
    names: set[str],
) -> tuple[dict[str, dict[str, Any]], list[_Task]]:
    """The records that hold or may hold, and the work that is left; deletes arrays that are of no use."""
    manifests = _manifests(out, head, shard)
    old = {name: record for manifest in manifests for name, record in manifest["cases"].items()}
    usable = {
        name: record
        for manifest in manifests
        if _made_alike(manifest, head)
        for name, record in manifest["cases"].items()
    }
    if not manifests and any(path for folder in ("images", "masks") for path in (out / folder).glob("*.npy")):
        problem = "the folder holds arrays that no manifest.json lists, perhaps of another program"
        raise InputError(problem, file=out, hint="Choose another folder for the output")
    for folder in ("images", "masks"):
        for partial in (out / folder).glob(".partial-*"):  # of a run that was killed: the lock says that none is alive
            if shard == WHOLE or partial.stem.split("-", 2)[-1] in names:
                partial.unlink(missing_ok=True)
    records, tasks = {}, []
    for case in cases:
        if case.name not in names:
            continue
        try:
            sources = sources_of(case, settings.present(case), raw)
        except InputError as error:
            records[case.name] = _failed(case, error)
            continue
        record = usable.get(case.name)
        if record is None or record["status"] == FAILED or "sources" not in record:
            tasks.append(_Task(case, sources, settings, frame, out, None))
            continue
        records[case.name] = record
        kept = record["status"] == KEPT
        if not agree(sources, record["sources"], STAT) or (kept and stat_of(out, case.name) != record["stat"]):
            tasks.append(_Task(case, sources, settings, frame, out, record))
    useless = [
        name
        for name, record in old.items()
        if record["status"] == KEPT and record is not records.get(name) and (shard == WHOLE or name in names)
    ]
    # Those of no case here are deleted now or, of shards, when these are merged.
    if useless or old.keys() - {case.name for case in cases}:
        _check_own(raw, out, manifests, old, cases, settings)
    if useless:
        print(f"{out}: arrays of {len(useless)} cases that were made otherwise, or are withdrawn, are deleted")
    _delete_arrays(out, useless)
    return records, tasks


def _check_own(
    raw: pathlib.Path,
    out: pathlib.Path,
    manifests: list[dict[str, Any]],
    old: dict[str, dict[str, Any]],
    cases: Sequence[Case],
    settings: Preprocessing,
) -> None:
    """Makes sure that arrays to be deleted are of this cohort: that it is at its place, or shares a case with them.

    Raises:
        InputError: they are of another cohort, and a run may need them.
    """
    if any((out / manifest["raw"]).resolve() == raw.resolve() for manifest in manifests):
        return
    for case in cases:
        with contextlib.suppress(InputError):
            before = old.get(case.name, {}).get("sources", {})
            now = sources_of(case, settings.present(case), raw)
            # A file that was moved or copied has its size still; others hardly ever have it.
            if any(now[part]["size"] == before[part]["size"] for part in now.keys() & before.keys()):
                return
    raise InputError(
        f"holds arrays of another cohort, {manifests[0]['raw']}, that {raw} has no case of",
        file=out,
        hint="Choose another folder for the output, or delete this one if no run needs it",
    )


def _made_alike(manifest: dict[str, Any], head: dict[str, Any]) -> bool:
    return all(manifest[key] == head[key] for key in ("settings", "frame"))


def _manifests(out: pathlib.Path, head: dict[str, Any], shard: Shard) -> list[dict[str, Any]]:
    """All manifests of the folder, the shards' last.

    Raises:
        InputError: what this shard makes could not be merged with what other shards there have made.
    """
    parts = {} if shard == WHOLE else read_parts(out)
    for other, manifest in parts.items():
        if other.count != shard.count:
            raise InputError(
                f"was started with {other.count} shards, so shard {shard} does not belong to it",
                file=out,
                hint=f"Go on with {other.count} shards, or run once without --shard: finished cases are kept",
            )
        if other != shard and manifest["settings"] != head["settings"]:
            made, wanted = manifest["settings"], head["settings"]
            name = next(name for name, value in wanted.items() if made[name] != value)
            raise InputError(
                f"shard {other} was made with {name} = {made[name]}, shard {shard} would be made with {wanted[name]}",
                file=out,
                hint="Give all shards the same settings, or choose another folder",
            )
    if shard == WHOLE:  # takes over whatever shards have left
        parts = {path: read_file(path) for path in sorted(out.glob("manifest.*-of-*.json"))}
    whole = [read_file(out / MANIFEST)] if (out / MANIFEST).exists() else []
    return [*whole, *parts.values()]


def _merge_parts(out: pathlib.Path) -> list[str]:
    """Makes one manifest of those of the shards, if they are all there and done; returns which are missing."""
    merged = read_manifest(out)
    missing = merged.pop("missing", [])  # none where another shard has just merged them
    if not missing:
        files.write_json(out / MANIFEST, merged)
        _delete_parts(out)
        kept = {name for name, record in merged["cases"].items() if record["status"] == KEPT}
        there = {path.stem for folder in ("images", "masks") for path in (out / folder).glob("[!.]*.npy")}
        _delete_arrays(out, there - kept)  # of cases that have been withdrawn
    return missing


def _delete_parts(out: pathlib.Path) -> None:
    for path in out.glob("manifest.*-of-*.json"):
        path.unlink()


def _delete_arrays(out: pathlib.Path, names: Iterable[str]) -> None:
    for name in names:
        image_path(out, name).unlink(missing_ok=True)
        mask_path(out, name).unlink(missing_ok=True)


def _failed(case: Case, error: InputError) -> dict[str, Any]:
    return {"status": FAILED, "reason": str(error), "patient": case.patient}


def _work(task: _Task) -> dict[str, Any]:
    """Makes and writes the arrays of one case, unless they are there; returns its record. Runs in a worker process."""
    case, out, before = task.case, task.out, task.before
    sources = None
    try:
        # First, while the file is not yet in memory either way: reading its voxels then costs no second visit.
        sources = with_checksums(task.sources, case, before and before["sources"])
        if before is not None and agree(sources, before["sources"], CONTENT):
            if before["status"] == SKIPPED:
                return before | {"sources": sources}
            if holds_its_arrays(out, case.name, before):
                return before | {"sources": sources, "stat": stat_of(out, case.name)}
        _delete_arrays(out, [case.name])
        image, labels, record = preprocess_case(case, task.settings, task.frame)
    except InputError as error:
        _delete_arrays(out, [case.name])
        return _failed(case, error) | ({} if sources is None else {"sources": sources})
    record |= {"patient": case.patient, "sources": sources}
    if image is not None:
        paths = (image_path(out, case.name), mask_path(out, case.name))
        for path, array in zip(paths, (image, labels), strict=True):
            with files.replacing(path) as temporary:
                write_npy(temporary, array)
        record["checksum"] = {"image": checksum(image), "mask": checksum(labels)}
        record["stat"] = stat_of(out, case.name)
    return record
