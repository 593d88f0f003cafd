"""The 3-D U-Net (Çiçek et al. 2016, arXiv:1606.06650): encoder, decoder, skips, blocks of convolutions at each level.

With its defaults it is the network of the Keras notebook: two convolutions a level, ReLU, no normalisation, dropout
between a level's convolutions, He-uniform kernels, max-pooling down and 2×2×2 transposed convolutions up. Logits come
out; the softmax is the losses'.

nnU-Net's residual-encoder U-Nets (Isensee et al. 2024, arXiv:2404.09556) are `block='residual'`,
`blocks_per_level=(1, 3, 4, 6, 6, 6)`, `decoder_block='single'`, `stem=True`, `downsample='conv'`, `norm='instance'`,
`activation='leaky_relu'` and `deep_supervision=True`; with `features=(32, 64, 128, 256, 320, 320)` that is ResEnc L.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxbrats.config.model import downsampling, per_level
from jaxbrats.model.blocks import BLOCKS, AttentionGate, Block, Conv, Upsample
from jaxbrats.model.derived import add_derived
from jaxbrats.model.resample import Strides, max_pool


class UNet3D(nn.Module):
    """A 3-D U-Net.

    Called with `(B, X, Y, Z, C)` and `train`, it returns float32 logits `(B, X, Y, Z, num_classes)`. X, Y and Z must be
    divisible by `downsampling(len(features), strides)` of `jaxbrats.config.model`. Dropout and stochastic depth want
    the random stream 'dropout' when training; batch normalisation keeps the collection 'batch_stats'.

    What says 'each level' takes a sequence, of one value for all levels or one for each.

    Attributes:
        features: Channels of each level, from the full size to the bottom; their number is the depth.
        num_classes: Channels of the output.
        norm: 'none', 'instance', 'group' (8 groups, fewer where 8 does not divide the channels) or 'batch'.
        block: What encoder and bottom are made of, one of `blocks.BLOCKS`.
        blocks_per_level: Blocks of each level of encoder and bottom.
        decoder_block: What the decoder is made of; None for `block`.
        decoder_blocks_per_level: Blocks of each level of the decoder, from the full size down.
        stem: Whether one convolution, with norm and activation, comes before the first level.
        activation: 'relu', 'leaky_relu', 'gelu' or 'silu'.
        dropout: Rate for each level, or a number for all. The decoder uses its level's.
        stochastic_depth: Rate at which the bottom's residuals are left out while training; that of level i of n, of
            encoder and decoder, is (i + 1) / n of it.
        squeeze_excitation: Whether blocks weight their channels.
        attention_gates: Whether the decoder weights the voxels of the skips.
        downsample: 'pool', maximum over blocks of voxels, or 'conv', strides of the next level's first convolution.
        strides: How much smaller along X, Y and Z each level makes the next.
        kernels: Size along X, Y and Z of the convolutions of each level.
        deep_supervision: Whether training gets logits of the decoder's levels too, all but the lowest as in nnU-Net:
            called with `train`, the network then returns a tuple, logits of the full size first.
        conv: Algorithm of the convolutions, see `jaxbrats.model.conv`.
        remat: Whether a block's activations are computed again in the backward pass instead of being kept.
        dtype: Type of the activations: float32 or bfloat16. Parameters and normalisation statistics are float32.
        derived: Channels that are made of the image's and put behind them first, see `jaxbrats.model.derived`.
        modalities: Names of the image's channels; needed where there are derived ones.
    """

    features: Sequence[int] = (16, 32, 64, 128, 256)
    num_classes: int = 4
    norm: str = "none"
    block: str = "plain"
    activation: str = "relu"
    dropout: float | Sequence[float] = 0.0
    conv: str = "auto"
    remat: bool = False
    dtype: Any = jnp.float32
    blocks_per_level: Sequence[int] = (1,)
    decoder_block: str | None = None
    decoder_blocks_per_level: Sequence[int] = (1,)
    stem: bool = False
    stochastic_depth: float = 0.0
    squeeze_excitation: bool = False
    attention_gates: bool = False
    downsample: str = "pool"
    strides: Sequence[Strides] = ((2, 2, 2),)
    kernels: Sequence[tuple[int, int, int]] = ((3, 3, 3),)
    deep_supervision: bool = False
    derived: Sequence[str] = ()
    modalities: Sequence[str] = ()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array | tuple[jax.Array, ...]:
        """`(B, X, Y, Z, C)` to float32 logits `(B, X, Y, Z, num_classes)`, several with deep supervision."""
        depth = len(self.features)
        factors = downsampling(depth, self.strides)
        if any(size % factor for size, factor in zip(x.shape[1:4], factors, strict=True)):
            raise ValueError(f"a {depth}-level U-Net needs sizes divisible by {factors}, they are {x.shape[1:4]}")
        encoder_blocks = _of_levels("numbers of blocks", self.blocks_per_level, depth)
        decoder_blocks = _of_levels("numbers of decoder blocks", self.decoder_blocks_per_level, depth - 1)
        strides = _of_levels("strides", self.strides, depth - 1)
        gate = nn.remat(AttentionGate) if self.remat else AttentionGate

        if self.derived:
            x = add_derived(x, self.derived, self.modalities)
        x = x.astype(self.dtype)
        if self.stem:
            x = self._block("single", 0, "stem")((x,), train)
        skips = []
        for index in range(depth):
            name = f"encoder_{index}" if index < depth - 1 else "bottom"
            within = (1, 1, 1)
            if index and self.downsample == "conv":
                within = tuple(strides[index - 1])
            elif index:
                x = max_pool(x, strides[index - 1])
            x = self._level(self.block, encoder_blocks[index], index, name, (x,), train, within)
            skips.append(x)
        logits = []
        for index in reversed(range(depth - 1)):
            x = Upsample(self.features[index], tuple(strides[index]), name=f"upsample_{index}")(x)
            skip = skips[index]
            if self.attention_gates:
                skip = gate(max(1, self.features[index] // 2), name=f"gate_{index}")(skip, x)
            block = self.decoder_block or self.block
            x = self._level(block, decoder_blocks[index], index, f"decoder_{index}", (x, skip), train)
            # Its parameters are there whether training or not.
            wanted = self.deep_supervision and (train or self.is_initializing())
            if wanted and 0 < index < depth - 2:
                logits.append(self._logits(x, f"head_{index}"))
        logits.append(self._logits(x, "head"))
        return logits[0] if len(logits) == 1 else tuple(reversed(logits))

    def _level(
        self,
        block: str,
        count: int,
        index: int,
        name: str,
        inputs: tuple[jax.Array, ...],
        train: bool,
        strides: Strides = (1, 1, 1),
    ) -> jax.Array:
        """`count` blocks one after the other, the first with strides."""
        x = self._block(block, index, name, strides)(inputs, train)
        for number in range(1, count):
            x = self._block(block, index, f"{name}_block_{number}")((x,), train)
        return x

    def _block(self, block: str, index: int, name: str, strides: Strides = (1, 1, 1)) -> Block:
        """A block of level `index`."""
        depth = len(self.features)
        rates = self.dropout if isinstance(self.dropout, Sequence) else (self.dropout,)
        kind = nn.remat(BLOCKS[block], static_argnums=(2,)) if self.remat else BLOCKS[block]
        return kind(
            features=self.features[index],
            norm=self.norm,
            activation=self.activation,
            dropout=_of_levels("dropout rates", rates, depth)[index],
            conv=self.conv,
            dtype=self.dtype,
            kernel_size=tuple(_of_levels("kernels", self.kernels, depth)[index]),
            strides=strides,
            squeeze_excitation=self.squeeze_excitation,
            stochastic_depth=self.stochastic_depth * (index + 1) / depth,
            name=name,
        )

    def _logits(self, x: jax.Array, name: str) -> jax.Array:
        return Conv(self.num_classes, name=name)((x,)).astype(jnp.float32)


def _of_levels(what: str, values: Sequence[Any], levels: int) -> tuple[Any, ...]:
    """One value for each level; ValueError for another number of them."""
    values = per_level(values, levels)
    if len(values) != levels:
        raise ValueError(f"{levels} {what} are needed, one for each level; there are {len(values)}")
    return values
