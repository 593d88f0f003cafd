"""Settings of prediction: how a trained network is applied, and what is done to its labels."""

import dataclasses
import math

from jaxbrats.config.checks import need


@dataclasses.dataclass(frozen=True)
class Inference:
    """How evaluation and prediction apply the network; validation while training does without mirroring.

    Attributes:
        overlap: Least share of a window that the next one covers.
        mirror: Whether to average over the eight mirrorings of the image too (the four of a slice); takes eight times
            as long.
    """

    overlap: float = 0.5
    mirror: bool = False

    def __post_init__(self) -> None:
        need(0 <= self.overlap <= 0.9, "inference.overlap is from 0 to 0.9", self.overlap)


@dataclasses.dataclass(frozen=True)
class Postprocessing:
    """What evaluation and prediction do to the labels; see `jaxbrats.inference.postprocess`.

    Attributes:
        hole_mm3: Volume up to which holes in the tumour are filled; 0 for none.
        component_mm3: Volume below which connected tumours are removed; 0 for none.
        core_mm3: Volume below which connected tumour cores become edema; 0 for none.
        enhancing_mm3: Volume of enhancing tumour below which all of a patient's becomes necrosis; 0 for none.
    """

    hole_mm3: float = 0.0
    component_mm3: float = 0.0
    core_mm3: float = 0.0
    enhancing_mm3: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            need(0 <= value < math.inf, f"postprocessing.{field.name} is a volume in mm^3, 0 or more", value)
