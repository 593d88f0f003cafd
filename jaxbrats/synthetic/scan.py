"""What a scanner makes of a phantom: the four modalities of BraTS with contrast, texture, bias field, gain and noise.

The means stand for what is typical of glioma MRI after skull-stripping. They overlap on purpose, as real ones do: fluid
is brighter than edema on T2w, cortex and aged white matter come close to edema on T2f, and vessels, sinus and plexus
take up contrast agent as the rim does.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from jaxbrats.data.labels import MODALITIES
from jaxbrats.synthetic import phantom
from jaxbrats.synthetic import tumour as phantom_tumour

# Mean signal of each tissue on t1n, t1c, t2w, t2f, that of white matter being 1.
SIGNAL = {
    "white": (1.00, 1.00, 1.00, 1.00),
    "grey": (0.86, 0.88, 1.45, 1.54),
    "fluid": (0.45, 0.52, 3.60, 0.50),
    "vessel": (0.75, 1.65, 0.80, 0.80),
    "choroid": (0.75, 1.50, 2.60, 1.40),
    "gliosis": (0.90, 0.90, 1.70, 1.85),
    "edema": (0.80, 0.78, 2.45, 2.15),
    "enhancing": (0.84, 1.46, 2.00, 1.92),
    "necrosis": (0.64, 0.62, 3.05, 1.75),
}
_TUMOUR = ("edema", "enhancing", "necrosis")
# File value of white matter, standard deviation of the noise (white matter 1), and how strongly and in which sense
# the tissue's texture shows, for t1n, t1c, t2w, t2f.
GAIN = (1000, 2500, 450, 780)
NOISE = (0.03, 0.035, 0.06, 0.065)
TEXTURE = (-0.5, 0.7, 1.0, 1.2)
# BraTS stores int16; this leaves every intensity positive and the background alone at 0.
_LARGEST = np.iinfo(np.int16).max


@dataclasses.dataclass(frozen=True)
class Scanner:
    """What differs between scanners and their protocols.

    Attributes:
        factors: Of the mean signals of some tissues, as `SIGNAL`: what another sequence timing makes of them.
        gamma: Power of each modality's signal: below 1 tissues differ less.
        bias: Standard deviation of the bias field's logarithm.
        noise: Standard deviation of the noise, over `NOISE`.
        blur_mm: Standard deviation of the blur along x, y, z. That of slices of 5 mm is 1.4 mm.
    """

    factors: Mapping[str, tuple[float, float, float, float]] = dataclasses.field(default_factory=dict)
    gamma: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    bias: float = 0.11
    noise: float = 1.0
    blur_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)


_TYPICAL = Scanner()


def scan(
    outline: phantom.Outline,
    head: phantom.Head,
    tumour: phantom_tumour.Tumour,
    rng: np.random.Generator,
    scanner: Scanner = _TYPICAL,
) -> dict[str, np.ndarray]:
    """Images a patient once.

    Args:
        outline: The brain voxels.
        head: Healthy tissue; where there is tumour it counts for what is left of the voxel.
        tumour: The tumour.
        rng: Draws gain, bias field and noise, and how the tissues look.
        scanner: What the image is made with.

    Returns:
        t1n, t1c, t2w, t2f -> int16 volume (X, Y, Z), 0 outside of the brain and at least 1 inside.
    """
    shares = {name: getattr(head, name) * (1 - tumour.whole) for name in SIGNAL if name not in _TUMOUR} | {
        "edema": tumour.whole - tumour.core,
        "enhancing": tumour.core - tumour.necrosis,
        "necrosis": tumour.necrosis,
    }
    texture = 0.7 * outline.noise(rng, 7) + 0.7 * outline.noise(rng, 22)
    roughness = 0.03 + 0.07 * shares["grey"] + 0.12 * tumour.whole
    # Necrosis holds fluid that T2f suppresses, or blood and debris that it does not.
    cyst = {"necrosis": rng.uniform(0.6, 1.15)}
    volumes = {}
    for channel, modality in enumerate(MODALITIES):
        signal = np.zeros(len(texture), np.float32)
        for name, share in shares.items():
            mean = SIGNAL[name][channel] * np.exp((0.06 if name in _TUMOUR else 0.04) * rng.standard_normal())
            mean *= scanner.factors[name][channel] if name in scanner.factors else 1.0
            mean = mean * (cyst.get(name, 1.0) if modality == "t2f" else 1.0)
            if modality == "t2f" and name in _TUMOUR:
                mean += (tumour.t2f_contrast - 1) * (mean - 1)
            signal += float(mean) * share
        if scanner.gamma[channel] != 1:
            signal = np.maximum(signal, 0) ** np.float32(scanner.gamma[channel])
        bias = scanner.bias * outline.noise(rng, 90)
        signal *= np.exp(bias + TEXTURE[channel] * roughness * texture)
        if any(scanner.blur_mm):
            signal = _blurred(outline, signal, scanner.blur_mm)
        # The magnitude of a complex signal with Gaussian noise in both parts (Gudbjartsson and Patz 1995).
        noise = scanner.noise * NOISE[channel] * rng.standard_normal((2, len(signal)), dtype=np.float32)
        gain = float(GAIN[channel] * np.exp(0.35 * rng.standard_normal()))
        values = gain * np.hypot(signal + noise[0], noise[1])
        volumes[modality] = outline.volume(np.clip(np.rint(values), 1, _LARGEST), np.int16)
    return volumes


def _blurred(outline: phantom.Outline, signal: np.ndarray, blur_mm: tuple[float, float, float]) -> np.ndarray:
    # Of brain alone, so that it does not fade to the background at its surface.
    sigma = [width / outline.grid.voxel_mm for width in blur_mm]
    weighted, weight = (
        ndimage.gaussian_filter(outline.volume(values, np.float32)[outline.grid.box], sigma, mode="constant")
        for values in (signal, np.ones_like(signal))
    )
    return (weighted / np.maximum(weight, np.float32(1e-6)))[outline.inside]
