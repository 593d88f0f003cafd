"""What anatomy and the scores ask of a segmentation beyond its most probable labels.

Specks of tumour far from the rest are seldom tumour, nor are specks of core in edema; a tumour has no hole of healthy
tissue in its middle; and a little enhancing tumour in a patient is more often none at all (Isensee et al. 2021,
"nnU-Net for Brain Tumor Segmentation", https://doi.org/10.1007/978-3-030-72087-2_11, which relabels it as necrosis;
BraTS scores an enhancing tumour that the reference does not have with 0). How small is too small is a setting,
`config.postprocessing`, or is tuned on a run's validation cases by experiments/tune_postprocess.py, which writes
RUN/postprocess.json.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import cc3d
import numpy as np

from jaxbrats.config import typed
from jaxbrats.config.inference import Postprocessing
from jaxbrats.data.labels import BACKGROUND, ED, ET, NCR, NUM_CLASSES, region_mask
from jaxbrats.data.raw.geometry import bounding_box
from jaxbrats.system.errors import InputError
from jaxbrats.system.files import read_json, write_json

POSTPROCESSING = "postprocess.json"


def postprocess(labels: np.ndarray, spacing_mm: Sequence[float], settings: Postprocessing) -> np.ndarray:
    """Does all that the settings ask for: holes, tumours, cores, enhancing tumour, in this order.

    Args:
        labels: Project labels `(X, Y, Z)`.
        spacing_mm: Voxel size along x, y, z.
        settings: How much of each.

    Returns:
        A new array.
    """
    # The box of the tumour is all that matters: what is background at its border goes on outside.
    box = bounding_box(labels != BACKGROUND)
    tumour = labels[box]
    for step, volume in zip(STEPS, dataclasses.astuple(settings), strict=True):
        tumour = step(tumour, spacing_mm, volume)
    processed = labels.copy()
    processed[box] = tumour
    return processed


def fill_holes(labels: np.ndarray, spacing_mm: Sequence[float], up_to_mm3: float) -> np.ndarray:
    """Fills background that the tumour encloses on all sides.

    Background voxels that share a face are one hole, unless they reach the border of the array. It gets the label that
    most of the faces around it have, of equally many the lowest.

    Args:
        labels: Project labels `(X, Y, Z)`.
        spacing_mm: Voxel size along x, y, z.
        up_to_mm3: Larger holes stay; with 0 all stay.

    Returns:
        The labels, a new array where anything changes.
    """
    if not up_to_mm3:
        return labels
    holes, count = cc3d.connected_components(labels == BACKGROUND, connectivity=6, return_N=True)
    sizes = np.bincount(holes.ravel(), minlength=count + 1) * math.prod(spacing_mm)
    fillable = sizes <= up_to_mm3
    fillable[0] = False
    for axis in range(3):
        for end in (0, -1):
            fillable[np.take(holes, end, axis)] = False
    if not fillable.any():
        return labels
    touching = np.zeros((count + 1, NUM_CLASSES), np.int64)
    for axis in range(3):
        before, after = (slice(None),) * axis + (slice(-1),), (slice(None),) * axis + (slice(1, None),)
        for hole, neighbour in ((before, after), (after, before)):
            faces = fillable[holes[hole]] & (labels[neighbour] != BACKGROUND)
            np.add.at(touching, (holes[hole][faces], labels[neighbour][faces]), 1)
    filled = labels.copy()
    where = fillable[holes]
    filled[where] = touching.argmax(axis=1)[holes[where]]
    return filled


def relabel_components(
    labels: np.ndarray, spacing_mm: Sequence[float], under_mm3: float, *, region: str, label: int
) -> np.ndarray:
    """Gives the connected components (26 neighbours) of a region that are under a volume another label.

    Args:
        labels: Project labels `(X, Y, Z)`.
        spacing_mm: Voxel size along x, y, z.
        under_mm3: The least volume that stays; 0 keeps all.
        region: One of WT, TC and ET, whose labels together make a component.
        label: What becomes of the others.

    Returns:
        The labels, a new array where anything changes.
    """
    if not under_mm3:
        return labels
    components = cc3d.connected_components(region_mask(labels, region), connectivity=26)
    small = np.bincount(components.ravel()) * math.prod(spacing_mm) < under_mm3
    small[0] = False
    return np.where(small[components], labels.dtype.type(label), labels) if small.any() else labels


remove_components = functools.partial(relabel_components, region="WT", label=BACKGROUND)
relabel_cores = functools.partial(relabel_components, region="TC", label=ED)


def relabel_enhancing(labels: np.ndarray, spacing_mm: Sequence[float], under_mm3: float) -> np.ndarray:
    """Turns all enhancing tumour of a patient into necrosis where it is less than a volume.

    Args:
        labels: Project labels `(X, Y, Z)`.
        spacing_mm: Voxel size along x, y, z.
        under_mm3: The least volume that stays; 0 keeps any.

    Returns:
        The labels, a new array where anything changes.
    """
    enhancing = labels == ET
    if 0 < np.count_nonzero(enhancing) * math.prod(spacing_mm) < under_mm3:
        return np.where(enhancing, labels.dtype.type(NCR), labels)
    return labels


# What is done for each setting of `Postprocessing`, in their order.
STEPS = (fill_holes, remove_components, relabel_cores, relabel_enhancing)


def write_postprocessing(workdir: pathlib.Path, settings: Postprocessing, chosen_by: Mapping[str, Any]) -> None:
    """Writes `RUN/postprocess.json`.

    Args:
        workdir: The run.
        settings: What predictions of the run are to go through.
        chosen_by: What the choice rests on, JSON-able, for the reader.
    """
    write_json(workdir / POSTPROCESSING, {"settings": dataclasses.asdict(settings), "chosen_by": dict(chosen_by)})


def read_postprocessing(workdir: pathlib.Path, default: Postprocessing) -> Postprocessing:
    """What a run was tuned for; `default` where it was not.

    Raises:
        InputError: the file is damaged.
    """
    path = workdir / POSTPROCESSING
    if not path.exists():
        return default
    values, hint = read_json(path), "Tune again or delete it"
    settings = values.get("settings") if isinstance(values, Mapping) else None
    if not settings:
        raise InputError("holds no settings", file=path, hint=hint)
    try:
        return typed.build(Postprocessing, typed.complete(Postprocessing, settings, "postprocessing"))
    except InputError as error:
        raise InputError(error.problem, file=path, hint=hint) from error
