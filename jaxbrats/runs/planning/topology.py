"""How deep a U-Net can be for a patch, and along which axes it halves and convolves at each level.

The rules of nnU-Net v2 (`get_pool_and_conv_props`, Isensee et al. 2021, doi:10.1038/s41592-020-01008-z).
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jaxbrats.config.model import downsampling

Size = tuple[int, int, int]

# Voxels that the deepest level has along each axis that was halved, at least.
LEAST_EDGE = 4
# Along an axis whose voxels are this many times as large as the smallest, a level is neither halved nor convolved.
COARSE = 2


class Topology(NamedTuple):
    """A network's shape for a patch.

    Attributes:
        patch: Size (X, Y, Z) in voxels, a multiple of what the strides make of it.
        strides: How much smaller along X, Y and Z each level makes the next.
        kernels: Size along X, Y and Z of the convolutions of each level, one more than strides.
    """

    patch: Size
    strides: tuple[Size, ...]
    kernels: tuple[Size, ...]

    @property
    def multiple(self) -> Size:
        """What the patch's sizes are multiples of."""
        return downsampling(len(self.kernels), self.strides)


def plan_topology(spacing_mm: Sequence[float], size: Size, most_levels: int) -> Topology:
    """The deepest network for a patch.

    Args:
        spacing_mm: Size of its voxels.
        size: Of the patch in voxels; it is rounded up.
        most_levels: Levels that the network may have.
    """
    spacing, edge, kernel = list(spacing_mm), list(size), [1, 1, 1]
    strides, kernels = [], []
    while len(strides) < most_levels - 1:
        long_enough = [axis for axis in range(3) if edge[axis] >= 2 * LEAST_EDGE]
        finest = min((spacing[axis] for axis in long_enough), default=0)
        halved = [axis for axis in long_enough if spacing[axis] / finest < COARSE]
        if not halved or (len(halved) == 1 and edge[halved[0]] < 3 * LEAST_EDGE):
            break
        kernel = [3 if size == 3 or spacing[axis] / min(spacing) < COARSE else 1 for axis, size in enumerate(kernel)]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in halved else 1 for axis in range(3)))
        for axis in halved:
            spacing[axis], edge[axis] = spacing[axis] * 2, math.ceil(edge[axis] / 2)
    multiple = downsampling(len(strides) + 1, strides)
    patch = tuple(math.ceil(length / factor) * factor for length, factor in zip(size, multiple, strict=True))
    return Topology(patch, tuple(strides), (*kernels, (3, 3, 3)))


def shrinking(spacing_mm: Sequence[float], box: Size, most_levels: int, least_share: float) -> Iterator[Topology]:
    """Networks for smaller and smaller patches, from the whole box down.

    Each patch is shorter than the one before along the axis that is longest in mm, by as little as the network allows.

    Args:
        spacing_mm: Size of the voxels.
        box: Size (X, Y, Z) in voxels that the first patch holds.
        most_levels: Levels that a network may have.
        least_share: Share of the box that each patch holds along every axis.
    """
    topology = plan_topology(spacing_mm, box, most_levels)
    least = [least_share * length for length in box]
    while topology.strides and all(length >= limit for length, limit in zip(topology.patch, least, strict=True)):
        yield topology
        patch = list(topology.patch)
        longest = max(range(3), key=lambda axis: patch[axis] * spacing_mm[axis])
        # A shorter patch may be halved less often, and then need not be so much shorter.
        tried = list(patch)
        tried[longest] -= topology.multiple[longest]
        patch[longest] -= plan_topology(spacing_mm, tuple(tried), most_levels).multiple[longest]
        topology = plan_topology(spacing_mm, tuple(patch), most_levels)
