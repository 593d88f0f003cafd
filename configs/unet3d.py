"""The Keras notebook's network and recipe: a plain 3-D U-Net on 128^3 crops of t2f, t1c and t2w.

3-D U-Net: Çiçek et al. 2016, https://arxiv.org/abs/1606.06650

    python -m jaxbrats.main --config=configs/unet3d.py --config.data.raw_dir=/path/to/BraTS2023 --workdir=runs/unet3d

Any of the forms that `jaxbrats preprocess --help` lists will do as raw_dir; with arrays already preprocessed, give
--config.data.dir alone. The same command again goes on where it stopped.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The settings, as `jaxbrats.config.settings` names them."""
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 2  # over all devices
    config.accumulate = 1  # micro-batches of a step, one after the other, for a batch that does not fit
    config.num_epochs = 100
    config.learning_rate = 1e-4  # Adam
    config.schedule = "constant"  # or 'cosine', after a warm-up
    config.dtype = "float32"  # or 'bfloat16' for the activations
    config.remat = False  # compute activations again in the backward pass, for less memory
    config.conv = "auto"  # the fastest algorithm for the processor; 'direct' for XLA's own
    config.gpu_memory_fraction = 0.9
    config.skip_nonfinite = False  # drop updates that are not finite and go on, instead of stopping

    config.mesh = ConfigDict()
    config.mesh.data = -1  # devices that share a batch; -1 for all
    config.mesh.space = 1  # devices that share a volume

    config.data = ConfigDict()
    config.data.raw_dir = ""  # a cohort of NIfTI files
    config.data.dir = ""  # preprocessed arrays; made from raw_dir, by default in the workdir
    config.data.modalities = ("t2f", "t1c", "t2w")
    config.data.crop = (128, 128, 128)
    config.data.normalization = "minmax"  # or 'zscore', over brain voxels
    config.data.min_tumour = 0.01  # cases with less of it in the crop are left out
    config.data.spacing = None  # size of the arrays' voxels in mm, as (1.0, 1.0, 1.0); that of most cases
    config.data.val_fraction = 0.25
    config.data.split_seed = 0
    config.data.workers = 0  # processes that read batches; 0 reads in threads

    config.model = ConfigDict()
    config.model.features = (16, 32, 64, 128, 256)
    config.model.norm = "none"  # 'instance', 'group' or 'batch'
    config.model.activation = "relu"
    config.model.dropout = (0.1, 0.1, 0.2, 0.2, 0.3)

    config.loss = ConfigDict()
    config.loss.dice_weight = 1.0
    config.loss.focal_weight = 1.0
    config.loss.class_weights = (1.0, 1.0, 1.0, 1.0)
    config.loss.alpha = 0.25
    config.loss.gamma = 2.0

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 0  # besides each epoch's end; 0 for never
    return config
