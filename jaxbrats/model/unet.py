"""The 3-D U-Net (Çiçek et al. 2016, arXiv:1606.06650): encoder, decoder, skips, two convolutions a level.

With its defaults it is the network of the Keras notebook: ReLU, no normalisation, dropout between a level's
convolutions, He-uniform kernels, max-pooling down and 2×2×2 transposed convolutions up. Logits come out; the softmax
is the losses'.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxbrats.model import random
from jaxbrats.model.conv import conv3d
from jaxbrats.model.resample import max_pool, transposed_conv

NORMS = ("none", "instance", "group", "batch")
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "leaky_relu": nn.leaky_relu,
    "gelu": nn.gelu,
    "silu": nn.silu,
}


class UNet3D(nn.Module):
    """A 3-D U-Net.

    Called with `(B, X, Y, Z, C)` and `train`, it returns float32 logits `(B, X, Y, Z, num_classes)`. X, Y and Z must be
    divisible by `2 ** (len(features) - 1)`. Dropout wants the random stream 'dropout' when training; batch
    normalisation keeps the collection 'batch_stats'.

    Attributes:
        features: Channels of each level, from the full size to the bottom; their number is the depth.
        num_classes: Channels of the output.
        norm: 'none', 'instance', 'group' (8 groups, fewer where 8 does not divide the channels) or 'batch'.
        activation: 'relu', 'leaky_relu', 'gelu' or 'silu'.
        dropout: Rate for each level, or one for all. The decoder uses its level's.
        conv: Algorithm of the convolutions, see `jaxbrats.model.conv`.
        remat: Whether a level's activations are computed again in the backward pass instead of being kept.
        dtype: Type of the activations: float32 or bfloat16. Parameters and normalisation statistics are float32.
    """

    features: Sequence[int] = (16, 32, 64, 128, 256)
    num_classes: int = 4
    norm: str = "none"
    activation: str = "relu"
    dropout: float | Sequence[float] = 0.0
    conv: str = "auto"
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """`(B, X, Y, Z, C)` to float32 logits `(B, X, Y, Z, num_classes)`."""
        depth = len(self.features)
        factor = 2 ** (depth - 1)
        if any(size % factor for size in x.shape[1:4]):
            raise ValueError(f"a {depth}-level U-Net needs sizes divisible by {factor}, they are {x.shape[1:4]}")
        rates = (self.dropout,) * depth if isinstance(self.dropout, int | float) else tuple(self.dropout)
        if len(rates) != depth:
            raise ValueError(f"{depth} dropout rates are needed, one for each level; there are {len(rates)}")
        block = nn.remat(ConvBlock, static_argnums=(2,)) if self.remat else ConvBlock

        def level(index: int, name: str) -> nn.Module:
            return block(
                self.features[index], self.norm, self.activation, rates[index], self.conv, self.dtype, name=name
            )

        x = x.astype(self.dtype)
        skips = []
        for index in range(depth - 1):
            x = level(index, f"encoder_{index}")((x,), train)
            skips.append(x)
            x = max_pool(x)
        x = level(depth - 1, "bottom")((x,), train)
        for index in reversed(range(depth - 1)):
            x = Upsample(self.features[index], self.dtype, name=f"upsample_{index}")(x)
            x = level(index, f"decoder_{index}")((x, skips[index]), train)
        return Conv(self.num_classes, 1, dtype=self.dtype, name="head")((x,)).astype(jnp.float32)


class ConvBlock(nn.Module):
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
