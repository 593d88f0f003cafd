"""Changes of a channel's values, by name, in the order in which they are applied.

Each draws one strength for every channel of a case and applies it to one channel `(X, Y, Z)`. A new one is a pair of
functions, its line in `TRANSFORMS`, and a probability of the same name in `jaxbrats.config.augment`.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxbrats.config import Augment
from jaxbrats.model import random
from jaxbrats.model.augment.fields import along_axes, smooth_field, thick_axes

# From settings, key and number of channels to the strength of each channel, `(C, ...)`.
Draw = Callable[[Augment, jax.Array, int], jax.Array]
_TINY = 1e-7


def change_intensities(settings: Augment, key: jax.Array, image: jax.Array) -> jax.Array:
    """Applies the transforms that are drawn for a case `(X, Y, Z, C)`.

    Voxels that are 0 in all channels stay 0, and so does a channel that is 0 in all voxels, whose modality is missing.
    Dropout that would leave nothing of such a case leaves all.
    """
    names = [name for name in TRANSFORMS if getattr(settings, name)]
    if not names:
        return image
    channels = image.shape[-1]
    keys = dict(zip(TRANSFORMS, jax.random.split(key, (len(TRANSFORMS), 3 + channels)), strict=True))
    drawn = {name: draw(settings, name, keys[name]) for name in names}
    background, missing = (image == 0).all(-1, keepdims=True), (image == 0).all((0, 1, 2))
    if "modality_dropout" in drawn:
        applied, lost, channel_keys = drawn["modality_dropout"]
        drawn["modality_dropout"] = (applied & ~(lost | missing).all(), lost, channel_keys)

    def channel(inputs: tuple[jax.Array, dict[str, tuple[jax.Array, ...]]]) -> jax.Array:
        volume, drawn = inputs
        for name in names:  # JAX gives the dict back with its keys sorted
            applied, strength, key = drawn[name]
            apply = functools.partial(TRANSFORMS[name].apply, key, strength=strength)
            volume = lax.cond(applied, apply, lambda volume: volume, volume)
        return volume

    changed = jnp.moveaxis(lax.map(channel, (jnp.moveaxis(image, -1, 0), drawn)), 0, -1)
    return jnp.where(background | missing, 0, changed)


def draw(settings: Augment, name: str, keys: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws for each channel of a case whether a transform is applied, how strongly, and its key: `(C, ...)`.

    Args:
        settings: Probabilities and ranges.
        name: One of `TRANSFORMS`.
        keys: `(3 + C,)`.
    """
    transform, (case_key, channel_key, strength_key), keys = TRANSFORMS[name], keys[:3], keys[3:]
    case = random.between(case_key, (), 0, 1) < getattr(settings, name)
    applied = case & (random.between(channel_key, keys.shape, 0, 1) < transform.share)
    return applied, transform.draw(settings, strength_key, len(keys)), keys


def bias_field(key: jax.Array, volume: jax.Array, strength: jax.Array) -> jax.Array:
    """Multiplies by a smooth field between exp(-strength) and exp(strength), as an uneven receive coil does."""
    return volume * jnp.exp(strength * smooth_field(key, volume.shape))


def noise(key: jax.Array, volume: jax.Array, strength: jax.Array) -> jax.Array:
    """Adds Gaussian noise of standard deviation `strength`."""
    return volume + strength * random.normal(key, volume.shape)


def blur(key: jax.Array, volume: jax.Array, strength: jax.Array) -> jax.Array:
    """Gaussian blur of standard deviations `strength` `(3,)` in voxels, the volume mirrored at its outermost voxels."""
    del key

    def matrix(size: int, sigma: jax.Array) -> jax.Array:
        to, source = jnp.arange(size)[:, None], jnp.arange(size)
        beyond = [jnp.where(source > 0, -source, jnp.inf), jnp.where(source < size - 1, 2 * size - 2 - source, jnp.inf)]
        weights = sum(jnp.exp(-(((to - at) / jnp.maximum(sigma, 1e-3)) ** 2) / 2) for at in (source, *beyond))
        return weights / weights.sum(1, keepdims=True)

    return along_axes(volume, map(matrix, volume.shape, strength))


def brightness(key: jax.Array, volume: jax.Array, strength: jax.Array) -> jax.Array:
    """Multiplies by `strength`."""
    del key
    return volume * strength


def contrast(key: jax.Array, volume: jax.Array, strength: jax.Array) -> jax.Array:
    """Multiplies distances from the mean by `strength`; what leaves the volume's range is cut off."""
    del key
    return jnp.clip(volume + (strength - 1) * (volume - volume.mean()), volume.min(), volume.max())


def low_resolution(key: jax.Array, volume: jax.Array, strength: jax.Array) -> jax.Array:
    """Samples the nearest voxels of a grid of `strength` times the size, and interpolates between them trilinearly.

    Slices and slabs keep their number of voxels across, as in nnU-Net.
    """
    del key

    def matrix(size: int, thick: bool) -> jax.Array:
        if not thick:
            return jnp.eye(size)
        coarse = jnp.maximum(jnp.round(size * strength), 1)
        position = jnp.clip((jnp.arange(size) + 0.5) * (coarse / size) - 0.5, 0, coarse - 1)
        lower = jnp.floor(position)
        above = position - lower

        def nearest(sample: jax.Array) -> jax.Array:
            source = jnp.floor((jnp.minimum(sample, coarse - 1) + 0.5) * (size / coarse))
            return jax.nn.one_hot(source.astype(jnp.int32), size)

        return (1 - above)[:, None] * nearest(lower) + above[:, None] * nearest(lower + 1)

    return along_axes(volume, map(matrix, volume.shape, thick_axes(volume.shape)))


def gamma(key: jax.Array, volume: jax.Array, strength: jax.Array) -> jax.Array:
    """The power `strength` of the values scaled to [0, 1]; mean and standard deviation are then restored."""
    del key
    low = volume.min()
    # Never a power of a negative number; the range's own scale is lost in restoring the deviation.
    power = ((volume - low) / jnp.maximum(volume.max() - low, _TINY)) ** strength
    deviation = power - power.mean()
    restored = volume.mean() + deviation * (volume.std() / jnp.maximum(power.std(), _TINY))
    return jnp.where(strength == 1, volume, restored)


def gamma_inverted(key: jax.Array, volume: jax.Array, strength: jax.Array) -> jax.Array:
    """`gamma` of the negative."""
    return -gamma(key, -volume, strength)


def modality_dropout(key: jax.Array, volume: jax.Array, strength: jax.Array) -> jax.Array:
    """Sets the channel to background where `strength`, which tells whether it is lost, is true."""
    del key
    return jnp.where(strength, 0, volume)


def _between(name: str) -> Draw:
    """Uniform in a range of the settings, for each channel."""
    return lambda settings, key, channels: random.between(key, (channels,), *getattr(settings, name))


def _about_one(name: str) -> Draw:
    """Half of the draws uniform below 1 in a range of the settings and half above, for each channel."""

    def draw(settings: Augment, key: jax.Array, channels: int) -> jax.Array:
        low, high = getattr(settings, name)
        unit = random.uniform(key, (channels,), 1.0)
        return 1 + unit * jnp.where(unit < 0, 1 - low, high - 1)

    return draw


def _same_noise(settings: Augment, key: jax.Array, channels: int) -> jax.Array:
    """One standard deviation for all channels."""
    return jnp.broadcast_to(random.between(key, (), *settings.noise_sd), (channels,))


def _three_sigmas(settings: Augment, key: jax.Array, channels: int) -> jax.Array:
    return random.between(key, (channels, 3), *settings.blur_sigma)


def _some_lost(settings: Augment, key: jax.Array, channels: int) -> jax.Array:
    """Which channels are lost: from one to all but one, each number as likely."""
    del settings
    count, *order = random.between(key, (1 + channels,), 0, 1)
    order = jnp.stack(order)
    rank = (order[:, None] > order).sum(1)
    return rank < min(1, channels - 1) + jnp.floor(count * (channels - 1))


class Transform(NamedTuple):
    """How strengths are drawn, how one is applied (key, volume, strength), and to what share of a case's channels."""

    draw: Draw
    apply: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    share: float = 1.0


TRANSFORMS = {
    "bias_field": Transform(_between("bias_field_strength"), bias_field),
    "noise": Transform(_same_noise, noise),
    "blur": Transform(_three_sigmas, blur, share=0.5),
    "brightness": Transform(_about_one("brightness_range"), brightness),
    "contrast": Transform(_about_one("contrast_range"), contrast),
    "low_resolution": Transform(_between("low_resolution_zoom"), low_resolution, share=0.5),
    "gamma_inverted": Transform(_about_one("gamma_range"), gamma_inverted),
    "gamma": Transform(_about_one("gamma_range"), gamma),
    "modality_dropout": Transform(_some_lost, modality_dropout),
}
