"""The network of configs/unet3d.py, whole 128^3 crops, on a GPU with 4 GB.

    python -m jaxbrats.main --config=configs/unet3d_lowmem.py --config.data.raw_dir=/data/BraTS --workdir=runs/lowmem

Activations are bfloat16, and the two cases of a batch are worked on one after the other (gradients and loss are the
means of theirs, so Dice is of one case at a time). By XLA's account of the training step, compiled for a CPU with XLA's
own convolution (--config.conv=direct, which is what GPUs take):

    configs/unet3d.py                   3.73 GiB
    with bfloat16                       3.36 GiB
    with bfloat16 and accumulate = 2    1.91 GiB, this file

Compiled for a GPU, and not run, the first takes 3.5 and the last 1.2 GiB, without what cuDNN needs to work in
(experiments/results/gpu_program.md). Training prints its own when it starts, and --config.remat=True computes
activations again where it is too much (for a CPU that takes more: 2.07 GiB). Mixed precision: Micikevicius et al. 2018,
https://arxiv.org/abs/1710.03740.

Expect no published score yet: it has not been trained on real BraTS cases here, nor on a GPU.
"""

import pathlib

from ml_collections import ConfigDict

from jaxbrats import config


def get_config() -> ConfigDict:
    """What differs from configs/unet3d.py."""
    settings = config.load_config(pathlib.Path(__file__).with_name("unet3d.py"))
    settings.dtype = "bfloat16"
    settings.accumulate = 2
    return settings
