"""What a run can be told: settings that check themselves, read from config files, arguments and the command line.

A config file is a Python file that starts from every default, or from another file, and states what it changes:

    from jaxbrats import config

    def get_config():
        settings = config.default()  # or config.load_config(pathlib.Path(__file__).with_name("unet3d.py"))
        settings.model.norm = "instance"
        return settings
"""

from jaxbrats.config.augment import Augment
from jaxbrats.config.data import Data
from jaxbrats.config.file import load_config
from jaxbrats.config.loss import Loss
from jaxbrats.config.model import Model
from jaxbrats.config.optimizer import Optimizer
from jaxbrats.config.settings import Checkpoint, Mesh, Settings, default, from_config

__all__ = [
    "Augment",
    "Checkpoint",
    "Data",
    "Loss",
    "Mesh",
    "Model",
    "Optimizer",
    "Settings",
    "default",
    "from_config",
    "load_config",
]
