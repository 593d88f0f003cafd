"""What a network alone does not say: how its input is made and what its output means, as text for whoever runs it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jaxbrats
from jaxbrats.data.array_box import BRAIN
from jaxbrats.data.labels import LABEL_NAMES, LABEL_TITLES, REGIONS
from jaxbrats.inference.network import Network
from jaxbrats.model.heads import RegionsHead

_NORMALIZATIONS = {
    "minmax": "Each volume as in its file, whole: (voxel - minimum) / (maximum - minimum).",
    "zscore": "Each volume as in its file, whole: (voxel - mean) / standard deviation, both of the voxels that are not "
    "0; voxels that are 0 stay 0.",
}
_DECODING = {
    "labels": "The label of the largest probability; of equal ones the lowest.",
    "regions": "2 where WT is above its threshold; over it 1 where TC is; over both 3 where ET is; else 0.",
}


def describe(network: Network, about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that a program needs to segment a patient with a network, JSON-able; what is not known is left out.

    Args:
        network: Which.
        about: What else is to be known of it, JSON-able.
    """
    regions, prepared = isinstance(network.head, RegionsHead), network.preprocessing
    head = "regions" if regions else "labels"
    where = "the bounding box of the voxels that are not 0 in any modality"
    if prepared.crop != BRAIN:
        where += f", grown about its middle to at least {' x '.join(map(str, prepared.crop))} voxels, with 0 outside"
    values = {
        "purpose": "For education and research. Not a medical device.",
        "made_by": f"jaxbrats {jaxbrats.__version__}",
        "step": network.step,
        "input": "image: float32 (batch, x, y, z, channel), the channels being the modalities in order.",
        "modalities": prepared.modalities,
        "missing_modalities": "Some, not all, may be missing: their channels are 0."
        if network.missing_allowed
        else "None may be missing.",
        "orientation": network.frame and network.frame.orientation,
        "spacing_mm": network.frame and network.frame.spacing_mm,
        "normalization": prepared.normalization,
        "preparation": f"{_NORMALIZATIONS[prepared.normalization]} Then turned to the orientation, cut to {where}, and "
        "resampled linearly to the spacing where the file's differs by more than 1 %; all as far as these are known.",
        "crop": prepared.crop,
        "window": network.window,
        "overlap": network.inference.overlap,
        "mirror": network.inference.mirror,
        "sliding": "Windows over the volume, each overlapping the next at least by the share of overlap; probabilities "
        "are averaged, weighted by a Gaussian about the window's middle of standard deviation window / 8. With mirror, "
        "averaged also over the image mirrored along each combination of its axes. A smaller volume is padded by 0.",
        "output": "probabilities: float32 (batch, x, y, z, channel), as the head says.",
        "head": head,
        "channels": list(REGIONS) if regions else LABEL_NAMES,
        "regions": REGIONS,
        "thresholds": list(network.head.thresholds) if regions else None,
        "labels": dict(enumerate(LABEL_TITLES)),
        "decoding": f"On the voxels of the file, to which the probabilities are resampled linearly. {_DECODING[head]} "
        "Outside of what was cut all is 0.",
        "postprocessing": dataclasses.asdict(network.postprocessing),
        **about,
    }
    return {name: value for name, value in values.items() if value is not None}
