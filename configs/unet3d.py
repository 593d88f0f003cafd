"""The network and recipe of the Keras notebook: a plain 3-D U-Net on 128^3 crops of t2f, t1c and t2w.

    python -m jaxbrats.main --config=configs/unet3d.py --config.data.raw_dir=/path/to/BraTS2023 --workdir=runs/unet3d

raw_dir is any of the forms that `jaxbrats preprocess --help` lists; with arrays already preprocessed, give
--config.data.dir alone. --config=configs/unet3d.py:fold=1 validates on the second of five folds.

3-D U-Net: Çiçek et al. 2016, https://arxiv.org/abs/1606.06650. What the notebook fixed is spelled out here, although it
is what the defaults are; the learning rate is constant, nothing is normalised within the network.

Expect no published score yet: it has not been trained on real BraTS cases here.
"""

from ml_collections import ConfigDict

from jaxbrats import config


def get_config() -> ConfigDict:
    """The defaults, with the notebook's choices spelled out."""
    settings = config.default()
    settings.batch_size = 2
    settings.num_epochs = 100
    settings.learning_rate = 1e-4
    settings.data.modalities = ("t2f", "t1c", "t2w")
    settings.data.crop = (128, 128, 128)
    settings.data.normalization = "minmax"
    settings.model.features = (16, 32, 64, 128, 256)
    settings.model.activation = "relu"
    settings.model.dropout = (0.1, 0.1, 0.2, 0.2, 0.3)
    settings.loss.terms = {"dice": 1.0, "focal": 1.0}
    return settings
