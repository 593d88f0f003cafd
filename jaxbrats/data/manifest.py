"""`manifest.json`: what a folder of preprocessed arrays holds, how it was made and from what.

    DATA/images/CASE.npy   float32 (X, Y, Z, C)
    DATA/masks/CASE.npy    uint8 labels (X, Y, Z)
    DATA/manifest.json     {"version", "settings", "frame", "raw", "finished", "cases": {NAME: record}}

`frame` is the orientation and spacing of all arrays. `raw` is where the cohort is: relative to DATA where it lies
beside DATA or below that, so that both can be moved together, else absolute; `DATA / raw` is right for both.

A record has a `status`: 'kept' (its arrays are there), 'skipped' (not for training) or 'failed' (its files cannot be
used), with the `reason`. `sources` are its files (see `jaxbrats.data.sources`), `checksum` and `stat` of its arrays
what they hold and their size and time as written. A manifest of another version is refused: the arrays have to be made
again. `finished` is true once every case of the cohort was tried. Of a folder that several runs make
together, see `jaxbrats.data.shards`, `read_manifest` reads what their manifests say together.
"""

import math
import os
import pathlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from isal import isal_zlib

from jaxbrats.data import npy
from jaxbrats.data.labels import NUM_CLASSES
from jaxbrats.data.names import check_case_name
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.data.raw.geometry import Frame
from jaxbrats.data.shards import MANIFEST, WHOLE, Shard, find_parts, merge
from jaxbrats.system import files
from jaxbrats.system.errors import InputError
from jaxbrats.system.locks import held_briefly

VERSION = 2
KEPT, SKIPPED, FAILED = "kept", "skipped", "failed"
_AGAIN = "Delete the folder to have everything made again, or choose another"


def image_path(data_dir: pathlib.Path, case: str) -> pathlib.Path:
    """Where the image of a case is."""
    return data_dir / "images" / f"{case}.npy"


def mask_path(data_dir: pathlib.Path, case: str) -> pathlib.Path:
    """Where the labels of a case are."""
    return data_dir / "masks" / f"{case}.npy"


def checksum(array: np.ndarray) -> str:
    """CRC-32 of the bytes of a C-ordered array, as the manifest writes it: tells damage, not malice."""
    return f"crc32:{isal_zlib.crc32(array.reshape(-1).view(np.uint8)):08x}"


def has_manifest(data_dir: str | pathlib.Path) -> bool:
    """Whether a folder holds preprocessing, finished or not."""
    data_dir = pathlib.Path(data_dir)
    return (data_dir / MANIFEST).exists() or bool(find_parts(data_dir))


def read_manifest(data_dir: str | pathlib.Path) -> dict[str, Any]:
    """Reads the manifest of a folder of arrays; of shards that are not yet all there, see `shards.merge`.

    Raises:
        InputError: there is none, or it is damaged or of another version of the format.
    """
    data_dir = pathlib.Path(data_dir)
    parts = read_parts(data_dir)
    if not parts:
        return read_file(data_dir / MANIFEST)
    return merge(parts, read_file(data_dir / MANIFEST) if (data_dir / MANIFEST).exists() else None)


def read_parts(data_dir: pathlib.Path) -> dict[Shard, dict[str, Any]]:
    """Reads the manifests of the shards of a folder, of which there are none when they are merged.

    Raises:
        InputError: as `read_manifest`.
    """
    parts = {}
    for shard, path in find_parts(data_dir).items():
        parts[shard] = read_file(path)
        if not isinstance(parts[shard].get("cohort"), str):
            hint = "Delete it and run that shard again"
            raise InputError("is not as jaxbrats preprocess writes it", file=path, hint=hint)
    return parts


def read_file(path: pathlib.Path) -> dict[str, Any]:
    """Reads one manifest.

    Raises:
        InputError: as `read_manifest`.
    """
    if not path.exists():
        raise InputError("is missing, so this is not a folder of arrays", file=path, hint="Run jaxbrats preprocess")
    # Without it preprocessing does not know which files are its own.
    manifest = files.read_json(path, hint=_AGAIN)
    if not isinstance(manifest, dict) or manifest.get("version") != VERSION:
        found = manifest.get("version") if isinstance(manifest, dict) else type(manifest).__name__
        raise InputError(f"expected version {VERSION} of the manifest, found {found}", file=path, hint=_AGAIN)
    records = manifest.get("cases")
    if not (isinstance(records, dict) and isinstance(manifest.get("finished"), bool) and _is_text(manifest.get("raw"))):
        raise InputError("is not as jaxbrats preprocess writes it", file=path, hint=_AGAIN)
    try:
        manifest["settings"] = Preprocessing.from_dict(manifest.get("settings")).to_dict()
        if manifest.get("frame") is not None:
            Frame.from_dict(manifest["frame"])
    except InputError as error:
        raise InputError(error.problem, file=path, hint=_AGAIN) from error
    for name, record in records.items():
        _check_record(name, record, path)
    return manifest


def _check_record(name: str, record: Any, path: pathlib.Path) -> None:
    """Refuses a record that lacks what is read of it later, or holds what cannot be."""
    if not isinstance(record, dict) or record.get("status") not in (KEPT, SKIPPED, FAILED):
        problem = f"expected a status kept, skipped or failed, found {str(record)[:80]}"
        raise InputError(problem, case=name, file=path, hint=_AGAIN)
    if record["status"] == FAILED:
        if not _is_text(record.get("reason")):
            raise InputError("failed for no reason", case=name, file=path, hint=_AGAIN)
        return  # of a file or folder where it is no case's
    check_case_name(name, path, _AGAIN)
    if record["status"] == SKIPPED:
        return
    file = record.get("file")
    found = {
        "shape": (record.get("shape"), _is_shape),
        "affine": (record.get("affine"), _is_affine),
        "crop_origin": (record.get("crop_origin"), _is_origin),
        "file.shape": (file.get("shape") if isinstance(file, dict) else None, _is_shape),
        "file.affine": (file.get("affine") if isinstance(file, dict) else None, _is_affine),
        "patient": (record.get("patient"), _is_text),
        "checksum": (record.get("checksum"), _is_checksum),
        "stat": (record.get("stat"), _is_stat),
        "sources": (record.get("sources"), _is_sources),
        "tumour_fraction": (record.get("tumour_fraction"), _is_share),
        "label_voxels": (record.get("label_voxels"), _is_count),
        "label_voxels_outside": (record.get("label_voxels_outside"), _is_count),
    }
    for key, (value, is_right) in found.items():
        if not is_right(value):
            problem = f"{key} is missing" if value is None else f"{key} cannot be {str(value)[:80]}"
            raise InputError(problem, case=name, file=path, hint=_AGAIN)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_origin(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) == 3 and all(type(size) is int and abs(size) < 2**31 for size in value)
    )


def _is_shape(value: Any) -> bool:
    return _is_origin(value) and min(value) > 0


def _is_affine(value: Any) -> bool:
    try:
        affine = np.array(value, float)
    except (TypeError, ValueError):
        return False
    # An affine without a direction for each axis could not be inverted.
    return affine.shape == (4, 4) and bool(np.isfinite(affine).all()) and np.linalg.matrix_rank(affine) == 4


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= 1


def _is_count(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == NUM_CLASSES
        and all(type(count) is int and 0 <= count < 2**62 for count in value)
    )


def _is_checksum(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"image", "mask"} and all(map(_is_text, value.values()))


def _is_stat(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"image", "mask"}
        and all(isinstance(stat, dict) and stat.keys() == {"size", "mtime_ns"} for stat in value.values())
    )


def _is_sources(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(source, dict) and source.keys() >= {"path", "size", "mtime_ns", "checksum"}
        for source in value.values()
    )


def stat_of(data_dir: pathlib.Path, case: str) -> dict[str, dict[str, int]] | None:
    """Size and modification time of both arrays of a case, as its record has them; None where one is not there."""
    found = {}
    for part, path in (("image", image_path(data_dir, case)), ("mask", mask_path(data_dir, case))):
        try:
            status = path.stat()
        except OSError:
            return None
        found[part] = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    return found


def holds_its_arrays(data_dir: pathlib.Path, case: str, record: Mapping[str, Any]) -> bool:
    """Whether the arrays of a kept case hold what its record says, by their content."""
    for part, path in (("image", image_path(data_dir, case)), ("mask", mask_path(data_dir, case))):
        try:
            array = npy.read(path, case, lambda header: "is in Fortran order" if header.fortran else None)
        except InputError:
            return False
        if checksum(array) != record["checksum"][part]:
            return False
    return True


def raw_path(raw_dir: str | pathlib.Path, data_dir: str | pathlib.Path) -> str:
    """Where the cohort is, as `raw` in the manifest has it: seen from the arrays where both lie in one folder.

    Of arrays that are a link, `..` is elsewhere: then the whole path.
    """
    raw, data = pathlib.Path(raw_dir).absolute(), pathlib.Path(data_dir).absolute()
    relative = os.path.relpath(raw, data)
    near = raw.is_relative_to(data.parent) and (data / relative).resolve() == raw.resolve()
    return pathlib.PurePath(relative).as_posix() if near else str(raw)


def point_to_raw(data_dir: pathlib.Path, raw_dir: str | pathlib.Path) -> None:
    """Notes where the cohort is now; not of shards that are not merged, which merging asks.

    Raises:
        OSError: the manifest cannot be written.
    """
    path = data_dir / MANIFEST
    if path.exists():
        with held_briefly(data_dir, "manifest"):
            files.write_json(path, read_file(path) | {"raw": raw_path(raw_dir, data_dir)})


class ManifestWriter:
    """Collects the records of a run and saves them now and then, so that a killed run loses little.

    Args:
        data_dir: Folder of the arrays.
        head: Its settings, frame and raw.
        order: Names of all cases, in the order in which they are written.
        records: What is known at the start.
        shard: Whose manifest it is.
        cohort: `fingerprint` of the names of all cases, of a shard.
    """

    def __init__(
        self,
        data_dir: pathlib.Path,
        head: Mapping[str, Any],
        order: Iterable[str],
        records: Mapping[str, dict[str, Any]],
        shard: Shard = WHOLE,
        cohort: str | None = None,
    ) -> None:
        self._path = data_dir / shard.manifest_name
        self._head = {"version": VERSION, **head}
        self._cohort = {} if shard == WHOLE else {"cohort": cohort}
        self._order = tuple(order)
        self._records = dict(records)
        self.save()

    def add(self, case: str, record: dict[str, Any]) -> None:
        """Takes the record of one more case."""
        self._records[case] = record
        if time.monotonic() >= self._due:
            self.save()

    def save(self, finished: bool = False) -> dict[str, Any]:
        """Writes and returns the manifest as it is now."""
        start = time.monotonic()
        cases = {name: self._records[name] for name in self._order if name in self._records}
        manifest = {**self._head, "finished": finished, **self._cohort, "cases": cases}
        files.write_json(self._path, manifest)
        # The manifest of a large cohort takes a while to write: then it is written less often.
        now = time.monotonic()
        self._due = now + max(3.0, 20 * (now - start))
        return manifest
