"""Settings of the network."""

import dataclasses
from typing import Literal

from jaxbrats.config.checks import need

Norm = Literal["none", "instance", "group", "batch"]
HeadName = Literal["labels", "regions"]
Activation = Literal["relu", "leaky_relu", "gelu", "silu"]


def downsampling(depth: int) -> tuple[int, int, int]:
    """How much smaller than the image the deepest level of a network is along X, Y and Z; sizes must be multiples."""
    factor = 2 ** (depth - 1)
    return factor, factor, factor


@dataclasses.dataclass(frozen=True)
class Model:
    """The network, `jaxbrats.model.unet.UNet3D`.

    Attributes:
        features: Channels of each level, from the full size to the bottom; their number is the depth.
        norm: Normalisation after each convolution.
        activation: Activation function after each normalisation.
        dropout: Dropout rate of each level, or one for all.
        head: What the output means: a softmax over the labels, or a sigmoid for each of the regions WT, TC and ET.
        thresholds: Probability of WT, TC and ET above which a voxel belongs to it, with the head regions.
    """

    features: tuple[int, ...] = (16, 32, 64, 128, 256)
    norm: Norm = "none"
    activation: Activation = "relu"
    dropout: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2, 0.3)
    head: HeadName = "labels"
    thresholds: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        need(min(self.features, default=0) >= 1, "model.features needs positive numbers", self.features)
        need(all(0 <= rate < 1 for rate in self.dropout), "model.dropout needs rates from 0 to below 1", self.dropout)
        depth = len(self.features)
        rule = f"model.dropout needs one rate, or one for each of the {depth} levels of model.features"
        need(len(self.dropout) in (1, depth), rule, self.dropout)
        need(all(0 <= p < 1 for p in self.thresholds), "model.thresholds lie from 0 to below 1", self.thresholds)
        right = self.head == "regions" or self.thresholds == (0.5, 0.5, 0.5)
        need(right, "model.thresholds are for model.head = regions", self.thresholds)
