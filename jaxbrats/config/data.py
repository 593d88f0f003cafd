"""Settings of the data: where it lies, how it is preprocessed, which patients validate."""

import dataclasses
import math
from typing import Literal

from jaxbrats.config.channels import Modality, check_derived
from jaxbrats.config.checks import need

Normalization = Literal["minmax", "zscore"]
Crop = tuple[int, int, int] | Literal["brain"]


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the data lies and what becomes of it before the network sees it.

    Attributes:
        dir: Folder of preprocessed arrays, made from raw_dir where there are none; WORKDIR/data when empty.
        raw_dir: Folder of the NIfTI cohort; empty when dir holds all there is.
        synthetic_cases: Phantoms to write into raw_dir first, instead of real data; 0 for none.
        synthetic_shape: Size (X, Y, Z) of the phantoms in voxels.
        modalities: Input channels, in order.
        crop: Size (X, Y, Z) in voxels of the arrays, cut out about the centre of the volume; brain for the bounding box
            of the brain, of another size in each case.
        normalization: minmax maps each whole volume to [0, 1]; zscore gives brain voxels (not zero) mean 0 and standard
            deviation 1.
        derived: Input channels made of the modalities on the device: brain, a mask; gradient_t1c, the length of the
            gradient; t1c-t1n, a difference; or those of other modalities.
        patch: Size (X, Y, Z) in voxels of what a step sees of each array, and by default of the windows that predict;
            none for the whole array. An array that is smaller is given zeros around it.
        foreground: Share of the patches that are centred on tumour, its classes taking turns.
        min_tumour: Least share of tumour voxels in the crop for a case to be used; 0.01 is 1 %.
        spacing: Size (X, Y, Z) in mm of the arrays' voxels; none for that of most cases. Others are resampled.
        incomplete: Whether to train also on cases that lack some of the modalities. A missing channel is all zeros, as
            augment.modality_dropout leaves it, which must be above 0.
        soft_labels: Whether to train on what part of each voxel every label covers, rather than on the one label that
            covers most: for voxels larger than the files'.
        split: File that names the cases of each side, {"train": [...], "val": [...]}, or the config.json of a run whose
            split to take; empty for the arrays' own or a new one.
        val_fraction: Share of the patients drawn for validation; none takes the arrays' split.json where there is one,
            else draws 0.25.
        split_seed: Random seed of the split, apart from seed so that runs with other seeds share their validation
            cases; none takes the arrays' split.json where there is one, else 0.
        fold: Which of the folds validates, from 0; none for a single split.
        folds: Into how many folds the patients are divided for cross-validation.
        workers: Processes that preprocess (0 for one a CPU) and that read batches (0 reads in threads).
    """

    dir: str = ""
    raw_dir: str = ""
    synthetic_cases: int = 0
    synthetic_shape: tuple[int, int, int] = (96, 96, 80)
    modalities: tuple[Modality, ...] = ("t2f", "t1c", "t2w")
    crop: Crop = (128, 128, 128)
    normalization: Normalization = "minmax"
    derived: tuple[str, ...] = ()
    patch: tuple[int, int, int] | None = None
    foreground: float = 0.33
    min_tumour: float = 0.01
    spacing: tuple[float, float, float] | None = None
    incomplete: bool = False
    soft_labels: bool = False
    split: str = ""
    val_fraction: float | None = None
    split_seed: int | None = None
    fold: int | None = None
    folds: int = 5
    workers: int = 0

    def __post_init__(self) -> None:
        need(self.synthetic_cases >= 0, "data.synthetic_cases must be 0 or more", self.synthetic_cases)
        shape = self.synthetic_shape
        need(min(shape) >= 16, "data.synthetic_shape needs three sizes of 16 or more", shape)
        distinct = len(set(self.modalities)) == len(self.modalities) > 0
        need(distinct, "data.modalities needs at least one modality and none twice", self.modalities)
        check_derived(self.derived, self.modalities)
        brain, patch = self.crop == "brain", self.patch
        need(brain or min(self.crop) >= 1, "data.crop needs three sizes of 1 or more, or brain", self.crop)
        need(patch or not brain, "data.patch needs three sizes where data.crop is brain: arrays then differ", patch)
        need(0 <= self.min_tumour <= 1, "data.min_tumour lies between 0 and 1", self.min_tumour)
        need(patch is None or min(patch) >= 1, "data.patch needs three sizes of 1 or more, or none", patch)
        fits = patch is None or brain or all(size <= whole for size, whole in zip(patch, self.crop, strict=True))
        need(fits, f"data.patch is no larger than data.crop, {self.crop}", patch)
        need(0 <= self.foreground <= 1, "data.foreground lies between 0 and 1", self.foreground)
        spacing = self.spacing
        fits = spacing is None or all(0 < size < math.inf for size in spacing)
        need(fits, "data.spacing needs three sizes in mm above 0", spacing)
        fraction = self.val_fraction
        need(fraction is None or 0 < fraction < 1, "data.val_fraction lies between 0 and 1", fraction)
        need(self.split_seed is None or self.split_seed >= 0, "data.split_seed must be 0 or more", self.split_seed)
        need(self.folds >= 2, "data.folds must be at least 2", self.folds)
        last = self.folds - 1
        need(self.fold is None or 0 <= self.fold <= last, f"data.fold of {self.folds} is from 0 to {last}", self.fold)
        both = self.fold is not None and fraction is not None
        need(not both, f"data.val_fraction is none where data.fold is given, which is {self.fold}", fraction)
        drawn = self.fold is not None or fraction is not None or self.split_seed is not None
        need(not (self.split and drawn), "data.split goes with no val_fraction, split_seed or fold", self.split)
        need(self.workers >= 0, "data.workers must be 0 or more", self.workers)

    @property
    def network_channels(self) -> tuple[str, ...]:
        """Names of the input channels of the network, in order: the modalities and what is derived from them."""
        return (*self.modalities, *self.derived)

    @property
    def window(self) -> tuple[int, int, int]:
        """Size (X, Y, Z) in voxels of what the network is given at once: the patch, or the whole array."""
        return self.patch or self.crop
