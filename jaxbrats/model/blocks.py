"""What a U-Net is built from: blocks by name, convolution and upsampling with their parameters, normalisation."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxbrats.model import random
from jaxbrats.model.conv import conv3d
from jaxbrats.model.resample import transposed_conv

NORMS = ("none", "instance", "group", "batch")
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "leaky_relu": nn.leaky_relu,
    "gelu": nn.gelu,
    "silu": nn.silu,
}


class PlainBlock(nn.Module):
    """Convolution, normalisation, activation, dropout, convolution, normalisation, activation."""

    features: int
    norm: str
    activation: str
    dropout: float
    conv: str
    dtype: Any

    @nn.compact
    def __call__(self, inputs: tuple[jax.Array, ...], train: bool) -> jax.Array:
        """`inputs` stand for their concatenation along the channels."""
        activation = ACTIVATIONS[self.activation]
        for index in range(2):
            # A normalisation with its own shift makes a bias before it idle.
            x = Conv(self.features, 3, self.norm == "none", self.conv, self.dtype, name=f"conv_{index}")(inputs)
            x = activation(normalise(x, self.norm, train, self.dtype, name=f"norm_{index}"))
            if index == 0 and self.dropout and train:
                x = random.dropout(self.make_rng("dropout"), x, self.dropout)
            inputs = (x,)
        return x


class Conv(nn.Module):
    """A convolution with its parameters: He-uniform kernel (He et al. 2015, arXiv:1502.01852), zero bias."""

    features: int
    size: int
    use_bias: bool = True
    method: str = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: tuple[jax.Array, ...]) -> jax.Array:
        """`inputs` stand for their concatenation along the channels; the output has their size."""
        channels = sum(x.shape[-1] for x in inputs)
        shape = (self.size, self.size, self.size, channels, self.features)
        kernel = self.param("kernel", random.he_uniform, shape, math.prod(shape[:-1]))
        y = conv3d(inputs, kernel, self.method)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(self.dtype)
        return y


class Upsample(nn.Module):
    """A 2×2×2 transposed convolution of stride 2 with its parameters."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`(B, X, Y, Z, C)` to `(B, 2X, 2Y, 2Z, features)`."""
        # Each output voxel has a single tap of the window, so the fan-in is the channels alone.
        kernel = self.param("kernel", random.he_uniform, (2, 2, 2, x.shape[-1], self.features), x.shape[-1])
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return transposed_conv(x, kernel) + bias.astype(self.dtype)


def normalise(x: jax.Array, norm: str, train: bool, dtype: Any, name: str) -> jax.Array:
    """Applies one of `NORMS`; called inside a compact module, whose child `name` holds scale and shift."""
    if norm == "none":
        return x
    if norm == "instance":
        return nn.InstanceNorm(epsilon=1e-5, dtype=dtype, name=name)(x)
    if norm == "group":
        return nn.GroupNorm(num_groups=math.gcd(8, x.shape[-1]), epsilon=1e-5, dtype=dtype, name=name)(x)
    if norm == "batch":
        return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name)(x)
    raise ValueError(f"norm is one of {', '.join(NORMS)}; it is {norm!r}")


# A block takes the tensors whose concatenation is its input, and whether the network is training.
BLOCKS: dict[str, type[nn.Module]] = {"plain": PlainBlock}
