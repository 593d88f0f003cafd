"""Settings of augmentation, with the defaults of nnU-Net v2 (`nnUNetTrainer.get_training_transforms`)."""

import dataclasses

from jaxbrats.config.checks import need

Range = tuple[float, float]

# nnU-Net's probabilities, for a config file: `settings.augment.update(config.augment.NNUNET)`.
NNUNET = {
    "mirror": 0.5,
    "rotation": 0.2,
    "scaling": 0.2,
    "noise": 0.1,
    "blur": 0.2,
    "brightness": 0.15,
    "contrast": 0.15,
    "low_resolution": 0.25,
    "gamma_inverted": 0.1,
    "gamma": 0.3,
}


@dataclasses.dataclass(frozen=True)
class Augment:
    """How training cases are changed at random; see `jaxbrats.model.augment`.

    Attributes:
        mirror: Probability of mirroring along each axis.
        rotation: Probability of rotating.
        scaling: Probability of scaling.
        elastic: Probability of deforming elastically.
        bias_field: Probability of a bias field: a smooth factor over the volume, another one in each channel.
        noise: Probability of Gaussian noise.
        blur: Probability of Gaussian blur, which takes every second channel on average.
        brightness: Probability of multiplying each channel by a factor.
        contrast: Probability of stretching or shrinking each channel's values about their mean, within their range.
        low_resolution: Probability of simulating low resolution, which takes every second channel on average.
        gamma_inverted: Probability of a power law on each channel's negative, so that bright voxels change most.
        gamma: Probability of a power law on each channel. Both keep its mean and standard deviation.
        modality_dropout: Probability of losing one channel or more, but not all.
        rotation_degrees: Range of the angle about each axis.
        scaling_range: Range of the scale; above 1 a case becomes smaller.
        elastic_displacement: Range of how far at most a point moves, as a share of the volume's size.
        bias_field_strength: Range of the greatest logarithm of the bias field's factor.
        noise_sd: Range of the noise's standard deviation.
        blur_sigma: Range of the blur's standard deviation along each axis, in voxels.
        brightness_range: Range of the factor; half of those drawn lie below 1, as for contrast and gamma.
        contrast_range: Range of the factor.
        low_resolution_zoom: Range of the simulated size, as a share of the volume's.
        gamma_range: Range of the exponent.
    """

    mirror: float = 0.0
    rotation: float = 0.0
    scaling: float = 0.0
    elastic: float = 0.0
    bias_field: float = 0.0
    noise: float = 0.0
    blur: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    low_resolution: float = 0.0
    gamma_inverted: float = 0.0
    gamma: float = 0.0
    modality_dropout: float = 0.0
    rotation_degrees: Range = (-30.0, 30.0)
    scaling_range: Range = (0.7, 1.4)
    elastic_displacement: Range = (0.0, 0.1)
    bias_field_strength: Range = (0.0, 0.5)
    noise_sd: Range = (0.0, 0.1)
    blur_sigma: Range = (0.5, 1.0)
    brightness_range: Range = (0.75, 1.25)
    contrast_range: Range = (0.75, 1.25)
    low_resolution_zoom: Range = (0.5, 1.0)
    gamma_range: Range = (0.7, 1.5)

    def __post_init__(self) -> None:
        for name in PROBABILITIES:
            need(0 <= getattr(self, name) <= 1, f"augment.{name} lies between 0 and 1", getattr(self, name))
        for name, (least, greatest, includes) in _RANGES.items():
            low, high = getattr(self, name)
            rule = f"augment.{name} needs two numbers in order from {least:g} to {greatest:g}"
            rule += f", with {includes:g} among them or between them" if includes is not None else ""
            right = least <= low <= high <= greatest and (includes is None or low <= includes <= high)
            need(right, rule, getattr(self, name))

    @property
    def active(self) -> bool:
        """Whether anything is ever changed."""
        return any(getattr(self, name) for name in PROBABILITIES)


PROBABILITIES = tuple(field.name for field in dataclasses.fields(Augment) if field.type is float)
# Least and greatest value, and one that must lie in the range. Beyond a displacement of 0.1 the elastic deformation may
# fold; a blur wider than 5 voxels leaves nothing to segment.
_RANGES: dict[str, tuple[float, float, float | None]] = {
    "rotation_degrees": (-180.0, 180.0, None),
    "scaling_range": (0.1, 10.0, None),
    "elastic_displacement": (0.0, 0.1, None),
    "bias_field_strength": (0.0, 5.0, None),
    "noise_sd": (0.0, 10.0, None),
    "blur_sigma": (0.0, 5.0, None),
    "brightness_range": (0.0, 10.0, 1.0),
    "contrast_range": (0.0, 10.0, 1.0),
    "low_resolution_zoom": (0.05, 1.0, None),
    "gamma_range": (0.05, 10.0, 1.0),
}
