"""Everything a run can be told, as frozen dataclasses that refuse what cannot work when they are made.

Each setting's name, type, default and comment stand once, in its group. Config files, the command line and records are
checked against them, and `jaxbrats train --help` is generated from them.
"""

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from ml_collections import ConfigDict

from jaxbrats.config import typed
from jaxbrats.config.augment import Augment
from jaxbrats.config.checks import need
from jaxbrats.config.data import Data
from jaxbrats.config.inference import Inference, Postprocessing
from jaxbrats.config.loss import Loss
from jaxbrats.config.model import Model
from jaxbrats.config.optimizer import Optimizer, Schedule
from jaxbrats.system.errors import InputError

DType = Literal["float32", "bfloat16"]
ConvMethod = Literal["auto", "direct", "slices", "winograd", "native"]
TrackerName = Literal["tensorboard", "wandb", "mlflow"]


@dataclasses.dataclass(frozen=True)
class Mesh:
    """How the devices share the work.

    Attributes:
        data: Devices over which a batch is split; -1 for all there are.
        space: Devices over which each volume is split along its first spatial axis.
    """

    data: int = -1
    space: int = 1

    def __post_init__(self) -> None:
        need(self.data >= 1 or self.data == -1, "mesh.data is -1 or at least 1", self.data)
        need(self.space >= 1, "mesh.space must be at least 1", self.space)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """When to save.

    Attributes:
        every_steps: Steps between two checkpoints, besides those after each validation; 0 for none.
    """

    every_steps: int = 0

    def __post_init__(self) -> None:
        need(self.every_steps >= 0, "checkpoint.every_steps must be 0 or more", self.every_steps)


@dataclasses.dataclass(frozen=True)
class Settings:
    """A whole run.

    Attributes:
        seed: Random seed of the parameters, the dropout, the augmentation and the order of the cases.
        batch_size: Cases in a step, over all devices.
        accumulate: Micro-batches of a step, one after the other, for a batch that does not fit in memory; their losses
            and gradients are averaged, so the Dice loss and batch normalisation see one micro-batch at a time.
        num_epochs: Passes over the training cases.
        validate_every: Epochs from one validation, and checkpoint, to the next; the last epoch has one in any case.
        early_stop: Epochs without a better validation score after which training ends; 0 for none.
        learning_rate: Learning rate; the peak of the schedule.
        schedule: Learning rate over the steps after the warm-up; cosine and polynomial (of power 0.9) fall to zero.
        ema: Decay of the moving average of the weights, such as 0.999, which then is what is validated and predicts; 0
            for none.
        init_from: Source of the weights, as far as they fit: a run (its best checkpoint), an exported FILE.npz or
            a model of the package such as demo; empty for random weights.
        dtype: Type of the activations.
        remat: Whether activations are computed again in the backward pass, for less memory.
        conv: Algorithm of the convolutions; auto takes the fastest for the processor, direct XLA's own.
        gpu_memory_fraction: Share of each GPU's memory that JAX may take.
        deterministic: Whether a compiled program gives the same bits each time on a GPU too, with kernels that may be
            slower.
        skip_nonfinite: Whether an update that is not finite is dropped and counted; else it ends the run.
        tracking: Trackers that the run is logged to besides metrics.jsonl, separated by commas; auto for TensorBoard
            where it is installed, nothing for none.
    """

    seed: int = 0
    batch_size: int = 2
    accumulate: int = 1
    num_epochs: int = 100
    validate_every: int = 1
    early_stop: int = 0
    learning_rate: float = 1e-4
    schedule: Schedule = "constant"
    ema: float = 0.0
    init_from: str = ""
    dtype: DType = "float32"
    remat: bool = False
    conv: ConvMethod = "auto"
    gpu_memory_fraction: float = 0.9
    deterministic: bool = False
    skip_nonfinite: bool = False
    tracking: Literal["auto"] | tuple[TrackerName, ...] = "auto"
    mesh: Mesh = Mesh()
    data: Data = dataclasses.field(default_factory=Data)
    augment: Augment = dataclasses.field(default_factory=Augment)
    model: Model = dataclasses.field(default_factory=Model)
    loss: Loss = dataclasses.field(default_factory=Loss)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    checkpoint: Checkpoint = Checkpoint()
    inference: Inference = dataclasses.field(default_factory=Inference)
    postprocessing: Postprocessing = dataclasses.field(default_factory=Postprocessing)

    def __post_init__(self) -> None:
        need(self.seed >= 0, "seed must be 0 or more", self.seed)
        for name in ("batch_size", "accumulate", "num_epochs", "validate_every"):
            need(getattr(self, name) >= 1, f"{name} must be at least 1", getattr(self, name))
        need(self.early_stop >= 0, "early_stop must be 0 or more", self.early_stop)
        need(0 <= self.ema < 1, "ema is from 0 to below 1", self.ema)
        need(0 < self.learning_rate < math.inf, "learning_rate must be above 0 and finite", self.learning_rate)
        need(0 < self.gpu_memory_fraction <= 1, "gpu_memory_fraction is above 0, up to 1", self.gpu_memory_fraction)
        self._check_between_groups()

    def _check_between_groups(self) -> None:
        batch, parts, devices = self.batch_size, self.accumulate, self.mesh.data
        need(batch % parts == 0, f"batch_size must be divisible by config.accumulate, which is {parts}", batch)
        rule = f"batch_size must be a multiple of the {devices} devices of mesh.data"
        need(batch % max(devices, 1) == 0, rule, batch)
        self.loss.check_head(self.model.head)
        dropout = self.augment.modality_dropout
        rule = "augment.modality_dropout is above 0 where data.incomplete is true"
        need(dropout > 0 or not self.data.incomplete, rule, dropout)
        self._check_windows()

    def check_training(self) -> None:
        """Refuses what a run may have been trained with, but none should be.

        Raises:
            InputError: it names the setting.
        """
        need(self.seed < 2**32, "seed must be below 2**32, for JAX takes no more of it", self.seed)
        # A voxel less its own mean is 0, whatever it was: that level would learn nothing.
        name, size = f"data.{'patch' if self.data.patch else 'crop'}", self.data.window
        rule = f"{name} must leave 2 voxels of the deepest level, over which model.norm = instance can normalise"
        need(self.model.norm != "instance" or size != self.model.downsampling, rule, size)

    def _check_windows(self) -> None:
        self._check_window(f"data.{'patch' if self.data.patch else 'crop'}", self.data.window)
        if self.inference.window:
            self._check_window("inference.window", self.inference.window)

    def _check_window(self, name: str, size: tuple[int, int, int]) -> None:
        depth = len(self.model.features)
        factors = self.model.downsampling
        smallest, space = "x".join(map(str, factors)), self.mesh.space
        rule = f"{name} must be divisible along its first axis by the {space} devices of mesh.space"
        need(size[0] % space == 0, rule, size)
        # With one voxel a device there XLA's partitioner gives wrong gradients on meshes of data and space (2x2).
        rule = f"{name} must leave each of the {space} devices of mesh.space 2 voxels of the deepest level along X"
        need(space == 1 or size[0] // factors[0] >= 2 * space, rule, size)
        dimensions, slices = self.model.dimensions, {"3d": True, "2.5d": size[2] > 1, "2d": size[2] == 1}
        wanted = "1 slice along Z, as 128,128,1" if dimensions == "2d" else "several slices along Z, as 128,128,5"
        rule = f"{name.replace('crop', 'patch')} needs {wanted}, where model.dimensions = {dimensions}"
        need(slices[dimensions], rule, size)
        fits = all(length % factor == 0 for length, factor in zip(size, factors, strict=True))
        rule = f"{name} must be divisible by {smallest}, because {depth} levels of model.features divide it "
        need(fits, f"{rule}by that (see model.strides and model.dimensions)", size)

    @property
    def window(self) -> tuple[int, int, int]:
        """Size (X, Y, Z) in voxels of what prediction gives the network at once."""
        return self.inference.window or self.data.window

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy, which `from_config` reads back."""
        return dataclasses.asdict(self)


def default() -> ConfigDict:
    """Every setting at its default, for a config file to change.

    It takes any name and any value: what is wrong is refused with the file's name when the file has been read.
    """
    return ConfigDict(Settings().to_dict(), type_safe=False)


def from_config(values: ConfigDict | Mapping[str, Any], file: pathlib.Path | None = None) -> Settings:
    """The settings of a run from a `ConfigDict` or a nested mapping; what it leaves out has its default.

    Args:
        values: Such as a config file gives or `Settings.to_dict` gave.
        file: Where they are from, for errors.

    Raises:
        InputError: an unknown name (with the nearest right one), a wrong type, or values that cannot go together.
    """
    with _naming(file):
        return typed.build(Settings, complete(values.to_dict() if isinstance(values, ConfigDict) else values))


def complete(values: Mapping[str, Any], file: pathlib.Path | None = None) -> dict[str, Any]:
    """Every setting as given or at its default, of the right type but not yet checked for making sense together.

    Raises:
        InputError: an unknown name or a wrong type.
    """
    with _naming(file):
        return typed.complete(Settings, values, "config")


@contextlib.contextmanager
def _naming(file: pathlib.Path | None) -> Iterator[None]:
    """Says in errors which file the values are from."""
    try:
        yield
    except InputError as error:
        raise InputError(error.problem, file=file or error.file, hint=error.hint) from error
