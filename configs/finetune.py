"""Fine-tunes a run of configs/unet3d.py on another cohort, with fewer epochs and a lower learning rate.

    python -m jaxbrats.main --config=configs/finetune.py:init_from=runs/unet3d,raw_dir=/data/new --workdir=runs/tuned

init_from is a run's folder, of which the best checkpoint is taken, a FILE.npz of `jaxbrats export`, or demo. A run of
another config goes on with that config, --config=configs/brats.py:init_from=RUN, so that images are prepared and losses
taken as before. What fits is loaded, what does not begins afresh, and the start says which is which. Other modalities
are matched by name. Every layer is trained (Tajbakhsh et al. 2016, https://arxiv.org/abs/1706.00712). The learning
rate, a tenth of that run's, rises over the first tenth of the steps, because Adam's moments start at zero,
and falls to zero along a cosine.

Expect no figures: epochs and learning rate are a beginning to be tuned on your validation cases, not measured here.
"""

import pathlib

from ml_collections import ConfigDict

from jaxbrats import config


def get_config() -> ConfigDict:
    """What differs from configs/unet3d.py."""
    settings = config.load_config(pathlib.Path(__file__).with_name("unet3d.py"))
    settings.init_from = "runs/unet3d"
    settings.num_epochs = 20
    settings.learning_rate = 1e-5
    settings.schedule = "cosine"
    settings.optimizer.warmup = 0.1
    return settings
