"""What a `dataset.json` says of its channels and labels: Medical Segmentation Decathlon and nnU-Net (v1 and v2).

Decathlon and nnU-Net v1 write {"modality": {"0": "FLAIR", ...}, "labels": {"0": "background", "1": "edema", ...}};
nnU-Net v2 writes {"channel_names": {"0": "T1", ...}, "labels": {"background": 0, "edema": 1, ...}}, or the nested
regions as lists of labels. See https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from jaxbrats.data.labels import BACKGROUND, DECATHLON, ED, ET, NCR, REGIONS
from jaxbrats.system import files
from jaxbrats.system.errors import InputError

# Names of channels, in lower case and without punctuation.
_MODALITIES = {
    "t1n": ("t1", "t1n", "t1w", "t1native"),
    "t1c": ("t1c", "t1ce", "t1gd", "t1post", "t1cw", "t1wce"),
    "t2w": ("t2", "t2w"),
    "t2f": ("t2f", "flair", "t2flair", "t2wflair"),
}
# Segmentations are read as bytes.
_LARGEST_LABEL = 255
_REGIONS = {
    "WT": ("wt", "whole tumor", "whole tumour"),
    "TC": ("tc", "tumor core", "tumour core"),
    "ET": ("et", "enhancing tumor", "enhancing tumour"),
}
# First match wins: "non-enhancing" is no enhancing tumour, and the "surrounding non-enhancing FLAIR hyperintensity" of
# BraTS 2023 is its edema.
_LABELS = (
    (r"background|bg", BACKGROUND),
    (r".*edema.*|.*oedema.*|ed|.*\bsnfh\b.*|.*\bhyperintensit.*", ED),
    (r".*\bnon ?enhancing\b.*|.*\bnecro.*|.*\bnetc?|ncr\b.*", NCR),
    (r".*\benhancing\b.*|et", ET),
)


@dataclasses.dataclass(frozen=True)
class DatasetDescription:
    """The part of a dataset.json that tells what the files hold.

    Attributes:
        channels: Channel number -> modality, of those that are a modality of BraTS.
        last_channel: The highest number of all that are named.
        label_map: Label in the files -> project label; None where the names of the labels are not understood.
        names: The names of the labels as written, for the error message then.
    """

    channels: dict[int, str]
    last_channel: int
    label_map: dict[int, int] | None
    names: str


def read_dataset_json(path: pathlib.Path) -> DatasetDescription:
    """Reads a dataset.json.

    Raises:
        InputError: it is not JSON, or names no channel that is a modality of BraTS.
    """
    content = files.read_json(path)
    named = content.get("channel_names", content.get("modality")) if isinstance(content, dict) else None
    if not isinstance(named, dict):
        problem = 'expected "channel_names" or "modality" with the name of each channel'
        raise InputError(problem, file=path, hint='Such as {"channel_names": {"0": "T1", "1": "T1ce"}}')
    channels = {}
    for number, name in named.items():
        plain = re.sub(r"[^a-z0-9]", "", str(name).lower())
        modality = next((modality for modality, names in _MODALITIES.items() if plain in names), None)
        if modality is not None and modality not in channels.values() and re.fullmatch(r"\d{1,4}", str(number)):
            channels[int(number)] = modality
    if not channels:
        shown = ", ".join(map(str, named.values()))
        problem = f"names the channels {shown[:200]}, none of them T1, T1c, T2 or FLAIR"
        raise InputError(problem, file=path, hint="Use these names for the channels")
    last = max(int(number) for number in named if re.fullmatch(r"\d{1,4}", str(number)))
    labels = content.get("labels")
    if not labels:
        return DatasetDescription(channels, last, dict(DECATHLON), "")
    label_map = label_map_of(labels) if isinstance(labels, dict) else None
    return DatasetDescription(channels, last, label_map, str(labels))


def label_map_of(labels: Mapping[str, Any]) -> dict[int, int] | None:
    """The map from the labels in the files to the project's labels, None where a name is not understood.

    Args:
        labels: number -> name (Decathlon), name -> number (nnU-Net), or region -> list of numbers (nnU-Net).
    """
    if all(str(key).isdecimal() for key in labels):
        labels = {str(name): key for key, name in labels.items()}
    try:
        numbers = {
            re.sub(r"[^a-z0-9]+", " ", name.lower()).strip(): {int(number) for number in _as_list(value)}
            for name, value in labels.items()
        }
    except (TypeError, ValueError, OverflowError):
        return None
    if not all(0 <= number <= _LARGEST_LABEL for values in numbers.values() for number in values):
        return None
    if any(len(values) > 1 for values in numbers.values()):
        return _from_regions(numbers)
    label_map = {}
    for name, values in numbers.items():
        label = next((label for pattern, label in _LABELS if re.fullmatch(pattern, name)), None)
        if label is None:
            return None
        label_map |= dict.fromkeys(values, label)
    return label_map | {0: BACKGROUND}


def _from_regions(numbers: Mapping[str, set[int]]) -> dict[int, int] | None:
    """Labels from nested regions: what is in the core but does not enhance is necrosis, what is around it edema."""
    sets = {region: numbers[name] for region, names in _REGIONS.items() for name in names if name in numbers}
    if sets.keys() != REGIONS.keys() or not sets["ET"] < sets["TC"] < sets["WT"]:
        return None
    label_map = {0: BACKGROUND}
    for label, values in ((ED, sets["WT"]), (NCR, sets["TC"]), (ET, sets["ET"])):
        label_map |= dict.fromkeys(values, label)
    return label_map


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]
