"""A trained network, or several as an ensemble, as one compiled function from an image to labels."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxbrats.data.preprocess import Preprocessing
from jaxbrats.errors import InputError
from jaxbrats.train import checkpoints
from jaxbrats.train.record import read_record
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
    """

    workdir: pathlib.Path
    step: int
    preprocessing: Preprocessing
    model: nn.Module
    variables: Any


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
    if not (workdir / "checkpoints").is_dir():
        raise InputError("holds no checkpoints", file=workdir, cure="Train first, or check --workdir")
    with checkpoints.open_checkpoints(workdir, read_only=True) as manager:
        number = checkpoints.choose_step(manager, step)
        variables = checkpoints.restore_variables(manager, number, like)
    return Network(workdir, number, record.settings.data.preprocessing, model, variables)


def load_ensemble(workdirs: Sequence[str | pathlib.Path], step: str = "best") -> list[Network]:
    """Reads several runs' networks, which must share their preprocessing.

    Raises:
        InputError: as `load_network`, or runs that were preprocessed differently.
    """
    networks = [load_network(workdir, step) for workdir in workdirs]
    for network in networks[1:]:
        first, other = networks[0].preprocessing.to_dict(), network.preprocessing.to_dict()
        # Which cases were good enough to train on has no bearing on how a new one is prepared.
        different = [name for name in first if name != "min_tumour" and first[name] != other[name]]
        if different:
            name = different[0]
            raise InputError(
                f"an ensemble needs runs preprocessed alike: {name} is {other[name]} here and {first[name]} in "
                f"{networks[0].workdir}",
                file=network.workdir,
                cure="Predict with each run by itself",
            )
    return networks


def make_predict(networks: Sequence[Network]) -> Callable[[np.ndarray], np.ndarray]:
    """A function from an image `(X, Y, Z, C)` float32 to labels `(X, Y, Z)` uint8.

    Of several networks the softmax probabilities are averaged, then the most probable class is taken.
    """
    models = [network.model for network in networks]

    @jax.jit
    def labels(variables: list[Any], image: jax.Array) -> jax.Array:
        total = sum(jax.nn.softmax(model.apply(one, image[None])) for model, one in zip(models, variables, strict=True))
        return jnp.argmax(total[0], axis=-1).astype(jnp.uint8)

    variables = [network.variables for network in networks]
    return lambda image: np.asarray(labels(variables, image))
