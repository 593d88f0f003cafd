"""The names and numbers every part agrees on: modalities, labels and regions.

Labels inside the project are those of BraTS 2023 (https://www.synapse.org/brats2023): 0 background, 1 necrosis (NCR),
2 edema (ED), 3 enhancing tumour (ET). BraTS 2018 to 2021 files write ET as 4; the Medical Segmentation Decathlon has an
order of its own. Both are mapped on reading.
"""

from types import ModuleType
from typing import Any

import numpy as np

MODALITIES = ("t1n", "t1c", "t2w", "t2f")
DEFAULT_MODALITIES = ("t2f", "t1c", "t2w")

NUM_CLASSES = 4
BACKGROUND, NCR, ED, ET = range(NUM_CLASSES)
LABEL_NAMES = ("background", "NCR", "ED", "ET")
LABEL_TITLES = ("background", "necrosis (NCR)", "edema (ED)", "enhancing tumour (ET)")

# The nested regions that BraTS scores, as sets of labels: whole tumour, tumour core, enhancing tumour.
REGIONS = {"WT": (NCR, ED, ET), "TC": (NCR, ET), "ET": (ET,)}
# Rows of every score table: the regions, then the labels that are not a region of their own.
SCORED = {**REGIONS, "NCR": (NCR,), "ED": (ED,)}

# The channels of soft labels `(..., 3)` uint8: what part of a voxel each covers, in 255ths; the rest is background.
SHARES = (NCR, ED, ET)
WHOLE = 255

# File label -> project label, by the convention of the file.
BRATS_2023 = {0: BACKGROUND, 1: NCR, 2: ED, 3: ET}
BRATS_2021 = {0: BACKGROUND, 1: NCR, 2: ED, 4: ET}
DECATHLON = {0: BACKGROUND, 1: ED, 2: NCR, 3: ET}


def most_covered(soft: Any, xp: ModuleType = np) -> Any:
    """Soft labels `(..., 3)` uint8 to the label `(...)` uint8 that covers most of each voxel, of equals the lowest.

    `xp` is the module whose arrays they are, `numpy` or `jax.numpy`.
    """
    background = WHOLE - soft.sum(-1, keepdims=True, dtype=np.int16)
    return xp.argmax(xp.concatenate([background, soft.astype(np.int16)], axis=-1), axis=-1).astype(np.uint8)


def region_mask(labels: np.ndarray, region: str) -> np.ndarray:
    """Boolean mask of a row of `SCORED` in a label volume of any shape."""
    return np.isin(labels, SCORED[region])
