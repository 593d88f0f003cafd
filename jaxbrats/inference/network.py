"""Trained networks, read from the checkpoints of their runs."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from jaxbrats.config.inference import Inference, Postprocessing
from jaxbrats.config.settings import Settings
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.data.raw.geometry import Frame
from jaxbrats.model.heads import LABELS, Head
from jaxbrats.system.errors import InputError
from jaxbrats.train import checkpoints
from jaxbrats.train.state import make_head, make_model, smallest_image


@dataclasses.dataclass(frozen=True)
class Network:
    """A checkpoint of a run, ready to be applied.

    Attributes:
        workdir: The run's folder.
        step: The checkpoint's step.
        preprocessing: How the images it was trained on were made, and new ones must be.
        model: The U-Net.
        variables: Parameters and batch statistics.
        window: Size (X, Y, Z) in voxels of what it is given at once.
        frame: Orientation and spacing of the cases it was trained on; None where they are not known.
        head: What the model's output means.
        missing_allowed: Whether it predicts a case with missing modalities: it was trained with modality dropout.
        inference: How the run's settings have it applied.
        postprocessing: What they have done to its labels.
    """

    workdir: pathlib.Path
    step: int
    preprocessing: Preprocessing
    model: nn.Module
    variables: Any
    window: tuple[int, int, int]
    frame: Frame | None = None
    head: Head = LABELS
    missing_allowed: bool = False
    inference: Inference = dataclasses.field(default_factory=Inference)
    postprocessing: Postprocessing = dataclasses.field(default_factory=Postprocessing)

    @property
    def divisors(self) -> tuple[int, int, int]:
        """What the sizes of a window have to be multiples of."""
        return smallest_image(self.model, 1).shape[1:4]

    def checksum(self) -> str:
        """Digest of the names, shapes and values of the variables: what tells one trained network from another."""
        digest = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_flatten_with_path(self.variables)[0]:
            array = np.ascontiguousarray(leaf)
            digest.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}\n".encode())
            digest.update(array.reshape(-1).view(np.uint8))
        return f"sha256:{digest.hexdigest()}"


def load_network(workdir: str | pathlib.Path, settings: Settings, frame: Frame | None, step: str = "best") -> Network:
    """Reads a run's network.

    Args:
        workdir: The run's folder.
        settings: The run's settings, from its record.
        frame: Orientation and spacing of its training cases, from its record.
        step: 'best', 'latest' or a step's number.

    Raises:
        InputError: no such checkpoint, or one that cannot be read.
    """
    workdir = pathlib.Path(workdir)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        {"batch_stats": {}} | shapes_of(settings),
    )
    number, variables = checkpoints.load_variables(workdir, step, like)
    return network_of(settings, frame, workdir, number, variables)


def shapes_of(settings: Settings) -> dict[str, Any]:
    """Shapes and types of a network's variables: 'params' and, where there are any, 'batch_stats'."""
    model = make_model(settings)
    image = smallest_image(model, len(settings.data.modalities))
    return dict(jax.eval_shape(model.init, jax.random.key(0), image))


def network_of(settings: Settings, frame: Frame | None, workdir: pathlib.Path, step: int, variables: Any) -> Network:
    """A network of a run's settings with these variables; the other arguments as the attributes of `Network`."""
    return Network(
        workdir,
        step,
        Preprocessing.of(settings.data),
        make_model(settings),
        variables,
        settings.window,
        frame,
        make_head(settings),
        settings.augment.modality_dropout > 0,
        settings.inference,
        settings.postprocessing,
    )


def check_ensemble(networks: Sequence[Network]) -> None:
    """Refuses networks whose predictions, in windows of one size, cannot be averaged.

    Raises:
        InputError: they differ in head, preprocessing, the frame of their training cases, or how they are applied; or
            one cannot be given the window of the first.
    """
    window = networks[0].window
    for network in networks:
        if any(size % divisor for size, divisor in zip(window, network.divisors, strict=True)):
            raise InputError(
                f"cannot be given windows of {window} voxels, needs multiples of {network.divisors}",
                file=network.workdir,
                hint="Give a --window that suits every network, or predict with each by itself",
            )
    for network in networks[1:]:
        for what, hint in (
            ("head", "Predict with each by itself, or give --thresholds for all where nothing else differs"),
            ("window", "Give --window, which then is for all"),
            ("inference", "Give --window, --overlap and --mirror, which then are for all"),
            ("postprocessing", "Tune them together with experiments/tune_postprocess.py, or give --nopostprocess"),
        ):
            here, first = getattr(network, what), getattr(networks[0], what)
            if here != first:
                problem = f"an ensemble needs networks with one {what}: it is {here} here and {first} in "
                raise InputError(problem + str(networks[0].workdir), file=network.workdir, hint=hint)
        first, other = _prepared(networks[0]), _prepared(network)
        different = [name for name in first if first[name] != other[name]]
        if networks[0].frame and network.frame and networks[0].frame.is_like(network.frame):
            different = [name for name in different if name not in network.frame.to_dict()]
        if different:
            name = different[0]
            raise InputError(
                f"an ensemble needs networks of cases preprocessed alike: {name} is {other[name]} here and "
                f"{first[name]} in {networks[0].workdir}",
                file=network.workdir,
                hint="Predict with each by itself",
            )


def _prepared(network: Network) -> dict[str, Any]:
    """What was done to the training cases that has to be done to a new one."""
    unknown = {"orientation": None, "spacing_mm": None}
    return network.preprocessing.of_images() | (network.frame.to_dict() if network.frame else unknown)
