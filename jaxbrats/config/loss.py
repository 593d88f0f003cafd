"""Settings of the loss."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

from jaxbrats.config.checks import need
from jaxbrats.config.model import HeadName

Term = Literal["dice", "tversky", "boundary", "ce", "bce", "topk", "focal"]

_ONE_HEAD: dict[str, HeadName] = {"ce": "labels", "bce": "regions"}
_ALIKE = {"labels": (1.0,) * 4, "regions": (1.0,) * 3}


@dataclasses.dataclass(frozen=True)
class Loss:
    """The weighted sum of terms that training minimises; see `jaxbrats.model.losses`.

    Attributes:
        terms: Weight of each term; one left out or of weight 0 is not computed. ce goes with the head labels, bce with
            regions, the others with both.
        class_weights: Weights of background, NCR, ED and ET in all terms but focal and topk with the head labels, of
            which only the ratios matter; balanced for the inverse of their share of the training voxels.
        region_weights: The same of WT, TC and ET with the head regions.
        dice_per: Whether Dice and Tversky are of all cases of a batch together or the mean of each case's own.
        dice_squared: Whether the probabilities in the denominator of Dice are squared, as Milletari et al. have it.
        dice_background: Whether the background is one of the classes in Dice, Tversky and boundary loss, with the head
            labels.
        tversky_fp: Weight of false positives in the Tversky loss.
        tversky_fn: Weight of false negatives in the Tversky loss.
        topk: Share of the voxels, those with the largest cross-entropy, that the topk loss is the mean of.
        alpha: Scale of the focal loss; with the head regions that of voxels within a region, 1 - alpha of the others.
        gamma: How strongly the focal loss discounts voxels that are already right; 0 gives cross-entropy.
    """

    terms: Mapping[Term, float] = dataclasses.field(default_factory=lambda: {"dice": 1.0, "focal": 1.0})
    class_weights: tuple[float, float, float, float] | Literal["balanced"] = _ALIKE["labels"]
    region_weights: tuple[float, float, float] | Literal["balanced"] = _ALIKE["regions"]
    dice_per: Literal["batch", "case"] = "batch"
    dice_squared: bool = False
    dice_background: bool = True
    tversky_fp: float = 0.3
    tversky_fn: float = 0.7
    topk: float = 0.1
    alpha: float = 0.25
    gamma: float = 2.0

    def __post_init__(self) -> None:
        weights = self.terms.values()
        right = all(0 <= weight < math.inf for weight in weights) and sum(weights) > 0
        need(right, "loss.terms needs finite weights of 0 or more, one of them above 0", dict(self.terms))
        for name in ("class_weights", "region_weights"):
            weights = getattr(self, name)
            right = weights == "balanced" or (all(0 <= weight < math.inf for weight in weights) and sum(weights) > 0)
            need(right, f"loss.{name} needs finite weights of 0 or more, one of them above 0", weights)
        right = self.dice_background or self.class_weights == "balanced" or sum(self.class_weights[1:]) > 0
        need(right, "loss.class_weights leaves nothing without loss.dice_background", self.class_weights)
        for name in ("alpha", "gamma", "tversky_fp", "tversky_fn"):
            need(0 <= getattr(self, name) < math.inf, f"loss.{name} must be 0 or more", getattr(self, name))
        need(0 < self.topk <= 1, "loss.topk is above 0, up to 1", self.topk)

    def check_head(self, head: HeadName) -> None:
        """Refuses what means nothing for a network with this head."""
        for term, weight in self.terms.items():
            needed = _ONE_HEAD.get(term, head)
            need(not weight or needed == head, f"loss.terms has {term}, which needs model.head = {needed}", head)
        for name, needed in (("class_weights", "labels"), ("region_weights", "regions")):
            right = needed == head or getattr(self, name) == _ALIKE[needed]
            need(right, f"loss.{name} is for model.head = {needed}, not {head}", getattr(self, name))
        need(self.alpha <= 1 or head == "labels", "loss.alpha is at most 1 with model.head = regions", self.alpha)
        right = self.dice_background or head == "labels"
        need(right, f"loss.dice_background is for model.head = labels; {head} have no background", False)
