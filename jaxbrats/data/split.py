"""Which cases to train on and which to validate on: by patient, balanced by tumour size, written down once."""

import collections
import concurrent.futures
import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging

from jaxbrats.data import manifest as manifests
from jaxbrats.data.arrays import SIDES, ArrayCase, read_labels
from jaxbrats.data.labels import BACKGROUND
from jaxbrats.data.names import natural_key
from jaxbrats.system import files
from jaxbrats.system.errors import InputError

_FILE = "split.json"
_HINT = "Correct it, or delete it to have a new one drawn"


@dataclasses.dataclass(frozen=True)
class Split:
    """Names of the cases on each side, in natural order when drawn here."""

    train: tuple[str, ...]
    val: tuple[str, ...]


def make_split(
    patients: Mapping[str, str], tumour_volume: Mapping[str, float], val_fraction: float, seed: int
) -> Split:
    """Draws a split of the patients, stratified by tumour volume.

    A patient's scans resemble each other, so they are all on one side. Patients are sorted by the tumour volume of all
    their scans and cut into as many strata of neighbours, even in size to one patient, as the smaller side has
    patients; one of each stratum is drawn for that side. Both sides then have small and large tumours in the same
    proportion, and with that nearly the same share of each class.

    Args:
        patients: Case -> patient.
        tumour_volume: Case -> size of its tumour, in any unit.
        val_fraction: Share of the patients to validate on, between 0 and 1. Of n patients it is the nearest whole
            number (halves up), but at least 1 and at most n - 1. A single patient is for training.
        seed: Of the draw, not negative.

    Raises:
        InputError: there is no case, or the fraction or the seed is out of range.
    """
    if not patients:
        raise InputError("there are no cases to split")
    if not 0 < val_fraction < 1:
        raise InputError(f"expected a validation fraction between 0 and 1, found {val_fraction}")
    if seed < 0:
        raise InputError(f"expected a seed of 0 or more, found {seed}")
    volumes = collections.Counter()
    for case, patient in patients.items():
        volumes[patient] += tumour_volume[case]
    ranked = sorted(volumes, key=lambda patient: (volumes[patient], natural_key(patient)))
    num_val = min(max(math.floor(val_fraction * len(ranked) + 0.5), 1), len(ranked) - 1)
    num_drawn = min(num_val, len(ranked) - num_val)
    random = np.random.default_rng(seed)
    strata = np.array_split(np.arange(len(ranked)), num_drawn) if num_drawn else []
    drawn = {ranked[random.choice(stratum)] for stratum in strata}
    validation = drawn if num_drawn == num_val else volumes.keys() - drawn
    cases = sorted(patients, key=natural_key)
    return Split(
        train=tuple(case for case in cases if patients[case] not in validation),
        val=tuple(case for case in cases if patients[case] in validation),
    )


def load_or_make_split(
    data_dir: str | pathlib.Path, cases: Sequence[ArrayCase], val_fraction: float, seed: int
) -> Split:
    """The split of a folder of arrays.

    Where the folder itself is split (train/ and val/), that. Else what DATA/split.json says, {"train": [...], "val":
    [...]}; cases that it doesn't name are left out, with a warning. Else a new one is drawn and written there.

    Args:
        data_dir: The folder.
        cases: Its cases.
        val_fraction: See `make_split`.
        seed: See `make_split`.

    Raises:
        InputError: split.json is not of that form, names a case twice or one that is not there, has a patient on both
            sides, or leaves nothing to train on; or as `make_split`.
    """
    split = find_split(data_dir, cases)
    if split is not None:
        return split
    patients = {case.name: case.patient for case in cases}
    split = make_split(patients, _tumour_volumes(data_dir, cases), val_fraction, seed)
    files.write_json(pathlib.Path(data_dir) / _FILE, dataclasses.asdict(split))
    return split


def find_split(data_dir: str | pathlib.Path, cases: Sequence[ArrayCase]) -> Split | None:
    """The split that a folder of arrays already has, by its own train/ and val/ or by its split.json; None without one.

    Raises:
        InputError: as `load_or_make_split`.
    """
    if any(case.side for case in cases):
        return Split(*(tuple(case.name for case in cases if case.side == side) for side in SIDES))
    path = pathlib.Path(data_dir) / _FILE
    return _read(path, {case.name: case.patient for case in cases}) if path.exists() else None


def _read(path: pathlib.Path, patients: Mapping[str, str]) -> Split:
    content = files.read_json(path)
    sides = [content.get(side) for side in SIDES] if isinstance(content, dict) else []
    names = [name for side in sides if isinstance(side, list) for name in side]
    if not sides or not all(isinstance(part, list) for part in sides) or not all(isinstance(n, str) for n in names):
        raise InputError('expected {"train": [names of cases], "val": [names of cases]}', file=path, hint=_HINT)
    split = Split(*map(tuple, sides))
    for name, count in collections.Counter(names).items():
        if name not in patients:
            hint = f"Restore the case, or delete {_FILE} to have a new one drawn"
            raise InputError("is named here, but there is no such case", case=name, file=path, hint=hint)
        if count > 1:
            raise InputError(f"is named {count} times", case=name, file=path, hint=_HINT)
    trained_on = {patients[name]: name for name in split.train}
    for name in split.val:
        if patients[name] in trained_on:
            problem = f"is for validation, but {trained_on[patients[name]]} of the same patient is for training"
            raise InputError(problem, case=name, file=path, hint=_HINT)
    if not split.train:
        raise InputError("names no case to train on", file=path, hint=_HINT)
    left_out = sorted(patients.keys() - set(names), key=natural_key)
    if left_out:
        some = ", ".join(left_out[:5]) + (", ..." if len(left_out) > 5 else "")
        logging.warning("%s names neither side for %d cases, which are left out: %s", path, len(left_out), some)
    return split


def _tumour_volumes(data_dir: str | pathlib.Path, cases: Sequence[ArrayCase]) -> dict[str, int]:
    """Tumour voxels of each case: as the manifest has counted them, else counted now."""
    records = manifests.read_manifest(data_dir)["cases"] if manifests.has_manifest(data_dir) else {}

    def volume(case: ArrayCase) -> int:
        counts = records.get(case.name, {}).get("label_voxels")
        if counts is None:
            counts = np.bincount(read_labels(case).ravel())
        return int(sum(counts[BACKGROUND + 1 :]))

    # Few threads, since each may hold a mask.
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return dict(zip((case.name for case in cases), pool.map(volume, cases), strict=True))
