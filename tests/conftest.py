"""What tests share: eight virtual CPU devices, a compilation cache, a tiny cohort and a tiny trained run."""

import os
from importlib import metadata

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Eight devices on one processor, to test what splits over several. Programs that run for a moment are compiled in a
# quarter of the time where they are not optimised and XLA's older emitters of loops are used; JAX reads this when it
# first looks for devices. Such a program rounds values that it computes twice in two ways, so the suite also shows what
# leans on that. Tests in processes with other flags have what users run, and so have those on a GPU
# (JAX_PLATFORMS=cuda,cpu).
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
if os.environ["JAX_PLATFORMS"] == "cpu":
    os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    # Later versions have no older emitters, and end a process that names a flag they don't know.
    if metadata.version("jaxlib").startswith("0.10."):
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
# Tracing takes less without the lines of Python, and the modules, that each operation comes from.
os.environ |= {"JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0", "FLAX_PROFILE": "false"}

import dataclasses
import gc
import pathlib
import shutil
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import jax
import pytest

from jaxbrats import main
from jaxbrats.config.settings import Checkpoint, Settings
from jaxbrats.inference import network
from jaxbrats.report import figures
from jaxbrats.runs import job
from jaxbrats.synthetic.cohort import write_cohort
from jaxbrats.system.files import write_text
from jaxbrats.system.locks import held_briefly
from jaxbrats.train import compilation, loop
from jaxbrats.train.mesh import replicate

TINY_CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(dict(
        seed=1, batch_size=2, num_epochs=3, learning_rate=3e-3, schedule="cosine", dtype="float32", remat=False,
        conv="direct", gpu_memory_fraction=0.5,
        mesh=dict(data=1, space=1),
        data=dict(dir="", raw_dir="", modalities=("t2f", "t1c"), crop=(16, 16, 16), normalization="minmax",
                  min_tumour=0.0, workers=0),
        model=dict(features=(4, 6), norm="instance", activation="relu", dropout=(0.1,)),
        loss=dict(terms=dict(dice=1.0, focal=1.0), class_weights=(1.0, 1.0, 1.0, 1.0), alpha=0.25, gamma=2.0),
        checkpoint=dict(every_steps=2),
    ))
"""


# The files that take longest, longest first: one that begins last is waited for by the other processes of the suite.
LONGEST = (
    "test_faults.py",
    "test_distributed.py",
    "test_predict.py",
    "test_native.py",
    "test_loop.py",
    "test_binding.py",
    "test_unet.py",
    "test_soft_labels.py",
    "test_augment.py",
    "test_plan.py",
    "test_export.py",
    "test_network_settings.py",
    "test_pages.py",
    "test_loss_terms.py",
    "test_step.py",
    "test_ablation.py",
    "test_main.py",
    "test_brain.py",
    "test_disk.py",
    "test_ending_early.py",
    "test_missing.py",
    "test_conv.py",
    "test_whole_volumes.py",
    "test_finetune.py",
    "test_checkpoints.py",
    "test_mesh.py",
    "test_loader.py",
    "test_malformed.py",
    "test_regions.py",
    "test_accumulation.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


def pytest_collection_finish() -> None:
    """Lets Python's garbage collector leave alone what was imported, and look rarely at the rest.

    The libraries' hundreds of thousands of objects live on; going through them took a tenth of the time of tests that
    train.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder that the processes of the suite have in common."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


def made_once(folder: pathlib.Path, make: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """A folder that the first process of the suite to need it makes, while the others that need it wait."""
    with held_briefly(folder.parent, folder.name):
        done = folder.with_name(f"{folder.name}.done")
        if not done.exists():
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(shared: pathlib.Path) -> None:
    """Programs that several tests compile alike are compiled once, by whichever process of the suite comes first."""
    jax.config.update("jax_compilation_cache_dir", str(shared / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    # For the processes that tests start.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(shared / "xla")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


def begun_alike(settings: Settings, seed: int = 0) -> Settings:
    """The settings without what neither the training step nor a run's first parameters follow from."""
    data = dataclasses.replace(settings.data, dir="", raw_dir="", split="", workers=0)
    outside = {"seed": seed, "num_epochs": 1, "validate_every": 1, "early_stop": 0, "init_from": ""}
    return dataclasses.replace(settings, data=data, checkpoint=Checkpoint(), **outside)


def kept(compute: Callable[..., Any], key: Callable[..., object], store: Callable[[Any], Any] = lambda it: it) -> Any:
    """`compute`, which computes once what has the same key."""
    results: dict[str, Any] = {}

    def compute_once(*arguments: Any) -> Any:
        name = repr(key(*arguments))
        if name not in results:
            results[name] = store(compute(*arguments))
        return results[name]

    return compute_once


@pytest.fixture(scope="session", autouse=True)
def computed_once() -> Iterator[None]:
    """What the runs of one process of the suite have in common is traced, compiled and drawn once."""
    shapes = kept(network.shapes_of, lambda settings: (settings.model, settings.data.modalities, settings.data.derived))
    states = kept(
        loop._initial_state,
        lambda settings, plan, mesh: begun_alike(settings, settings.seed),
        jax.device_get,  # the step takes over the memory of what it is given
    )
    steps = kept(
        compilation.compile_step,
        lambda settings, total, mesh, *rest: (
            begun_alike(settings),
            total * (settings.schedule != "constant"),
            mesh,
            compilation.jit_train_step,
        ),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "shapes_of", shapes)
        patch.setattr(loop, "_initial_state", lambda *arguments: replicate(arguments[2], states(*arguments)))
        patch.setattr(loop, "compile_step", steps)
        yield


@pytest.fixture(scope="session", autouse=True)
def small_pictures() -> Iterator[None]:
    """Pictures are drawn whole, of a tenth of the dots."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "DOTS_PER_INCH", 50)
        yield


@pytest.fixture(scope="session")
def tiny_config(shared: pathlib.Path) -> pathlib.Path:
    """A config file of a network that compiles in seconds."""
    path = shared / "tiny.py"
    write_text(path, textwrap.dedent(TINY_CONFIG))
    return path


@pytest.fixture(scope="session")
def tiny_cohort(shared: pathlib.Path) -> pathlib.Path:
    """Eight phantoms of 20 x 24 x 18 voxels as BraTS 2023 files. Not to be written to."""
    return made_once(shared / "raw", lambda folder: write_cohort(folder, 8, (20, 24, 18), seed=0, workers=1))


@pytest.fixture(scope="session")
def tiny_data(tiny_cohort: pathlib.Path, tiny_run: pathlib.Path) -> pathlib.Path:
    """The cohort preprocessed as `tiny_config` says, with its split. Not to be written to."""
    return tiny_run / "data"


@pytest.fixture(scope="session")
def tiny_run(tiny_cohort: pathlib.Path, tiny_config: pathlib.Path, shared: pathlib.Path) -> pathlib.Path:
    """A finished run on the cohort, made by the training program. Not to be written to."""

    def make(folder: pathlib.Path) -> None:
        arguments = [f"--config={tiny_config}", f"--workdir={folder}", f"--config.data.raw_dir={tiny_cohort}"]
        # This run alone reads with a process, which takes seconds to start; those compared with it read in threads.
        arguments.append("--config.data.workers=1")
        assert main.run(arguments) == 0

    return made_once(shared / "tiny", make)


@pytest.fixture
def run(tiny_run: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the run with its data, to write to. Its checkpoints are its best and its last two: 3, 8 and 9."""
    return pathlib.Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.fixture
def training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training program without what it does after training, for tests that look at nothing of that."""
    monkeypatch.setattr(job, "_write_results", lambda *_: [])
