"""The 3-D U-Net (Çiçek et al. 2016, arXiv:1606.06650): encoder, decoder, skips, two convolutions a level.

With its defaults it is the network of the Keras notebook: ReLU, no normalisation, dropout between a level's
convolutions, He-uniform kernels, max-pooling down and 2×2×2 transposed convolutions up. Logits come out; the softmax
is the losses'.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxbrats.config.model import downsampling
from jaxbrats.model.blocks import BLOCKS, Conv, Upsample
from jaxbrats.model.resample import max_pool


class UNet3D(nn.Module):
    """A 3-D U-Net.

    Called with `(B, X, Y, Z, C)` and `train`, it returns float32 logits `(B, X, Y, Z, num_classes)`. X, Y and Z must be
    divisible by `downsampling(len(features))` of `jaxbrats.config.model`. Dropout wants the random stream 'dropout'
    when training; batch normalisation keeps the collection 'batch_stats'.

    Attributes:
        features: Channels of each level, from the full size to the bottom; their number is the depth.
        num_classes: Channels of the output.
        norm: 'none', 'instance', 'group' (8 groups, fewer where 8 does not divide the channels) or 'batch'.
        block: What a level is made of, one of `blocks.BLOCKS`.
        activation: 'relu', 'leaky_relu', 'gelu' or 'silu'.
        dropout: Rate for each level, or one for all. The decoder uses its level's.
        conv: Algorithm of the convolutions, see `jaxbrats.model.conv`.
        remat: Whether a level's activations are computed again in the backward pass instead of being kept.
        dtype: Type of the activations: float32 or bfloat16. Parameters and normalisation statistics are float32.
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

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """`(B, X, Y, Z, C)` to float32 logits `(B, X, Y, Z, num_classes)`."""
        depth = len(self.features)
        factors = downsampling(depth)
        if any(size % factor for size, factor in zip(x.shape[1:4], factors, strict=True)):
            raise ValueError(f"a {depth}-level U-Net needs sizes divisible by {factors}, they are {x.shape[1:4]}")
        rates = (self.dropout,) * depth if isinstance(self.dropout, int | float) else tuple(self.dropout)
        if len(rates) != depth:
            raise ValueError(f"{depth} dropout rates are needed, one for each level; there are {len(rates)}")
        block = BLOCKS[self.block]
        block = nn.remat(block, static_argnums=(2,)) if self.remat else block

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
