"""What a volume's values are normalised by."""

import numpy as np

from jaxbrats.data.raw.nifti import Volume
from jaxbrats.system.errors import InputError

NORMALIZATIONS = ("minmax", "zscore")


def statistics_of(volume: Volume, normalization: str, case: str) -> tuple[float, float, dict[str, float]]:
    """The numbers that normalise a volume, taken over all of it.

    Args:
        volume: As read.
        normalization: 'minmax' maps the whole volume to [0, 1]; 'zscore' gives its brain voxels, those that are not
            zero, mean 0 and standard deviation 1.
        case: Name for error messages.

    Returns:
        The offset to subtract, the scale to divide by, and both as the manifest calls them.

    Raises:
        InputError: the brain has the same value everywhere and 'zscore' is asked for.
    """
    if normalization == "minmax":
        statistics = {"min": volume.minimum, "max": volume.maximum}
        return volume.minimum, volume.maximum - volume.minimum, statistics
    flat = volume.data.ravel("K")
    brain = flat[flat != 0]
    # Not by the deviation: rounding of the mean makes it tiny instead of zero.
    if brain.min() == brain.max():
        problem = f"every voxel that is not zero has the value {brain[0]:g}, which cannot be normalised"
        raise InputError(problem, case=case, file=volume.path, hint="Export it again")
    offset, scale = float(brain.mean(dtype=np.float64)), float(brain.std(dtype=np.float64))
    return offset, scale, {"mean": offset, "std": scale}
