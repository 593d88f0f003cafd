"""Which cases to train on and which to validate on: by patient, balanced by tumour size, written down once."""

import collections
import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping, Sequence, Set

import numpy as np
from absl import logging

from jaxbrats.config.data import Data
from jaxbrats.data.arrays import ArrayCase, label_voxels
from jaxbrats.data.dataset import SIDES, Dataset
from jaxbrats.data.labels import BACKGROUND
from jaxbrats.data.names import natural_key
from jaxbrats.system import files
from jaxbrats.system.errors import InputError

_FILE = "split.json"
_VAL_FRACTION = 0.25
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
    ranked = _by_volume(patients, tumour_volume)
    num_val = min(max(math.floor(val_fraction * len(ranked) + 0.5), 1), len(ranked) - 1)
    num_drawn = min(num_val, len(ranked) - num_val)
    random = np.random.default_rng(seed)
    strata = np.array_split(np.arange(len(ranked)), num_drawn) if num_drawn else []
    drawn = {ranked[random.choice(stratum)] for stratum in strata}
    return _split_off(patients, drawn if num_drawn == num_val else set(ranked) - drawn)


def make_folds(
    patients: Mapping[str, str], tumour_volume: Mapping[str, float], folds: int, fold: int, seed: int
) -> Split:
    """One fold of a cross-validation over the patients, stratified by tumour volume.

    Patients are sorted by tumour volume and cut into strata of `folds` neighbours; each stratum's patients are dealt
    out to the folds in a random order. So every patient validates in exactly one fold, folds differ by one patient at
    most, and each has small and large tumours in the same proportion.

    Args:
        patients: Case -> patient.
        tumour_volume: Case -> size of its tumour, in any unit.
        folds: How many there are.
        fold: Which one validates, 0 to folds - 1.
        seed: Of the draw; the folds of one cross-validation share it.

    Raises:
        InputError: there are fewer patients than folds.
    """
    ranked = _by_volume(patients, tumour_volume)
    if len(ranked) < folds:
        raise InputError(
            f"{folds} folds need as many patients, there are {len(ranked)}", hint="Lower config.data.folds"
        )
    random = np.random.default_rng(seed)
    validation = set()
    for start in range(0, len(ranked), folds):
        stratum = ranked[start : start + folds]
        # The last stratum may be short: its patients go to folds drawn alike.
        for patient, drawn in zip(stratum, random.permutation(folds), strict=False):
            if drawn == fold:
                validation.add(patient)
    return _split_off(patients, validation)


def choose_split(dataset: Dataset, settings: Data) -> tuple[Split, str]:
    """The split for a run that begins.

    A run that names a file (`settings.split`) or asks for a draw (`val_fraction`, `split_seed`, `fold`) gets that.
    Else, where the folder itself is split (train/ and val/), it is that; else what DATA/split.json proposes. Else a
    quarter of the patients is drawn, and written there as the proposal for runs to come.

    Args:
        dataset: The folder's.
        settings: What the run asks for.

    Returns:
        The split, and in words where it comes from.

    Raises:
        InputError: as `read_split`, `make_split` and `make_folds`.
    """
    proposal = dataset.folder / _FILE
    patients = {case.name: case.patient for case in dataset.cases}
    if settings.split:
        return read_split(pathlib.Path(settings.split), patients), settings.split
    drawn = any(value is not None for value in (settings.val_fraction, settings.split_seed, settings.fold))
    if not drawn and any(case.side for case in dataset.cases):
        sides = (tuple(case.name for case in dataset.cases if case.side == side) for side in SIDES)
        return Split(*sides), "the folder's train/ and val/"
    if not drawn and proposal.exists():
        return read_split(proposal, patients), str(proposal)
    volumes, seed = _tumour_volumes(dataset.cases), settings.split_seed or 0
    if settings.fold is not None:
        split = make_folds(patients, volumes, settings.folds, settings.fold, seed)
        return split, f"fold {settings.fold} of {settings.folds}, drawn with seed {seed}"
    fraction = _VAL_FRACTION if settings.val_fraction is None else settings.val_fraction
    split = make_split(patients, volumes, fraction, seed)
    # A folder of arrays may be read-only: the run's own record has the split in any case.
    if not drawn and os.access(dataset.folder, os.W_OK):
        files.write_json(proposal, dataclasses.asdict(split))
    return split, f"drawn, {fraction:g} of the patients for validation, seed {seed}"


def _by_volume(patients: Mapping[str, str], tumour_volume: Mapping[str, float]) -> list[str]:
    """The patients by the tumour volume of all their scans, the smallest first."""
    volumes = collections.Counter()
    for case, patient in patients.items():
        volumes[patient] += tumour_volume[case]
    return sorted(volumes, key=lambda patient: (volumes[patient], natural_key(patient)))


def _split_off(patients: Mapping[str, str], validation: Set[str]) -> Split:
    cases = sorted(patients, key=natural_key)
    return Split(
        train=tuple(case for case in cases if patients[case] not in validation),
        val=tuple(case for case in cases if patients[case] in validation),
    )


def read_split(path: pathlib.Path, patients: Mapping[str, str]) -> Split:
    """Reads {"train": [cases], "val": [cases]}; cases that it doesn't name are left out, with a warning.

    Args:
        path: The file, or the config.json of a run, which holds them as its 'data'.
        patients: Case -> patient, of the cases there are.

    Raises:
        InputError: it is not of that form, names a case twice or one that is not there, has a patient on both sides, or
            leaves nothing to train on.
    """
    content = files.read_json(path)
    if isinstance(content, dict) and isinstance(content.get("data"), dict):
        content = content["data"]
    sides = [content.get(side) for side in SIDES] if isinstance(content, dict) else []
    names = [name for side in sides if isinstance(side, list) for name in side]
    if not sides or not all(isinstance(part, list) for part in sides) or not all(isinstance(n, str) for n in names):
        raise InputError('expected {"train": [names of cases], "val": [names of cases]}', file=path, hint=_HINT)
    split = Split(*map(tuple, sides))
    for name, count in collections.Counter(names).items():
        if name not in patients:
            left_out = "Restore the case (manifest.json says why one was left out)"
            hint = f"{left_out}, or delete {_FILE} to have a new one drawn"
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
        logging.warning(
            "on neither side of %s are %d cases, which are left out: %s. Add them there, or draw another split: "
            "config.data.split_seed",
            path,
            len(left_out),
            some,
        )
    return split


def _tumour_volumes(cases: Sequence[ArrayCase]) -> dict[str, int]:
    """Tumour voxels of each case."""
    tumour = label_voxels(cases)[:, BACKGROUND + 1 :].sum(axis=1)
    return dict(zip((case.name for case in cases), tumour.tolist(), strict=True))
