"""The recipe of configs/brats.py at 3 mm: real patients on two CPU cores in half an hour.

    python experiments/real_cohort.py --raw=/path/to/BraTS --out=data/real_3mm --factor=3
    python -m jaxbrats.main --config=configs/brats_3mm.py --config.data.raw_dir=data/real_3mm --workdir=runs/brats_3mm

A patch of 48 x 64 x 48 voxels holds nearly all of a brain, so four halvings see it whole and half the features suffice.
With 15 training patients 167 epochs are 1,253 steps.

Expect the scores in the README, 'Results on real patients'.
"""

import pathlib

from ml_collections import ConfigDict

from jaxbrats import config


def get_config() -> ConfigDict:
    """What differs from configs/brats.py: what the size of the voxels and of the cohort decides."""
    settings = config.load_config(pathlib.Path(__file__).with_name("brats.py"))
    settings.data.patch = (48, 64, 48)
    settings.model.features = (24, 48, 96, 192, 256)
    settings.num_epochs = 167
    settings.validate_every = 10
    settings.ema = 0.99
    settings.dtype = "float32"
    # A small cohort is learned by heart; the more it is varied, the less.
    settings.augment.rotation = 0.4
    settings.augment.scaling = 0.4
    settings.augment.elastic = 0.2
    settings.augment.brightness = 0.3
    settings.augment.contrast = 0.3
    settings.augment.bias_field = 0.2
    return settings
