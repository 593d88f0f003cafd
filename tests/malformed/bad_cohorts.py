"""Kinds of bad and odd cohorts: names, links, permissions, files missing or twice, a broken dataset.json."""

import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from malformed.bad_files import Spoil
from malformed.kinds import ODD, REFUSED, SAME, Files, Kind, nifti, voxels_of, write

_UNREADABLE = "cannot be read"
_FOUND_NO = "found no t1c"


def named(name: str) -> Spoil:
    """Gives the case, its folder and files, another name."""

    def spoil(files: Files) -> None:
        folder = files.image.parent
        for path in folder.iterdir():
            path.rename(path.with_name(path.name.replace(ODD, name)))
        folder.rename(folder.with_name(name))

    return spoil


def instead(make: Callable[[Files], None]) -> Spoil:
    """Puts something else in the place of the image."""

    def spoil(files: Files) -> None:
        files.image.unlink()
        make(files)

    return spoil


def data_set(description: Any) -> Spoil:
    """Turns the case into a Medical Segmentation Decathlon data set with such a dataset.json (text, bytes or JSON)."""

    def spoil(files: Files) -> None:
        folder = files.image.parent
        order = ("t2f", "t1n", "t1c", "t2w")
        paths = [folder / f"{ODD}-{modality}.nii.gz" for modality in order]
        write(folder / "imagesTr" / f"{ODD}.nii.gz", nifti(np.stack([voxels_of(path) for path in paths], -1)))
        # The Decathlon calls edema 1 and necrosis 2.
        array = voxels_of(files.labels)
        write(folder / "labelsTr" / f"{ODD}.nii.gz", nifti(np.array([0, 2, 1, 3], np.uint8)[array]))
        for path in [*paths, files.labels]:
            path.unlink()
        path = folder / "dataset.json"
        if description is None:
            os.mkfifo(path)
        elif isinstance(description, bytes):
            path.write_bytes(description)
        else:
            path.write_text(description if isinstance(description, str) else json.dumps(description))

    return spoil


def _twice(files: Files) -> None:
    write(files.image.with_suffix(""), nifti(voxels_of(files.image)))


def _in_two_folders(files: Files) -> None:
    other = files.folder / "copy"
    other.mkdir()
    for path in files.image.parent.iterdir():
        (other / path.name).write_bytes(path.read_bytes())


def _rest_gone(files: Files) -> None:
    for path in files.image.parent.iterdir():
        if path != files.labels:
            path.unlink()


def _empty_folder(files: Files) -> None:
    for path in files.image.parent.iterdir():
        path.unlink()


def _upper_case(files: Files) -> None:
    for path in files.image.parent.iterdir():
        path.rename(path.with_name(path.name.replace(".nii.gz", ".NII.GZ")))


def _resource_forks(files: Files) -> None:
    for path in list(files.image.parent.iterdir()):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    (files.folder / "__MACOSX").mkdir()
    (files.folder / "__MACOSX" / files.image.name).write_bytes(b"")


def _elsewhere(files: Files) -> None:
    target = files.folder.parent / "elsewhere.bin"
    files.image.rename(target)
    files.image.symlink_to(target)


CHANNELS = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
LABELS = {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"}
_SOUND = {"modality": CHANNELS, "labels": LABELS}
_NO_LABELS = "expected labels that name edema"

KINDS = [
    Kind("name with spaces", named("BraTS GLI 2 x-000"), SAME),
    Kind("name in other alphabets and an emoji", named("Größe-脳-🧠-002"), SAME),
    Kind("name with quotes", named("a'b\"c`d-002"), SAME),
    Kind("name with a newline and a tab", named("first\nsecond\tthird-002"), SAME),
    Kind("name with terminal escapes", named("\x1b[31mred\x07-002"), SAME),
    Kind("name that is no UTF-8", named("caf\udce9-002"), REFUSED, "has a name that is not UTF-8"),
    Kind("name like a flag and a format", named("--out=x{0}%s$(x)*;&-002"), SAME),
    Kind("name of 200 characters", named("n" * 200), SAME),
    Kind("name of 240 characters", named("n" * 240), REFUSED, "has a name of 240 bytes, at most 200 are taken"),
    Kind("name with a backslash", named("a\\x-002"), REFUSED, "has a name that no file may have"),
    Kind("name that is the beginning of the other", named("BraTS-GLI"), SAME),
    Kind("suffix in capitals", _upper_case, SAME),
    Kind("what macOS leaves in archives", _resource_forks, SAME),
    Kind("link to a file elsewhere", _elsewhere, SAME),
    Kind("folders that link in a circle", lambda files: (files.image.parent / "up").symlink_to(files.folder), SAME),
    Kind("link to itself", instead(lambda files: files.image.symlink_to(files.image)), REFUSED, _UNREADABLE),
    Kind("link to nothing", instead(lambda files: files.image.symlink_to("nothing")), REFUSED, _UNREADABLE),
    Kind("folder called .nii.gz", instead(lambda files: files.image.mkdir()), REFUSED, _FOUND_NO),
    Kind("named pipe called .nii.gz", instead(lambda files: os.mkfifo(files.image)), REFUSED, "expected a file"),
    Kind("file nobody may read", lambda files: files.image.chmod(0), REFUSED, _UNREADABLE, needs_user=True),
    Kind("folder nobody may list", lambda files: files.image.parent.chmod(0), REFUSED, _UNREADABLE, needs_user=True),
    Kind(
        "folder nobody may enter", lambda files: files.image.parent.chmod(0o444), REFUSED, _UNREADABLE, needs_user=True
    ),
    Kind("modality missing", lambda files: files.image.unlink(), REFUSED, _FOUND_NO),
    Kind("segmentation alone", _rest_gone, REFUSED, "has a segmentation but no image"),
    Kind("folder of a case without files", _empty_folder, REFUSED, "has no image of a name that is understood"),
    Kind(
        "second folder of a case, without files",
        lambda files: (files.folder / "copy" / ODD).mkdir(parents=True),
        SAME,
        "has no image of a name that is understood",
    ),
    Kind("image as .nii and as .nii.gz", _twice, REFUSED, "appears twice"),
    Kind("case in two folders", _in_two_folders, REFUSED, "appears twice"),
    Kind("data set in the form of the Decathlon", data_set(_SOUND), SAME),
    Kind("dataset.json with a byte-order mark", data_set("\ufeff" + json.dumps(_SOUND)), SAME),
    Kind("dataset.json cut short", data_set(json.dumps(_SOUND)[:40]), REFUSED, "is not valid JSON"),
    Kind("dataset.json that is no text", data_set(bytes(range(256))), REFUSED, "is not valid JSON"),
    Kind("dataset.json nested a million deep", data_set("[" * 1_000_000), REFUSED, "is not valid JSON"),
    Kind("dataset.json that is a list", data_set([_SOUND]), REFUSED, 'expected "channel_names"'),
    Kind("dataset.json that is a named pipe", data_set(None), REFUSED, "expected a file"),
    Kind("dataset.json of a CT", data_set(_SOUND | {"modality": {"0": "CT"}}), REFUSED, "names the channels CT"),
    Kind(
        "dataset.json with a channel that is not in the file",
        data_set(_SOUND | {"modality": CHANNELS | {"3": "?", "7": "T2w"}}),
        REFUSED,
        "expected at least 8 channels, found 4",
    ),
    Kind(
        "dataset.json with a channel number of 5000 digits",
        data_set(_SOUND | {"modality": {"9" * 5000: "FLAIR", "0": "CT"}}),
        REFUSED,
        "names the channels",
    ),
    Kind("dataset.json of another organ", data_set(_SOUND | {"labels": {"0": "liver"}}), REFUSED, _NO_LABELS),
    Kind(
        "dataset.json with a label of infinity",
        data_set(_SOUND | {"labels": {"background": 0, "edema": float("inf")}}),
        REFUSED,
        _NO_LABELS,
    ),
    Kind(
        "dataset.json with a label of 300",
        data_set(_SOUND | {"labels": {"background": 0, "edema": 300, "necrosis": 2, "enhancing": 3}}),
        REFUSED,
        _NO_LABELS,
    ),
]
