"""What training carries from step to step, and how it begins."""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxbrats.config.model import downsampling
from jaxbrats.config.settings import Settings
from jaxbrats.model.heads import LABELS, Head, RegionsHead
from jaxbrats.model.unet import UNet3D


@flax.struct.dataclass
class TrainState:
    """All that a step reads and writes; a tree of arrays, so it is jitted, donated and checkpointed as it stands.

    Attributes:
        step: Steps done, int32 scalar.
        params: The network's parameters, float32, as they are trained.
        batch_stats: Running statistics of batch normalisation; empty with other norms.
        opt_state: The optimiser's.
        skipped: How many of the steps changed nothing because loss or update were not finite, int32 scalar.
        average: Moving average of parameters and batch statistics, `{"params", "batch_stats"}`; None without one.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    skipped: jax.Array
    average: dict[str, Any] | None = None

    @property
    def variables(self) -> dict[str, Any]:
        """What validation, evaluation and prediction apply, parameters and batch statistics: their average where there
        is one.
        """
        return self.trained if self.average is None else self.average

    @property
    def trained(self) -> dict[str, Any]:
        """Parameters and batch statistics as the last step left them."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def make_head(settings: Settings) -> Head:
    """What the network's output means."""
    return RegionsHead(settings.model.thresholds) if settings.model.head == "regions" else LABELS


def make_model(settings: Settings) -> UNet3D:
    """The network that the settings describe."""
    network = settings.model
    return UNet3D(
        features=network.features,
        num_classes=make_head(settings).channels,
        norm=network.norm,
        activation=network.activation,
        dropout=network.dropout,
        block=network.block,
        blocks_per_level=network.blocks_per_level,
        decoder_block=network.decoder_block,
        decoder_blocks_per_level=network.decoder_blocks_per_level,
        stem=network.stem,
        stochastic_depth=network.stochastic_depth,
        squeeze_excitation=network.squeeze_excitation,
        attention_gates=network.attention_gates,
        downsample=network.downsample,
        strides=network.network_strides,
        kernels=network.network_kernels,
        deep_supervision=network.deep_supervision,
        conv=settings.conv,
        remat=settings.remat,
        dtype=jnp.dtype(settings.dtype),
        derived=settings.data.derived,
        modalities=settings.data.modalities,
    )


def init_state(
    model: nn.Module, optimizer: optax.GradientTransformation, seed: int, channels: int, ema: float = 0.0
) -> TrainState:
    """A fresh state.

    Args:
        model: The network.
        optimizer: From `make_optimizer`.
        seed: Of the parameters.
        channels: Channels of the images, without those that are derived from them.
        ema: Decay of the average of the weights; 0 for none.
    """

    @jax.jit
    def init(key: jax.Array) -> TrainState:
        # No convolution is left in the compiled program, whichever it is: the plain one is the quickest to trace.
        variables = model.clone(conv="direct").init(key, smallest_image(model, channels))
        params = variables["params"]
        zero = jnp.zeros((), jnp.int32)
        state = TrainState(zero, params, variables.get("batch_stats", {}), optimizer.init(params), zero)
        return state.replace(average=jax.tree.map(jnp.zeros_like, state.trained)) if ema else state

    return init(jax.random.key(seed))


def smallest_image(model: UNet3D, channels: int) -> jax.Array:
    """Zeros `(1, X, Y, Z, channels)`: parameters do not depend on the volume's size, so the smallest one will do."""
    return jnp.zeros((1, *downsampling(len(model.features), model.strides), channels), jnp.float32)
