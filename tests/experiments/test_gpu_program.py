"""Memory of the configs' programs on GPUs, by XLA's account of what it compiles for them. No GPU is needed."""

import importlib.util

import pytest

from jaxbrats.config.file import load_config
from jaxbrats.config.settings import from_config

GB = 10**9


def test_settings_of_the_command_line():
    import gpu_program

    arguments = ["--config=a.py", "--config.model.features=4,8", "--device=h100", "--config.seed=3"]
    assert gpu_program.with_settings(arguments) == ["--config=a.py:model.features=4,8,seed=3", "--device=h100"]
    assert gpu_program.with_settings(["--config=a.py:fold=1", "--config.seed=3"]) == ["--config=a.py:fold=1,seed=3"]
    assert gpu_program.with_settings(["--config=a.py"]) == ["--config=a.py"]


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("jax_plugins"), reason="JAX's CUDA plugin is not installed")
@pytest.mark.parametrize(("config", "step", "window"), [("unet3d", 8, 4), ("unet3d_lowmem", 4, 4), ("brats", 24, 4)])
def test_memory(config, step, window):
    import gpu_program

    from jaxbrats.system.gpus import described_gpus
    from jaxbrats.train.step import device_memory

    settings = from_config(load_config(f"configs/{config}.py"))
    devices = described_gpus("8gb")
    assert device_memory(gpu_program.training_step(settings, devices)) < step * GB
    program, beside = gpu_program.window_step(settings, devices[0])
    assert device_memory(program) + beside < window * GB
