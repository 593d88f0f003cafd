"""Everything a run can be told, as frozen dataclasses, and the one place where a ConfigDict becomes them.

A config file gives values to these names and no others: an unknown name, a wrong type or values that cannot go together
are refused here, before anything is read or compiled.
"""

import contextlib
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from jaxbrats.data.labels import DEFAULT_MODALITIES, NUM_CLASSES
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.model.conv import METHODS
from jaxbrats.model.unet import ACTIVATIONS, NORMS
from jaxbrats.system.errors import InputError


@dataclasses.dataclass(frozen=True)
class Mesh:
    """How the devices share the work.

    Attributes:
        data: Devices over which a batch is split; -1 takes all there are.
        space: Devices over which each volume is split along its first spatial axis.
    """

    data: int = -1
    space: int = 1


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the data is and how it is made ready.

    Attributes:
        dir: Folder of preprocessed arrays; made from `raw_dir` when it holds none. Empty: `data/` beside the
            checkpoints.
        raw_dir: Cohort of NIfTI files; empty when `dir` is all there is.
        synthetic_cases: Phantoms to write into `raw_dir` first, where real data would lie; 0 for none.
        synthetic_shape: Their size in voxels.
        modalities: Input channels, in order.
        crop: Size in voxels of the arrays the network sees.
        normalization: 'minmax' or 'zscore'.
        min_tumour: Least share of tumour voxels in the crop for a case to be used.
        spacing: Size in mm of the arrays' voxels along each axis; None for that of most cases.
        val_fraction: Share of the patients kept for validation.
        split_seed: Which patients those are; apart from `seed`, so that runs with other seeds share their validation
            cases.
        workers: Processes that preprocess (0: one a processor) and that read batches (0: threads read them).
    """

    dir: str = ""
    raw_dir: str = ""
    synthetic_cases: int = 0
    synthetic_shape: tuple[int, ...] = (96, 96, 80)
    modalities: tuple[str, ...] = DEFAULT_MODALITIES
    crop: tuple[int, ...] = (128, 128, 128)
    normalization: str = "minmax"
    min_tumour: float = 0.01
    spacing: tuple[float, ...] | None = None
    val_fraction: float = 0.25
    split_seed: int = 0
    workers: int = 0

    @property
    def preprocessing(self) -> Preprocessing:
        """The part that decides what the arrays hold."""
        return Preprocessing(self.modalities, self.crop, self.normalization, self.min_tumour, self.spacing)


@dataclasses.dataclass(frozen=True)
class Model:
    """The network; see `jaxbrats.model.unet.UNet3D`."""

    features: tuple[int, ...] = (16, 32, 64, 128, 256)
    norm: str = "none"
    activation: str = "relu"
    dropout: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2, 0.3)


@dataclasses.dataclass(frozen=True)
class Loss:
    """`dice_weight` times the Dice loss plus `focal_weight` times the focal loss; see `jaxbrats.model.losses`."""

    dice_weight: float = 1.0
    focal_weight: float = 1.0
    class_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    alpha: float = 0.25
    gamma: float = 2.0


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """When to save besides the end of every epoch: each `every_steps` steps, never when 0."""

    every_steps: int = 0


@dataclasses.dataclass(frozen=True)
class Settings:
    """A whole run.

    Attributes:
        seed: Of the parameters, the dropout and the order of the cases.
        batch_size: Cases in a step, over all devices.
        accumulate: Micro-batches of a step, worked on one after the other where a batch does not fit in memory. Their
            gradients and losses are averaged: the Dice loss and batch normalisation see one micro-batch at a time.
        num_epochs: Passes over the training cases.
        learning_rate: Of Adam; the peak of the schedule.
        schedule: 'constant', or 'cosine' to zero after a linear warm-up over the first twentieth of the steps.
        dtype: Of the activations: 'float32' or 'bfloat16'.
        remat: Whether activations are computed again in the backward pass, for less memory.
        conv: Algorithm of the convolutions; see `jaxbrats.model.conv`.
        gpu_memory_fraction: Share of each GPU's memory that JAX may take.
        skip_nonfinite: Whether an update that is not finite is dropped and counted; else it ends the run.
    """

    seed: int = 0
    batch_size: int = 2
    accumulate: int = 1
    num_epochs: int = 100
    learning_rate: float = 1e-4
    schedule: str = "constant"
    dtype: str = "float32"
    remat: bool = False
    conv: str = "auto"
    gpu_memory_fraction: float = 0.9
    skip_nonfinite: bool = False
    mesh: Mesh = Mesh()
    data: Data = Data()
    model: Model = Model()
    loss: Loss = Loss()
    checkpoint: Checkpoint = Checkpoint()

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy, which `from_config` reads back."""
        return dataclasses.asdict(self)


def from_config(config: ConfigDict | Mapping[str, Any]) -> Settings:
    """Makes the settings of a run from a config file's `ConfigDict` or a nested mapping.

    Raises:
        InputError: an unknown name (with the nearest right one), a wrong type, or values that cannot go together.
    """
    settings = parse(config.to_dict() if isinstance(config, ConfigDict) else config)
    check(settings)
    return settings


def parse(values: Mapping[str, Any]) -> Settings:
    """Settings of the right names and types, not yet checked for making sense together.

    Raises:
        InputError: an unknown name or a wrong type.
    """
    return _build(Settings, values, "config")


def type_of(name: str) -> Any:
    """The type of a setting by its dotted name, 'config.data.crop'; of a group of settings, its dataclass.

    Raises:
        InputError: there is no such setting; names the nearest.
    """
    kind, path = Settings, "config"
    for part in name.split(".")[1:]:
        kind = _field(kind, part, path)
        path = f"{path}.{part}"
    return kind


def _field(cls: Any, name: str, path: str) -> Any:
    fields = typing.get_type_hints(cls) if dataclasses.is_dataclass(cls) else {}
    if name not in fields:
        near = difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
        hint = f"Did you mean {path}.{near[0]}?" if near else f"{path} has: {', '.join(fields) or 'no parts'}"
        raise InputError(f"{path}.{name} is not a setting", hint=hint)
    return fields[name]


def _build(cls: type, values: Mapping[str, Any], path: str) -> Any:
    fields = {name: _field(cls, name, path) for name in values}
    return cls(**{name: _convert(fields[name], value, f"{path}.{name}") for name, value in values.items()})


def _convert(kind: Any, value: Any, path: str) -> Any:
    """`value` as the type a field declares; integers pass for floats, lists and 'a,b' strings for tuples."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise InputError(f"{path} is a group of settings; {value!r} is none")
        return _build(kind, value, path)
    if isinstance(kind, types.UnionType):
        return None if value is None else _convert(typing.get_args(kind)[0], value, path)
    if isinstance(kind, types.GenericAlias):
        item = typing.get_args(kind)[0]
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            value = (value,)
        # On the command line a tuple of names arrives as one string in a tuple.
        parts = [part for one in value for part in (one.split(",") if isinstance(one, str) else [one])]
        return tuple(_convert(item, _number(item, part), path) for part in parts)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InputError(f"{path} must be of type {kind.__name__}; it is {value!r}")
    return value


def _number(kind: type, part: Any) -> Any:
    """A part of such a string as what it stands for; left as it is where it stands for nothing."""
    part = part.strip().strip("()") if isinstance(part, str) else part
    if kind in (int, float) and isinstance(part, str):
        with contextlib.suppress(ValueError):
            return kind(part)
    return part


def check(settings: Settings) -> None:
    """Refuses values outside their range and combinations that cannot work."""

    def need(right: bool, what: str, value: Any) -> None:
        if not right:
            raise InputError(f"config.{what}; it is {value!r}")

    model, data, loss = settings.model, settings.data, settings.loss
    for name in ("batch_size", "accumulate", "num_epochs"):
        need(getattr(settings, name) >= 1, f"{name} must be at least 1", getattr(settings, name))
    need(
        settings.batch_size % settings.accumulate == 0,
        f"batch_size must be divisible by config.accumulate, which is {settings.accumulate}",
        settings.batch_size,
    )
    need(settings.seed >= 0, "seed must be 0 or more", settings.seed)
    need(0 < settings.learning_rate < math.inf, "learning_rate must be above 0 and finite", settings.learning_rate)
    need(settings.schedule in ("constant", "cosine"), "schedule is constant or cosine", settings.schedule)
    need(settings.dtype in ("float32", "bfloat16"), "dtype is float32 or bfloat16", settings.dtype)
    need(settings.conv in METHODS, f"conv is one of {', '.join(METHODS)}", settings.conv)
    need(0 < settings.gpu_memory_fraction <= 1, "gpu_memory_fraction is above 0, up to 1", settings.gpu_memory_fraction)
    need(settings.mesh.data >= 1 or settings.mesh.data == -1, "mesh.data is -1 or at least 1", settings.mesh.data)
    need(settings.mesh.space >= 1, "mesh.space must be at least 1", settings.mesh.space)
    need(
        settings.batch_size % max(settings.mesh.data, 1) == 0,
        f"batch_size must be a multiple of the {settings.mesh.data} devices of mesh.data",
        settings.batch_size,
    )
    need(
        data.preprocessing.crop[0] % settings.mesh.space == 0,
        f"data.crop must be divisible along its first axis by the {settings.mesh.space} devices of mesh.space",
        data.crop,
    )
    need(data.split_seed >= 0, "data.split_seed must be 0 or more", data.split_seed)
    need(0 < data.val_fraction < 1, "data.val_fraction lies between 0 and 1", data.val_fraction)
    need(data.synthetic_cases >= 0, "data.synthetic_cases must be 0 or more", data.synthetic_cases)
    need(
        len(data.synthetic_shape) == 3 and min(data.synthetic_shape) >= 16,
        "data.synthetic_shape needs three sizes of 16 or more",
        data.synthetic_shape,
    )
    need(data.workers >= 0, "data.workers must be 0 or more", data.workers)
    need(len(model.features) >= 1 and min(model.features) >= 1, "model.features needs positive numbers", model.features)
    need(model.norm in NORMS, f"model.norm is one of {', '.join(NORMS)}", model.norm)
    need(model.activation in ACTIVATIONS, f"model.activation is one of {', '.join(ACTIVATIONS)}", model.activation)
    need(all(0 <= rate < 1 for rate in model.dropout), "model.dropout needs rates from 0 to below 1", model.dropout)
    need(
        len(model.dropout) in (1, len(model.features)),
        f"model.dropout needs one rate, or one for each of the {len(model.features)} levels of model.features",
        model.dropout,
    )
    need(
        len(loss.class_weights) == NUM_CLASSES and min(loss.class_weights) >= 0 and sum(loss.class_weights) > 0,
        f"loss.class_weights needs {NUM_CLASSES} weights, 0 or more and not all 0",
        loss.class_weights,
    )
    need(min(loss.dice_weight, loss.focal_weight) >= 0, "loss weights must be 0 or more", loss)
    need(0 < loss.dice_weight + loss.focal_weight < math.inf, "loss needs one weight above 0, none infinite", loss)
    need(0 <= loss.gamma < math.inf, "loss.gamma must be 0 or more", loss.gamma)
    need(0 <= loss.alpha < math.inf, "loss.alpha must be 0 or more", loss.alpha)
    need(settings.checkpoint.every_steps >= 0, "checkpoint.every_steps must be 0 or more", settings.checkpoint)
    factor = 2 ** (len(model.features) - 1)
    need(
        all(size % factor == 0 for size in data.preprocessing.crop),
        f"data.crop must be divisible by {factor}, because {len(model.features)} levels of model.features halve it "
        f"{len(model.features) - 1} times",
        data.crop,
    )
