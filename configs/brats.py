"""The best recipe known to us for a cohort of real gliomas: whole brains, patches, regions, full augmentation.

    python -m jaxbrats.main --config=configs/brats.py --config.data.raw_dir=/path/to/BraTS2023 --workdir=runs/brats

Every choice stands beside its source. The network has plain blocks: sixteen networks that nnU-Net trained alike on
BraTS lie between 90.2 and 91.5 mean Dice, its plain U-Net at 91.2 and its residual encoder L, which takes four times
as long, at 91.1 (Isensee et al. 2024, nnU-Net Revisited, https://arxiv.org/abs/2404.09556). configs/brats_3mm.py is
the same recipe for 3 mm voxels, which two CPU cores train on 15 patients in half an hour; see the README.

Sizes are for a GPU of 24 GB and 1 mm voxels.

Expect no published score yet: at 1 mm it has not been trained here.
"""

from ml_collections import ConfigDict

from jaxbrats import config


def get_config() -> ConfigDict:
    """What differs from the defaults."""
    settings = config.default()
    # The four sequences of BraTS, each brain with mean 0 and standard deviation 1, as nnU-Net has MRI.
    settings.data.modalities = ("t2f", "t1c", "t2w", "t1n")
    settings.data.normalization = "zscore"
    # The whole brain is kept, and with it tumour outside the centre and everything that may be taken for tumour. All
    # patients are trained on, those with little tumour too.
    settings.data.crop = "brain"
    settings.data.min_tumour = 0.0
    settings.data.patch = (128, 128, 128)
    settings.augment.update(config.augment.NNUNET)
    # WT, TC and ET are what is scored, so these are learned (Isensee et al. 2018, https://arxiv.org/abs/1809.10483);
    # Dice of the batch as a whole, since a patch without enhancing tumour has no Dice of its own (Isensee et al. 2021,
    # nnU-Net for Brain Tumor Segmentation, https://doi.org/10.1007/978-3-030-72087-2_11).
    settings.model.head = "regions"
    settings.loss.terms = {"dice": 1.0, "bce": 1.0}
    # nnU-Net's network for BraTS, but that it pools (nnU-Net: convolutions of stride 2): six levels, instance
    # normalisation, leaky ReLU, deep supervision, no dropout.
    settings.model.features = (32, 64, 128, 256, 320, 320)
    settings.model.norm = "instance"
    settings.model.activation = "leaky_relu"
    settings.model.dropout = (0.0,)
    settings.model.deep_supervision = True
    # For fewer steps than nnU-Net's 250,000: AdamW with a cosine; the average of the weights is what predicts.
    settings.num_epochs = 200
    settings.optimizer.name = "adamw"
    settings.optimizer.weight_decay = 1e-2
    settings.optimizer.clip_norm = 1.0
    settings.learning_rate = 1e-3
    settings.schedule = "cosine"
    settings.ema = 0.999  # of the last 1,000 steps or so; for runs of less than 10,000 take 0.99
    settings.dtype = "bfloat16"
    settings.inference.mirror = True
    # Small false lesions cost lesion-wise scores much. Volumes in mm^3, chosen by cross-validation on the patients of
    # the README's 'Results on real patients', where turning little enhancing tumour into necrosis gained nothing.
    settings.postprocessing.component_mm3 = 1000.0
    settings.postprocessing.core_mm3 = 200.0
    return settings
