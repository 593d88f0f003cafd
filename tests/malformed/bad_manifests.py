"""Kinds of bad and odd manifests, as a full disk, another program or an attacker may leave them."""

import json
import math
from collections.abc import Callable
from typing import Any

from malformed.bad_files import Spoil
from malformed.kinds import ODD, REFUSED, SAME, Files, Kind


def content(change: Callable[[bytes], bytes]) -> Spoil:
    """Changes the bytes of the manifest."""

    def spoil(files: Files) -> None:
        path = files.folder / "manifest.json"
        path.write_bytes(change(path.read_bytes()))

    return spoil


def manifest(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    """Changes what the manifest holds."""

    def changed(whole: bytes) -> bytes:
        value = json.loads(whole)
        change(value)
        return json.dumps(value).encode()

    return content(changed)


def record(**values: Any) -> Spoil:
    """Changes entries of the case's record."""
    return manifest(lambda value: value["cases"][ODD].update(values))


def without(key: str) -> Spoil:
    """Takes an entry out of the case's record."""
    return manifest(lambda value: value["cases"][ODD].pop(key))


def named(name: str) -> Spoil:
    """Gives the case another name."""
    return manifest(lambda value: value["cases"].update({name: value["cases"].pop(ODD)}))


def _outside(files: Files) -> None:
    for path in (files.image, files.labels):
        (path.parents[2] / path.name).write_bytes(path.read_bytes())
    named(f"../../{ODD}")(files)


_NO_FILE = "has a name that no file may have"
_NAN = [[math.nan, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
_FLAT = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
_TOUCHED = {part: {"size": 1, "mtime_ns": 1} for part in ("image", "mask")}

KINDS = [
    Kind("manifest of files that were touched since", record(stat=_TOUCHED), SAME),
    Kind("manifest with a case outside its folder", _outside, REFUSED, _NO_FILE),
    Kind("manifest with a case by an absolute path", named("/etc/passwd"), REFUSED, _NO_FILE),
    Kind("manifest with a case without a name", named(""), REFUSED, _NO_FILE),
    Kind("manifest with a case that is hidden", named(".case"), REFUSED, _NO_FILE),
    Kind("manifest with a null character in a name", named("a\0b"), REFUSED, _NO_FILE),
    Kind("manifest with a name of 4 kB", named("a" * 4096), REFUSED, "has a name of 4096 bytes"),
    Kind("manifest with half a surrogate in a name", named("a\ud800"), REFUSED, "has a name that is not UTF-8"),
    Kind("manifest cut in half", content(lambda whole: whole[: len(whole) // 2]), REFUSED, "is not valid JSON"),
    Kind("manifest of no bytes", content(lambda whole: b""), REFUSED, "is not valid JSON"),
    Kind("manifest of zeros", content(lambda whole: bytes(len(whole))), REFUSED, "is not valid JSON"),
    Kind("manifest that never closes", content(lambda whole: b"[" * 100_000), REFUSED, "is not valid JSON"),
    Kind("manifest that is a list", content(lambda whole: b"[1, 2]"), REFUSED, "found list"),
    Kind("manifest that is empty", content(lambda whole: b"{}"), REFUSED, "found None"),
    Kind("manifest of a version to come", manifest(lambda value: value.update(version=99)), REFUSED, "found 99"),
    Kind("manifest without cases", manifest(lambda value: value.pop("cases")), REFUSED, "is not as jaxbrats"),
    Kind("manifest whose settings are none", manifest(lambda value: value.update(settings=7)), REFUSED, "the keys"),
    Kind(
        "manifest whose record is a number", manifest(lambda value: value["cases"].update({ODD: 7})), REFUSED, "found 7"
    ),
    Kind("manifest without an affine", without("affine"), REFUSED, "affine is missing"),
    Kind("manifest without the file's affine", record(file={"shape": [9, 8, 7]}), REFUSED, "file.affine is missing"),
    Kind("manifest with NaN in an affine", record(affine=_NAN), REFUSED, "affine cannot be"),
    Kind("manifest with an affine of two directions", record(affine=_FLAT), REFUSED, "affine cannot be"),
    Kind("manifest with a shape of text", record(shape="9,8,7"), REFUSED, "shape cannot be 9,8,7"),
    Kind(
        "manifest with a crop beyond all numbers", record(crop_origin=[0, 0, 1e300]), REFUSED, "crop_origin cannot be"
    ),
    Kind("manifest with NaN as the share of tumour", record(tumour_fraction=math.nan), REFUSED, "cannot be nan"),
    Kind("manifest with three counts of labels", record(label_voxels=[1, 2, 3]), REFUSED, "label_voxels cannot be"),
    Kind("manifest with labels less than none", record(label_voxels=[-1, 2, 3, 4]), REFUSED, "label_voxels cannot be"),
    Kind("manifest without the labels outside", without("label_voxels_outside"), REFUSED, "outside is missing"),
    Kind(
        "manifest with a checksum of a number", record(checksum={"image": 1, "mask": 2}), REFUSED, "checksum cannot be"
    ),
    Kind("manifest without the files' times", record(stat={"image": {}, "mask": {}}), REFUSED, "stat cannot be"),
    Kind("manifest that failed for no reason", record(status="failed", reason=None), REFUSED, "failed for no reason"),
]
