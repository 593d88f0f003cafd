"""A trained network, or several as an ensemble, as one compiled function from images to probabilities or labels."""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.data.raw.geometry import Frame
from jaxbrats.inference.sliding_window import Apply
from jaxbrats.runs.record import read_record
from jaxbrats.system.errors import InputError
from jaxbrats.train import checkpoints
from jaxbrats.train.state import make_model


@dataclasses.dataclass(frozen=True)
class Network:
    """A checkpoint of a run, ready to be applied.

    Attributes:
        workdir: The run's folder.
        step: The checkpoint's step.
        preprocessing: What its input must have gone through.
        model: The U-Net.
        variables: Parameters and batch statistics.
        frame: Orientation and spacing of the cases it was trained on; None where they are not known.
    """

    workdir: pathlib.Path
    step: int
    preprocessing: Preprocessing
    model: nn.Module
    variables: Any
    frame: Frame | None = None


def load_network(workdir: str | pathlib.Path, step: str = "best") -> Network:
    """Reads a run's network.

    Args:
        workdir: The run's folder.
        step: 'best', 'latest' or a step's number.

    Raises:
        InputError: no such run or checkpoint, or one that cannot be read.
    """
    workdir = pathlib.Path(workdir)
    record = read_record(workdir)
    model = make_model(record.settings)
    edge = 2 ** (len(model.features) - 1)
    channels = len(record.settings.data.modalities)
    shapes = jax.eval_shape(
        model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, edge, edge, edge, channels), jnp.float32)
    )
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        {"params": shapes["params"], "batch_stats": shapes.get("batch_stats", {})},
    )
    number, variables = checkpoints.load_variables(workdir, step, like)
    return Network(workdir, number, Preprocessing.of(record.settings.data), model, variables, record.frame)


def load_ensemble(workdirs: Sequence[str | pathlib.Path], step: str = "best") -> list[Network]:
    """Reads several runs' networks, which must share their preprocessing and the frame of their training cases.

    Raises:
        InputError: as `load_network`, or runs that were preprocessed differently.
    """
    networks = [load_network(workdir, step) for workdir in workdirs]
    for network in networks[1:]:
        first, other = _prepared(networks[0]), _prepared(network)
        different = [name for name in first if first[name] != other[name]]
        if networks[0].frame and network.frame and networks[0].frame.is_like(network.frame):
            different = [name for name in different if name not in network.frame.to_dict()]
        if different:
            name = different[0]
            raise InputError(
                f"an ensemble needs runs preprocessed alike: {name} is {other[name]} here and {first[name]} in "
                f"{networks[0].workdir}",
                file=network.workdir,
                hint="Predict with each run by itself",
            )
    return networks


def _prepared(network: Network) -> dict[str, Any]:
    """What was done to the training cases that has to be done to a new one."""
    values = network.preprocessing.to_dict()
    # Which cases were good enough to train on has no bearing on how a new one is prepared.
    del values["min_tumour"]
    unknown = {"orientation": None, "spacing_mm": None}
    return values | (network.frame.to_dict() if network.frame else unknown)


def make_apply(networks: Sequence[Network], mirror: bool = False) -> Apply:
    """A function from images `(B, X, Y, Z, C)` to probabilities `(B, X, Y, Z, K)`, the mean over an ensemble.

    Every network is compiled once for each shape of its input, and networks that differ in nothing but their parameters
    share that program.

    Args:
        networks: The ensemble.
        mirror: Whether the mean is also over the image mirrored along each combination of its axes, eight in all,
            every prediction mirrored back (test-time augmentation).
    """
    mirrorings = [np.array(axes) for axes in itertools.product((False, True), repeat=3)] if mirror else [None]
    members = [(network, axes) for network in networks for axes in mirrorings]

    def apply(images: jax.Array | np.ndarray) -> jax.Array:
        images, total = jnp.asarray(images), None
        for network, axes in members:
            probabilities = _probabilities(network.model, network.variables, images, axes)
            total = probabilities if total is None else _add(total, probabilities)
        return total if len(members) == 1 else total / len(members)

    return apply


def make_predict(networks: Sequence[Network]) -> Callable[[np.ndarray], np.ndarray]:
    """A function from an image `(X, Y, Z, C)` float32 to labels `(X, Y, Z)` uint8.

    Of several networks the softmax probabilities are averaged, then the most probable class is taken.
    """
    apply = make_apply(networks)
    return lambda image: np.asarray(_most_probable(apply(image[None])[0]))


@functools.partial(jax.jit, static_argnames="model")
def _probabilities(model: nn.Module, variables: Any, images: jax.Array, mirror: jax.Array | None) -> jax.Array:
    """Class probabilities; `mirror` tells of each axis whether to reverse it before, and back afterwards."""
    return _mirror(jax.nn.softmax(model.apply(variables, _mirror(images, mirror))), mirror)


@functools.partial(jax.jit, donate_argnames="total")
def _add(total: jax.Array, probabilities: jax.Array) -> jax.Array:
    return total + probabilities


def _mirror(x: jax.Array, axes: jax.Array | None) -> jax.Array:
    """Reverses the axes of `(B, X, Y, Z, C)` that `axes` says, of which the compiled program does not depend."""
    for axis in range(0 if axes is None else 3):
        x = jnp.where(axes[axis], jnp.flip(x, axis + 1), x)
    return x


@jax.jit
def _most_probable(probabilities: jax.Array) -> jax.Array:
    return jnp.argmax(probabilities, axis=-1).astype(jnp.uint8)
