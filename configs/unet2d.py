"""A 2-D U-Net over axial slices: the least memory and time a slice, and what a 3-D network is to be compared with.

    python -m jaxbrats.main --config=configs/unet2d.py --config.data.raw_dir=/path/to/BraTS2023 --workdir=runs/unet2d

U-Net: Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597. Choices are those of nnU-Net's 2-D configuration
(Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z) where nothing else is said. Everything except
dimensions and patch is as in 3-D: whole volumes are predicted slice by slice and scored as volumes.

With --config.model.dimensions=2.5d --config.data.patch=160,192,5 the same is done on slabs of five slices, which are
seen and segmented together and, where windows overlap, averaged.

Expect no published score yet: it has not been trained on real BraTS cases here.
"""

from ml_collections import ConfigDict

from jaxbrats import config


def get_config() -> ConfigDict:
    """What differs from the defaults."""
    settings = config.default()
    settings.model.dimensions = "2d"
    # Most brains whole: slices across Z, which is from foot to head in BraTS files.
    settings.data.patch = (160, 192, 1)
    settings.data.crop = "brain"
    settings.data.min_tumour = 0.0
    settings.data.modalities = ("t2f", "t1c", "t2w", "t1n")
    settings.data.normalization = "zscore"
    # Sixteen slices, each of another patient; an epoch has one slice of each patient, hence so many.
    settings.batch_size = 16
    settings.num_epochs = 1000
    settings.validate_every = 25
    # In a plane nnU-Net turns by any angle.
    settings.augment.update(config.augment.NNUNET)
    settings.augment.rotation_degrees = (-180.0, 180.0)
    settings.model.features = (32, 64, 128, 256, 512, 512)
    settings.model.norm = "instance"
    settings.model.activation = "leaky_relu"
    settings.model.dropout = (0.0,)
    settings.model.downsample = "conv"
    settings.model.deep_supervision = True
    settings.loss.terms = {"dice": 1.0, "ce": 1.0}
    # Not nnU-Net's SGD, but Adam and a cosine, and an average of the weights.
    settings.learning_rate = 1e-3
    settings.schedule = "cosine"
    settings.ema = 0.999
    settings.dtype = "bfloat16"
    return settings
