"""Settings of the optimiser."""

import dataclasses
import math
from typing import Literal

from jaxbrats.config.checks import need

OptimizerName = Literal["adam", "adamw", "sgd"]
Schedule = Literal["constant", "cosine", "polynomial"]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How gradients become updates; see `jaxbrats.train.optimizer`.

    Attributes:
        name: adam, adamw, or sgd with Nesterov momentum.
        momentum: Momentum of sgd.
        weight_decay: Weight decay of adamw, or of sgd as a part of the gradient; it spares biases and norms.
        clip_norm: Largest global norm of the gradient, to which a larger one is scaled down; none for no clipping.
        warmup: Share of the steps over which the learning rate first rises, linearly from a tenth of its peak; none for
            a twentieth with the cosine schedule and for no warm-up with others.
    """

    name: OptimizerName = "adam"
    momentum: float = 0.99
    weight_decay: float = 0.0
    clip_norm: float | None = None
    warmup: float | None = None

    def __post_init__(self) -> None:
        need(0 <= self.momentum < 1, "optimizer.momentum is from 0 to below 1", self.momentum)
        need(0 <= self.weight_decay < math.inf, "optimizer.weight_decay must be 0 or more", self.weight_decay)
        rule = "optimizer.weight_decay is for adamw and sgd, with optimizer.name = adam it must be 0"
        need(self.name != "adam" or not self.weight_decay, rule, self.weight_decay)
        clip = self.clip_norm
        need(clip is None or 0 < clip < math.inf, "optimizer.clip_norm must be above 0, or none", clip)
        warmup = self.warmup
        need(warmup is None or 0 <= warmup < 1, "optimizer.warmup is from 0 to below 1, or none", warmup)
