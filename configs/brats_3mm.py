"""The recipe of configs/brats.py on voxels of 3 mm: real patients on two CPU cores in half an hour.

    python -m jaxbrats.main --config=configs/brats_3mm.py --config.data.raw_dir=/path/to/BraTS --workdir=runs/brats_3mm

Cases are resampled to 3 mm, and what is predicted is brought back, so scores are of the files' own voxels; a cohort
that experiments/real_cohort.py made coarser is taken as it is. A patch of 48 x 64 x 48 voxels holds nearly all of a
brain, so four halvings see it whole, and few features suffice. 400 epochs of 15 patients are 3,000 steps.

Expect the scores in the README, 'Results on real patients'.
"""

import pathlib

from ml_collections import ConfigDict

from jaxbrats import config


def get_config() -> ConfigDict:
    """What differs from configs/brats.py: what the size of the voxels and of the cohort decides."""
    settings = config.load_config(pathlib.Path(__file__).with_name("brats.py"))
    settings.data.spacing = (3.0, 3.0, 3.0)
    # Enhancing rims and the ends of a tumour are thinner than such voxels; of these it learns what part is tumour.
    settings.data.soft_labels = True
    settings.data.patch = (48, 64, 48)
    settings.model.features = (16, 32, 64, 128, 160)
    # Of a few patients' enhancing tumour a network learns to find too little (experiments/results/thresholds.md). Tune
    # it on your own patients: experiments/tune_thresholds.py.
    settings.model.thresholds = (0.5, 0.5, 0.3)
    settings.num_epochs = 400
    settings.validate_every = 25
    settings.ema = 0.99
    settings.dtype = "float32"
    # A small cohort is overfitted; the more it is varied, the less.
    settings.augment.rotation = 0.4
    settings.augment.scaling = 0.4
    settings.augment.elastic = 0.2
    settings.augment.brightness = 0.3
    settings.augment.contrast = 0.3
    settings.augment.bias_field = 0.2
    return settings
