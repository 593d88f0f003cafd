"""The files that arrays or a segmentation of a case were made from, and whether they still hold the same.

What identifies a file is its content. A source is its path, of arrays in the cohort, size, modification time and the
CRC-32 of its bytes; size and time spare reading a file again that nobody touched.
"""

import dataclasses
import os
import pathlib
import stat
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxbrats.data.manifest import FAILED, read_manifest
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.data.raw.cases import Case, VolumeFile, find_cases, path_in_cohort
from jaxbrats.system import files
from jaxbrats.system.errors import InputError, unreadable

# What tells by itself that a file was not touched, and what is its content.
STAT, CONTENT = ("path", "size", "mtime_ns"), ("size", "checksum")
Sources = dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Difference:
    """A case that is in a cohort otherwise than in the arrays.

    Attributes:
        name: The case.
        what: 'changed' (its files hold something else, or can no longer be used), 'new' or 'gone'.
    """

    name: str
    what: str


def is_gone(raw_dir: pathlib.Path) -> bool:
    """Whether a cohort is not there, or an empty folder in its place, as where nothing is mounted."""
    return not raw_dir.exists() or (raw_dir.is_dir() and not any(raw_dir.iterdir()))


def differences(raw_dir: str | pathlib.Path, data_dir: str | pathlib.Path, settings: Preprocessing) -> list[Difference]:
    """How a cohort differs from the one that a folder of arrays was made from; changes nothing.

    Costs a stat a file where nothing was touched; files that were are read.

    Args:
        raw_dir: The cohort.
        data_dir: The arrays.
        settings: What they hold.

    Raises:
        InputError: there is no cohort or no usable manifest.
    """
    raw, records = pathlib.Path(raw_dir), read_manifest(data_dir)["cases"]
    # Former versions named what belongs to no case by its whole path.
    records = {
        path_in_cohort(name, raw) if pathlib.Path(name).is_absolute() else name: record
        for name, record in records.items()
    }
    cohort = find_cases(raw, settings.modalities, settings.incomplete)
    found = []
    for case in cohort.cases:
        if case.name not in records:
            found.append(Difference(case.name, "new"))
        elif not is_same(case, settings.present(case), raw, records[case.name].get("sources")):
            found.append(Difference(case.name, "changed"))
    problems = cohort.unusable(raw)
    found += [Difference(name, "new") for name in problems if name not in records]
    found += [Difference(name, "changed") for name in problems if records.get(name, {}).get("status", FAILED) != FAILED]
    there = problems.keys() | {case.name for case in cohort.cases}
    return found + [Difference(name, "gone") for name in records if name not in there]


def case_of(name: str, record: Mapping[str, Any], raw_dir: pathlib.Path, settings: Preprocessing) -> Case:
    """The case of a cohort that arrays were made from, from their record alone.

    Args:
        name: The case.
        record: The manifest's record of it.
        raw_dir: Where the cohort is.
        settings: What the arrays hold.

    Raises:
        InputError: its files are gone, or hold something else than the arrays were made from.
    """
    volumes = {
        part: VolumeFile(raw_dir / source["path"], source.get("channel")) for part, source in record["sources"].items()
    }
    labels = volumes.pop("seg", None)
    label_map = record["sources"].get("seg", {}).get("label_map", {})
    case = Case(name, record["patient"], volumes, labels, {int(old): new for old, new in label_map.items()})
    if not is_same(case, settings.present(case), raw_dir, record["sources"]):
        hint = "Restore them, or preprocess into another folder and train again"
        raise InputError("its files hold something else than it was made from", case=name, file=raw_dir, hint=hint)
    return case


def is_same(
    case: Case,
    modalities: Iterable[str],
    base: pathlib.Path | None,
    before: Mapping[str, Any] | None,
    labels: bool = True,
) -> bool:
    """Whether the files of a case hold what they did; those of the same place, size and time are not read again.

    Args:
        case: The case as it is now.
        modalities: As for `sources_of`, like `base` and `labels`.
        base: The same as that of `before`.
        before: Its sources with checksums; None where they could not be read, and the same is that they still cannot.
        labels: Whether its segmentation counts.
    """
    try:
        now = sources_of(case, modalities, base, labels)
        return before is not None and (
            agree(now, before, STAT) or agree(with_checksums(now, case, before), before, CONTENT)
        )
    except InputError:
        return before is None


def sources_of(case: Case, modalities: Iterable[str], base: pathlib.Path | None, labels: bool = True) -> Sources:
    """The files of a case by their stat, in the form that JSON gives back.

    Args:
        case: Whose files.
        modalities: Which of its images; all are there.
        base: Folder that the paths are relative to; None leaves them as the case has them.
        labels: Whether to add its segmentation, where there is one, as 'seg'.

    Raises:
        InputError: one cannot be read.
    """
    sources = {modality: _source(case.modalities[modality], case, base) for modality in modalities}
    if labels and case.labels is not None:
        label_map = {str(label): new for label, new in sorted(case.label_map.items())}
        sources["seg"] = _source(case.labels, case, base) | {"label_map": label_map}
    return sources


def _source(volume: VolumeFile, case: Case, base: pathlib.Path | None) -> dict[str, Any]:
    try:
        status = volume.path.stat()
    except OSError as error:
        raise unreadable(error, volume.path, case.name) from error
    # Opening a named pipe would wait for its other end.
    if not stat.S_ISREG(status.st_mode):
        hint = "Copy or download it again"
        raise InputError("expected a file, found something else", case=case.name, file=volume.path, hint=hint)
    path = volume.path if base is None else pathlib.PurePath(os.path.relpath(volume.path, base))
    source = {"path": path.as_posix(), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    return source if volume.channel is None else source | {"channel": volume.channel}


def agree(now: Sources, before: Mapping[str, Any], keys: Sequence[str]) -> bool:
    """Whether all files are by these keys, `STAT` or `CONTENT`, what they were, and are read in the same way."""
    return now.keys() == before.keys() and all(
        source.get(key) == before[part].get(key)
        for part, source in now.items()
        for key in (*keys, "channel", "label_map")
    )


def with_checksums(now: Sources, case: Case, before: Mapping[str, Any] | None = None) -> Sources:
    """The same with the checksum of each file, read where it is not known from `before` by an unchanged stat.

    Raises:
        InputError: a file cannot be read.
    """
    known = {tuple(source.get(key) for key in STAT): source.get("checksum") for source in (before or {}).values()}
    found = {}
    for part, source in now.items():
        place = tuple(source[key] for key in STAT)
        if known.get(place) is None:
            known[place] = _file_checksum(case.labels if part == "seg" else case.modalities[part], case)
        found[part] = source | {"checksum": known[place]}
    return found


def _file_checksum(volume: VolumeFile, case: Case) -> str:
    try:
        return files.checksum(volume.path)
    except OSError as error:
        raise unreadable(error, volume.path, case.name) from error
