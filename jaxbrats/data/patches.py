"""Where the patch of a record lies in its array: anywhere, or about a voxel of tumour.

Tumours are a few per cent of a brain, and enhancing tumour a few per cent of these. So a share of the patches is
centred on a tumour voxel, the classes taking turns (oversampling of the foreground, Isensee et al. 2021, nnU-Net,
https://doi.org/10.1038/s41592-020-01008-z). A position follows from seed and number of the record alone.
"""

import numpy as np

from jaxbrats.data.labels import ED, ET, NCR

_TURNS = (ET, NCR, ED)

Size = tuple[int, int, int]


def patch_start(labels: np.ndarray, patch: Size, foreground: float, seed: int, record: int) -> Size:
    """The first voxel of a patch; along an axis that is shorter than the patch the array lies in its middle.

    Args:
        labels: `(X, Y, Z)` of the whole array.
        patch: Size of the patch in voxels.
        foreground: Probability that the patch is centred on a tumour voxel, as near as the array's edges allow; of a
            class that takes its turn by the record's number, or where the case has none of it, of the next.
        seed: Random seed of the run.
        record: Number of the record in the training stream.
    """
    # Raw bits, because NumPy promises never to change these (NEP 19).
    bits = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(record,))).random_raw(4)
    rooms = [max(whole - size, 0) for whole, size in zip(labels.shape, patch, strict=True)]
    starts = [int(draw) % (room + 1) for draw, room in zip(bits[1:], rooms, strict=True)]
    if bits[0] / 2**64 < foreground and (centre := _tumour_voxel(labels, record, int(bits[1]))) is not None:
        sides = zip(centre, patch, rooms, strict=True)
        starts = [min(max(int(voxel) - size // 2, 0), room) for voxel, size, room in sides]
    # Where zeros go around the array, as `predict_probabilities` puts them.
    lacking = [max(size - whole, 0) for whole, size in zip(labels.shape, patch, strict=True)]
    return tuple(start - missing // 2 for start, missing in zip(starts, lacking, strict=True))


def _tumour_voxel(labels: np.ndarray, record: int, draw: int) -> tuple[np.ndarray, ...] | None:
    for turn in range(len(_TURNS)):
        places = np.flatnonzero(labels == _TURNS[(record + turn) % len(_TURNS)])
        if len(places):
            return np.unravel_index(places[draw % len(places)], labels.shape)
    return None
