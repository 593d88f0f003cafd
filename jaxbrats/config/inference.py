"""Settings of prediction: how a trained network is applied, and what is done to its labels."""

import dataclasses
import math

from jaxbrats.config.checks import need


@dataclasses.dataclass(frozen=True)
class Inference:
    """How evaluation and prediction apply the network; validation while training does without mirroring.

    Attributes:
        window: Size (X, Y, Z) in voxels of the windows; None for what the network is trained on, the patch or the
            whole array. A larger one shows more of the brain at once, for more memory.
        overlap: Least share of a window that the next one covers.
        mirror: Whether to average over the eight mirrorings of the image too (the four of a slice); takes eight times
            as long.
    """

    window: tuple[int, int, int] | None = None
    overlap: float = 0.5
    mirror: bool = False

    def __post_init__(self) -> None:
        window = self.window
        need(window is None or min(window) >= 1, "inference.window needs three sizes of 1 or more, or none", window)
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
