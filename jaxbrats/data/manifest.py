"""`manifest.json`: what a folder of preprocessed arrays holds, how it was made and from what.

    DATA/images/CASE.npy   float32 (X, Y, Z, C)
    DATA/masks/CASE.npy    uint8 labels (X, Y, Z)
    DATA/manifest.json     {"version", "settings", "finished", "cases": {NAME: record}}

A record has a `status`: 'kept' (its arrays are there), 'skipped' (not for training) or 'failed' (its files cannot be
used), with the `reason`. `finished` is true once every case of the cohort was tried. Of a folder that several runs make
together, see `jaxbrats.data.shards`, `read_manifest` reads what their manifests say together.
"""

import pathlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from isal import isal_zlib

from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.data.shards import MANIFEST, WHOLE, Shard, find_parts, merge
from jaxbrats.system import files
from jaxbrats.system.errors import InputError

VERSION = 1
KEPT, SKIPPED, FAILED = "kept", "skipped", "failed"


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
    """Whether preprocessing was ever begun in a folder."""
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
        raise InputError("is not there, so this is no folder of arrays", file=path, hint="Run jaxbrats preprocess")
    manifest = files.read_json(path)
    if not isinstance(manifest, dict) or manifest.get("version") != VERSION:
        found = manifest.get("version") if isinstance(manifest, dict) else type(manifest).__name__
        problem = f"expected version {VERSION} of the manifest, found {found}"
        raise InputError(problem, file=path, hint="Preprocess into another folder")
    records = manifest.get("cases")
    sound = isinstance(records, dict) and all(
        isinstance(record, dict) and record.get("status") in (KEPT, SKIPPED, FAILED) for record in records.values()
    )
    if not sound or not isinstance(manifest.get("finished"), bool):
        raise InputError("is not as jaxbrats preprocess writes it", file=path, hint="Preprocess into another folder")
    Preprocessing.from_dict(manifest.get("settings"))
    return manifest


def arrays_are_whole(data_dir: pathlib.Path, case: str, settings: Preprocessing) -> bool:
    """Whether both arrays of a case are there, untruncated and of the shape that `settings` give."""
    expected = (
        (image_path(data_dir, case), np.float32, (*settings.crop, len(settings.modalities))),
        (mask_path(data_dir, case), np.uint8, settings.crop),
    )
    for path, dtype, shape in expected:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return False
        if array.dtype != dtype or array.shape != shape:
            return False
    return True


class ManifestWriter:
    """Collects the records of a run and saves them now and then, so that a killed run loses little.

    Args:
        data_dir: Folder of the arrays.
        settings: How they are made.
        order: Names of all cases, in the order in which they are written.
        records: What is known at the start.
        shard: Whose manifest it is.
        cohort: `cohort_checksum` of all cases, of a shard.
    """

    def __init__(
        self,
        data_dir: pathlib.Path,
        settings: Preprocessing,
        order: Iterable[str],
        records: Mapping[str, dict[str, Any]],
        shard: Shard = WHOLE,
        cohort: str | None = None,
    ) -> None:
        self._path = data_dir / shard.manifest_name
        self._head = {"version": VERSION, "settings": settings.to_dict()}
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
