"""Weights of the loss's channels from how often each is true in the training cases."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxbrats.config.settings import Settings
from jaxbrats.data.arrays import ArrayCase, label_voxels
from jaxbrats.data.labels import NUM_CLASSES
from jaxbrats.system.errors import InputError
from jaxbrats.train.state import make_head


def balance(settings: Settings, cases: Sequence[ArrayCase]) -> Settings:
    """The settings with numbers in place of balanced weights: the inverse of each channel's voxels, 1 on average.

    Args:
        settings: The run's.
        cases: The training cases.

    Raises:
        InputError: a label or region is in no case, or a mask cannot be read.
    """
    head = make_head(settings)
    if getattr(settings.loss, head.weights_setting) != "balanced":
        return settings
    voxels = label_voxels(cases).sum(axis=0) @ np.asarray(head.targets(jnp.arange(NUM_CLASSES)), np.int64)
    if not voxels.all():
        raise InputError(
            f"config.loss.{head.weights_setting} = balanced needs voxels of every channel in the training cases; "
            f"there are {voxels.tolist()}",
            hint="Give the weights as numbers",
        )
    weights = tuple((1 / voxels / np.mean(1 / voxels)).tolist())
    print(f"loss.{head.weights_setting} = {', '.join(f'{weight:.4g}' for weight in weights)}, from the training cases")
    return dataclasses.replace(settings, loss=dataclasses.replace(settings.loss, **{head.weights_setting: weights}))
