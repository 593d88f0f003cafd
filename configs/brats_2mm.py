r"""Fine-tunes a network of configs/brats_3mm.py at 2 mm, in 600 steps.

    python -m jaxbrats.main --config=configs/brats_3mm.py --config.data.raw_dir=/path/to/BraTS --workdir=runs/3mm
    python -m jaxbrats.main --config=configs/brats_2mm.py:init_from=runs/3mm,split=runs/3mm/config.json \
        --config.data.raw_dir=/path/to/BraTS --workdir=runs/2mm

Learning at 3 mm first is cheap; 2 mm then resolves thin enhancing rims. The window of prediction is larger than the
patch, so that most brains are seen whole. The split is the first run's, so that no validation patient has trained the
network. init_from may also be demo, or a FILE.npz. 80 epochs of 15 patients are 600 steps.

Expect the scores in the README, 'Results on real patients'. Those runs began with each fold's last checkpoint after
1,253 steps at 3 mm; a run given as init_from stands for its best.
"""

import pathlib

from ml_collections import ConfigDict

from jaxbrats import config


def get_config() -> ConfigDict:
    """What differs from configs/brats_3mm.py."""
    settings = config.load_config(pathlib.Path(__file__).with_name("brats_3mm.py"))
    settings.init_from = "runs/3mm"
    settings.data.spacing = (2.0, 2.0, 2.0)
    settings.data.patch = (64, 80, 64)
    settings.inference.window = (80, 96, 80)
    settings.model.thresholds = (0.5, 0.5, 0.2)  # experiments/results/thresholds_2mm.md
    # Half the rate that it was trained with: it has much to keep.
    settings.learning_rate = 5e-4
    settings.num_epochs = 80
    settings.validate_every = 20
    return settings
