"""Augmentation: training cases changed at random on the device, as a part of the compiled step.

Transforms, their order and their defaults are those of nnU-Net v2 (`nnUNetTrainer.get_training_transforms`) and of
batchgenerators, on which it builds (Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z), but that it cuts
a patch out of what was turned and here the patch is turned, so that corners become background, and that noise is drawn
for each channel by itself. Most cases are left as they are by most transforms, so one that is not drawn is not computed
either (`lax.cond`): cases and channels are worked on one after the other, because `jax.vmap` would compute both sides
of every condition.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxbrats.config import Augment
from jaxbrats.model.augment.intensity import change_intensities
from jaxbrats.model.augment.spatial import change_space

Augmentation = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def make_augmentation(settings: Augment) -> Augmentation | None:
    """The function that changes a batch, None where the settings change nothing.

    It computes in float32 and takes keys `(B,)`, images `(B, X, Y, Z, C)` of any float type and labels of integers,
    `(B, X, Y, Z)` or soft `(B, X, Y, Z, 3)`. What a case becomes follows from its own key alone. Voxels that are 0 in
    all channels are background, outside the brain, and stay 0, as nnU-Net keeps them where brains are cut out: so they
    are when predicting. Channels of missing modalities stay 0 too.
    """
    if not settings.active:
        return None

    def case(inputs: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        key, image, labels = inputs
        spatial_key, intensity_key = jax.random.split(key)
        changed, labels = change_space(settings, spatial_key, image.astype(jnp.float32), labels)
        return change_intensities(settings, intensity_key, changed).astype(image.dtype), labels

    return lambda keys, image, labels: lax.map(case, (keys, image, labels))
