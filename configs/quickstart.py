"""Everything once, in minutes, without any data: 24 synthetic patients, a small 3-D U-Net.

    python -m jaxbrats.main --config=configs/quickstart.py

The phantoms are written as BraTS 2023 files to data/quickstart, preprocessed, split, trained on and evaluated, like
real patients. The network is that of configs/unet3d.py with fewer features; instance normalisation and a higher
learning rate, with a warm-up, make it learn in 16 epochs.

Expect three minutes on two CPU cores and runs/quickstart/report.html. Its scores are of
phantoms: they show that training works, and say nothing of patients.
"""

from ml_collections import ConfigDict

from jaxbrats import config


def get_config() -> ConfigDict:
    """What differs from the defaults."""
    settings = config.default()
    settings.num_epochs = 16
    settings.learning_rate = 5e-3
    settings.schedule = "cosine"
    settings.data.raw_dir = "data/quickstart"
    settings.data.synthetic_cases = 24
    settings.data.synthetic_shape = (64, 64, 56)
    settings.data.crop = (64, 64, 56)
    settings.data.normalization = "zscore"
    settings.model.features = (8, 16, 32, 64)
    settings.model.norm = "instance"
    settings.model.dropout = (0.0,)
    return settings
