"""Settings of the loss."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

from jaxbrats.config.checks import need

Term = Literal["dice", "focal"]


@dataclasses.dataclass(frozen=True)
class Loss:
    """The weighted sum of terms that training minimises; see `jaxbrats.model.losses`.

    Attributes:
        terms: Weight of each term; one left out or of weight 0 is not computed.
        class_weights: Weights of background, NCR, ED and ET in the Dice loss, of which only the ratios matter.
        alpha: Scale of the focal loss.
        gamma: How strongly the focal loss discounts voxels that are already right; 0 gives cross-entropy.
    """

    terms: Mapping[Term, float] = dataclasses.field(default_factory=lambda: {"dice": 1.0, "focal": 1.0})
    class_weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    alpha: float = 0.25
    gamma: float = 2.0

    def __post_init__(self) -> None:
        weights = self.terms.values()
        right = all(0 <= weight < math.inf for weight in weights) and sum(weights) > 0
        need(right, "loss.terms needs finite weights of 0 or more, one of them above 0", dict(self.terms))
        right = all(0 <= weight < math.inf for weight in self.class_weights) and sum(self.class_weights) > 0
        need(right, "loss.class_weights needs finite weights of 0 or more, one of them above 0", self.class_weights)
        need(0 <= self.alpha < math.inf, "loss.alpha must be 0 or more", self.alpha)
        need(0 <= self.gamma < math.inf, "loss.gamma must be 0 or more", self.gamma)
