"""Settings of the network."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, TypeVar

from jaxbrats.config.checks import need

Norm = Literal["none", "instance", "group", "batch"]
HeadName = Literal["labels", "regions"]
Activation = Literal["relu", "leaky_relu", "gelu", "silu"]
Block = Literal["plain", "single", "residual"]
Downsample = Literal["pool", "conv"]
Dimensions = Literal["3d", "2.5d", "2d"]
Size = tuple[int, int, int]
Value = TypeVar("Value")


def downsampling(depth: int, strides: Sequence[Size] = ((2, 2, 2),)) -> Size:
    """How much smaller than the image the deepest level of a network is along X, Y and Z; sizes must be multiples.

    Args:
        depth: Levels of the network.
        strides: From each level to the next, or one for all.
    """
    x, y, z = (math.prod(stride[axis] for stride in per_level(strides, depth - 1)) for axis in range(3))
    return x, y, z


def per_level(values: Sequence[Value], levels: int) -> tuple[Value, ...]:
    """One value for each level, where there may be one for all."""
    return tuple(values) * levels if len(values) == 1 else tuple(values)


@dataclasses.dataclass(frozen=True)
class Model:
    """The network, `jaxbrats.model.unet.UNet3D`.

    Attributes:
        features: Channels of each level, from the full size to the bottom; their number is the depth.
        norm: Normalisation after each convolution.
        activation: Activation function after each normalisation.
        dropout: Dropout rate of each level, or one for all, between the two convolutions of a block.
        head: What the output means: a softmax over the labels, or a sigmoid for each of the regions WT, TC and ET.
        thresholds: Probability of WT, TC and ET above which a voxel belongs to it, with the head regions.
        block: What encoder and bottom are made of: plain, two convolutions; single, one; residual, two and a shortcut.
        blocks_per_level: Blocks of each level of encoder and bottom, or one number for all.
        decoder_block: What the decoder is made of; none for the same as the encoder.
        decoder_blocks_per_level: Blocks of each level of the decoder, from the full size down, or one number for all.
        stem: Whether one convolution, normalised and activated, comes before the first level.
        stochastic_depth: Rate at which residuals are left out while training, rising linearly with the level.
        squeeze_excitation: Whether each block weights its channels by their mean over the volume.
        attention_gates: Whether the decoder weights the voxels of what the encoder hands it.
        downsample: What makes a volume smaller: pool, a maximum over voxels; conv, the next level's first convolution.
        dimensions: 3d as strides and kernels have it; 2d for single slices along Z (data.patch of X,Y,1), strides and
            kernels 1 along Z; 2.5d for slabs of several (X,Y,5), seen and segmented together, strides 1 along Z.
        strides: How much smaller along X, Y and Z each level makes the next, 1 or 2; or one for all.
        kernels: Size along X, Y and Z of each level's convolutions, or one for all; 3x3x1 for thick slices.
        deep_supervision: Whether the loss is also taken at the decoder's smaller levels, with halving weights.
    """

    features: tuple[int, ...] = (16, 32, 64, 128, 256)
    norm: Norm = "none"
    activation: Activation = "relu"
    dropout: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2, 0.3)
    head: HeadName = "labels"
    thresholds: tuple[float, float, float] = (0.5, 0.5, 0.5)
    block: Block = "plain"
    blocks_per_level: tuple[int, ...] = (1,)
    decoder_block: Block | None = None
    decoder_blocks_per_level: tuple[int, ...] = (1,)
    stem: bool = False
    stochastic_depth: float = 0.0
    squeeze_excitation: bool = False
    attention_gates: bool = False
    downsample: Downsample = "pool"
    dimensions: Dimensions = "3d"
    strides: tuple[Size, ...] = ((2, 2, 2),)
    kernels: tuple[Size, ...] = ((3, 3, 3),)
    deep_supervision: bool = False

    def __post_init__(self) -> None:
        need(min(self.features, default=0) >= 1, "model.features needs positive numbers", self.features)
        need(all(0 <= rate < 1 for rate in self.dropout), "model.dropout needs rates from 0 to below 1", self.dropout)
        for name in ("blocks_per_level", "decoder_blocks_per_level"):
            need(min(getattr(self, name), default=0) >= 1, f"model.{name} needs positive numbers", getattr(self, name))
        right = all(stride in (1, 2) for strides in self.strides for stride in strides)
        need(right, "model.strides needs ones and twos", self.strides)
        right = all(size >= 1 and size % 2 for sizes in self.kernels for size in sizes)
        need(right, "model.kernels needs odd sizes", self.kernels)
        need(all(0 <= p < 1 for p in self.thresholds), "model.thresholds lie from 0 to below 1", self.thresholds)
        right = self.head == "regions" or self.thresholds == (0.5, 0.5, 0.5)
        need(right, "model.thresholds are for model.head = regions", self.thresholds)
        self._check_numbers_of_levels()
        need(0 <= self.stochastic_depth < 1, "model.stochastic_depth is from 0 to below 1", self.stochastic_depth)
        right = not self.stochastic_depth or "residual" in (self.block, self.decoder_block)
        need(right, "model.stochastic_depth needs residual blocks, there are none", self.stochastic_depth)

    def _check_numbers_of_levels(self) -> None:
        depth = len(self.features)
        every, upper = f"{depth} levels of model.features", f"{depth - 1} levels above the bottom"
        for name, what, levels, where in (
            ("dropout", "rate", depth, every),
            ("blocks_per_level", "number", depth, every),
            ("decoder_blocks_per_level", "number", depth - 1, upper),
            ("strides", "triple", depth - 1, upper),
            ("kernels", "triple", depth, every),
        ):
            values = getattr(self, name)
            need(len(values) in (1, levels), f"model.{name} needs one {what}, or one for each of the {where}", values)
        # Of the decoder's levels, one fewer, the lowest is left out.
        rule = f"model.deep_supervision needs 4 levels of model.features or more, there are {depth}"
        need(depth > 3 or not self.deep_supervision, rule, self.deep_supervision)

    @property
    def downsampling(self) -> Size:
        """How much smaller than the image the deepest level is along X, Y and Z."""
        return downsampling(len(self.features), self.network_strides)

    @property
    def network_strides(self) -> tuple[Size, ...]:
        """The strides, as the dimensions leave them."""
        return self.strides if self.dimensions == "3d" else _flat(self.strides)

    @property
    def network_kernels(self) -> tuple[Size, ...]:
        """The kernels' sizes, as the dimensions leave them."""
        return _flat(self.kernels) if self.dimensions == "2d" else self.kernels


def _flat(sizes: Sequence[Size]) -> tuple[Size, ...]:
    """1 along Z."""
    return tuple((x, y, 1) for x, y, _ in sizes)
