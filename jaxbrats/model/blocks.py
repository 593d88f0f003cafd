"""What a U-Net is built from: blocks by name, convolution and upsampling with their parameters, normalisation."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxbrats.model import random
from jaxbrats.model.conv import conv3d
from jaxbrats.model.instance_norm import Activation, InstanceNorm
from jaxbrats.model.resample import Strides, mean_pool, transposed_conv
from jaxbrats.model.strided_conv import strided_conv3d

NORMS = ("none", "instance", "group", "batch")
ACTIVATIONS: dict[str, Activation] = {
    "relu": nn.relu,
    "leaky_relu": nn.leaky_relu,  # slope 0.01
    "gelu": nn.gelu,
    "silu": nn.silu,
}
# Channels for each unit of the squeezed layer (Hu et al. 2018, section 6.1), and the fewest units, as in nnU-Net: where
# they are few, all may be off for every volume from the start.
_SQUEEZE, _FEWEST_UNITS = 16, 8


class Conv(nn.Module):
    """A convolution with its parameters: He-uniform kernel (He et al. 2015, arXiv:1502.01852), zero bias."""

    features: int
    kernel_size: tuple[int, int, int] = (1, 1, 1)
    use_bias: bool = True
    method: str = "auto"
    strides: Strides = (1, 1, 1)

    @nn.compact
    def __call__(self, inputs: tuple[jax.Array, ...]) -> jax.Array:
        """`inputs` stand for their concatenation along the channels (one alone with strides).

        The output has their size, divided by the strides.
        """
        channels = sum(x.shape[-1] for x in inputs)
        shape = (*self.kernel_size, channels, self.features)
        kernel = self.param("kernel", random.he_uniform, shape, math.prod(shape[:-1]))
        if self.strides == (1, 1, 1):
            y = conv3d(inputs, kernel, self.method)
        else:
            (x,) = inputs
            y = strided_conv3d(x, kernel, self.strides, self.method)
        if self.use_bias:
            y = _add_bias(y, self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32))
        return y


class Upsample(nn.Module):
    """A transposed convolution with its parameters, its window as large as its strides."""

    features: int
    strides: Strides = (2, 2, 2)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`(B, X, Y, Z, C)` to `(B, sx X, sy Y, sz Z, features)`."""
        # Each output voxel has a single tap of the window, so the fan-in is the channels alone.
        kernel = self.param("kernel", random.he_uniform, (*self.strides, x.shape[-1], self.features), x.shape[-1])
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return _add_bias(transposed_conv(x, kernel), bias)


def _add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    # In float32, so that the bias's gradient is: a sum over all voxels, of which bfloat16 keeps two digits at best.
    return (y.astype(jnp.float32) + bias).astype(y.dtype)


class SqueezeExcitation(nn.Module):
    """Channels weighted by what the whole volume has of them (Hu et al. 2018, arXiv:1709.01507)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`(B, X, Y, Z, C)` times a weight between 0 and 1 for each case and channel."""
        channels = x.shape[-1]
        mean = x.mean(axis=(1, 2, 3), keepdims=True, dtype=jnp.float32)
        units = max(_FEWEST_UNITS, channels // _SQUEEZE)
        squeezed = nn.relu(Conv(units, name="squeeze")((mean,)))
        return x * nn.sigmoid(Conv(channels, name="excite")((squeezed,))).astype(x.dtype)


class AttentionGate(nn.Module):
    """A skip connection weighted voxel by voxel by what the decoder has found (Oktay et al. 2018, arXiv:1804.03999).

    The coefficient is sigmoid(psi relu(W_x skip + W_g gate + b) + c). Gate is the decoder's upsampled signal, so that
    the coefficients are computed at the skip's size instead of being interpolated to it.
    """

    features: int

    @nn.compact
    def __call__(self, skip: jax.Array, gate: jax.Array) -> jax.Array:
        """`skip` `(B, X, Y, Z, C)`, weighted by `gate` `(B, X, Y, Z, C')`."""
        joint = nn.relu(Conv(self.features, name="joint")((skip, gate)))
        return skip * nn.sigmoid(Conv(1, name="coefficient")((joint,)))


def normalise(
    x: jax.Array, norm: str, train: bool, dtype: Any, name: str, activation: Activation = lambda x: x
) -> jax.Array:
    """One of `NORMS` and an activation; called inside a compact module, whose child `name` holds scale and shift."""
    if norm == "none":
        return activation(x)
    if norm == "instance":
        return InstanceNorm(activation, dtype, name=name)(x)
    if norm == "group":
        return activation(nn.GroupNorm(math.gcd(8, x.shape[-1]), epsilon=1e-5, dtype=dtype, name=name)(x))
    if norm == "batch":
        statistics = {"use_running_average": not train, "momentum": 0.9}
        return activation(nn.BatchNorm(**statistics, epsilon=1e-5, dtype=dtype, name=name)(x))
    raise ValueError(f"norm is one of {', '.join(NORMS)}; it is {norm!r}")


class Block(nn.Module):
    """What all blocks are told and share.

    A block is called with the tensors whose concatenation along the channels is its input, and whether the network is
    training.

    Attributes:
        features: Channels of its output.
        norm: One of `NORMS`, after each convolution.
        activation: One of `ACTIVATIONS`.
        dropout: Rate between its convolutions; a block of one convolution has none.
        conv: Algorithm of the convolutions.
        dtype: Type of the activations.
        kernel_size: Of its convolutions.
        strides: Of its first convolution.
        squeeze_excitation: Whether activations pass through `SqueezeExcitation`: the output of plain blocks, those
            between the convolutions of residual ones.
        stochastic_depth: Rate at which a residual is left out while training.
    """

    features: int
    norm: str = "none"
    activation: str = "relu"
    dropout: float = 0.0
    conv: str = "auto"
    dtype: Any = jnp.float32
    kernel_size: tuple[int, int, int] = (3, 3, 3)
    strides: Strides = (1, 1, 1)
    squeeze_excitation: bool = False
    stochastic_depth: float = 0.0

    def convolve(
        self, index: int, inputs: tuple[jax.Array, ...], train: bool, activation: Activation = lambda x: x
    ) -> jax.Array:
        """The block's convolution number `index`, normalised and activated."""
        strides = self.strides if index == 0 else (1, 1, 1)
        # A normalisation with its own shift makes a bias before it idle.
        bias = self.norm == "none"
        x = Conv(self.features, self.kernel_size, bias, self.conv, strides, name=f"conv_{index}")(inputs)
        return normalise(x, self.norm, train, self.dtype, f"norm_{index}", activation)

    def drop(self, x: jax.Array, train: bool) -> jax.Array:
        """Dropout, while training."""
        return random.dropout(self.make_rng("dropout"), x, self.dropout) if self.dropout and train else x

    def excite(self, x: jax.Array) -> jax.Array:
        """Squeeze-and-excitation where it is asked for."""
        return SqueezeExcitation(name="squeeze_excitation")(x) if self.squeeze_excitation else x


class PlainBlock(Block):
    """Convolution, normalisation, activation, dropout, convolution, normalisation, activation."""

    convolutions = 2

    @nn.compact
    def __call__(self, inputs: tuple[jax.Array, ...], train: bool) -> jax.Array:
        """`(B, X, Y, Z, C)` each to `(B, X', Y', Z', features)`, sizes divided by the strides."""
        for index in range(self.convolutions):
            x = self.convolve(index, inputs, train, ACTIVATIONS[self.activation])
            inputs = (self.drop(x, train) if index < self.convolutions - 1 else x,)
        return self.excite(*inputs)


class SingleBlock(PlainBlock):
    """Convolution, normalisation, activation: what nnU-Net's residual-encoder U-Nets have in the decoder."""

    convolutions = 1


class ResidualBlock(Block):
    """Two convolutions that learn what to add to the input (He et al. 2016, arXiv:1512.03385, figure 2).

    As in nnU-Net (Isensee et al. 2024, arXiv:2404.09556), but that its last normalisation begins with a scale of 1,
    nnU-Net's with 0: activation after the sum; where channels change, the input is projected by a 1×1×1 convolution
    with normalisation, and where the block strides, averaged before (ResNet-D, He et al. 2019, arXiv:1812.01187).
    """

    @nn.compact
    def __call__(self, inputs: tuple[jax.Array, ...], train: bool) -> jax.Array:
        """`(B, X, Y, Z, C)` each to `(B, X', Y', Z', features)`, sizes divided by the strides."""
        activation = ACTIVATIONS[self.activation]
        # Not the residual, as Hu et al. and nnU-Net: with instance normalisation its mean is the same for every case.
        x = self.excite(self.convolve(0, inputs, train, activation))
        x = self.convolve(1, (self.drop(x, train),), train)
        if self.stochastic_depth and train:
            # One decision for each case (Huang et al. 2016, arXiv:1603.09382), scaled so that the expectation stays.
            ones = jnp.ones((len(x), 1, 1, 1, 1), x.dtype)
            x = x * random.dropout(self.make_rng("dropout"), ones, self.stochastic_depth)
        return activation(x + self._skip(inputs, train))

    def _skip(self, inputs: tuple[jax.Array, ...], train: bool) -> jax.Array:
        inputs = tuple(mean_pool(part, self.strides) for part in inputs)
        if sum(part.shape[-1] for part in inputs) == self.features:
            return jnp.concatenate(inputs, axis=-1)
        x = Conv(self.features, use_bias=self.norm == "none", name="projection")(inputs)
        return normalise(x, self.norm, train, self.dtype, name="projection_norm")


BLOCKS: dict[str, type[Block]] = {"plain": PlainBlock, "single": SingleBlock, "residual": ResidualBlock}
