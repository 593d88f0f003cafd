"""Derived input channels, computed by hand, and networks that begin with them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_steps import train_on

from jaxbrats.config import Data, Model, Settings
from jaxbrats.model.derived import add_derived, brain_mask, gradient_magnitude
from jaxbrats.model.losses import make_loss
from jaxbrats.model.unet import UNet3D
from jaxbrats.train.state import make_model

MODALITIES = ("t1c", "t1n")


def image_of(shape=(2, 3, 4, 5, 2), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_the_brain_is_where_any_modality_is_not_zero():
    image = np.zeros((1, 1, 1, 4, 2), np.float32)
    image[0, 0, 0, 1] = (0.5, 0)  # such as a voxel at the mean of the other modality
    image[0, 0, 0, 2] = (0, -0.5)  # zscore has negative values
    image[0, 0, 0, 3] = (1, 1)
    np.testing.assert_array_equal(brain_mask(image)[0, 0, 0], [0, 1, 1, 1])
    with_brain = add_derived(jnp.asarray(image), ("brain",), MODALITIES)
    np.testing.assert_array_equal(with_brain[..., :2], image)
    np.testing.assert_array_equal(with_brain[0, 0, 0, :, 2], [0, 1, 1, 1])


def test_a_difference_is_of_its_modalities_whatever_their_order():
    image = image_of()
    derived = add_derived(jnp.asarray(image), ("t1c-t1n", "t1n-t1c"), MODALITIES)[..., 2:]
    np.testing.assert_array_equal(derived[..., 0], image[..., 0] - image[..., 1])
    np.testing.assert_array_equal(derived[..., 1], image[..., 1] - image[..., 0])
    swapped = add_derived(jnp.asarray(image), ("t1c-t1n",), MODALITIES[::-1])[..., 2]
    np.testing.assert_array_equal(swapped, image[..., 1] - image[..., 0])


def test_the_gradient_of_a_ramp_and_at_its_ends():
    x, y, z = np.meshgrid(np.arange(4.0), np.arange(5.0), np.arange(6.0), indexing="ij")
    found = gradient_magnitude(jnp.asarray(3 * x + 4 * y + 12 * z)[None])[0]
    np.testing.assert_allclose(found[1:-1, 1:-1, 1:-1], 13, rtol=1e-6)  # 3, 4, 12
    np.testing.assert_allclose(found[0, 2, 2], np.sqrt(1.5**2 + 4**2 + 12**2), rtol=1e-6)  # half of a one-sided one
    np.testing.assert_allclose(found[3, 4, 5], 13 / 2, rtol=1e-6)
    assert not gradient_magnitude(jnp.full((1, 1, 2, 2), 7.0)).any()


def test_the_gradient_is_numpys_inside_and_of_the_modality_it_is_named_by():
    image = image_of((2, 6, 5, 7, 2))
    found = add_derived(jnp.asarray(image), ("gradient_t1n",), MODALITIES)[..., 2]
    for case, volume in zip(found, image[..., 1], strict=True):
        expected = np.sqrt(sum(np.square(axis) for axis in np.gradient(volume)))
        inner = (slice(1, -1),) * 3
        np.testing.assert_allclose(case[inner], expected[inner], rtol=1e-5)


def test_an_image_of_other_channels_is_refused():
    with pytest.raises(ValueError, match="an image of t1c, t1n is needed, it has 3 channels"):
        add_derived(jnp.zeros((1, 2, 2, 2, 3)), ("brain",), MODALITIES)


def test_a_network_sees_what_one_of_the_stacked_channels_would():
    names = ("brain", "t1c-t1n", "gradient_t1c")
    options = {"features": (4, 6), "norm": "instance", "conv": "direct"}
    derives = UNet3D(**options, derived=names, modalities=MODALITIES)
    image = jnp.asarray(image_of((1, 4, 4, 4, 2)))
    variables = jax.jit(derives.init)(jax.random.key(0), image)
    assert variables["params"]["encoder_0"]["conv_0"]["kernel"].shape[-2] == 5
    stacked = jax.jit(UNet3D(**options).apply)(variables, add_derived(image, names, MODALITIES))
    np.testing.assert_allclose(jax.jit(derives.apply)(variables, image), stacked, rtol=1e-4, atol=1e-5)


def two_steps(derived, data=1, space=1):
    """The first kernel before and after two steps of gradient descent, and their losses."""
    settings = Settings(
        conv="direct",
        model=Model(features=(4, 4), dropout=(0.0,), norm="instance"),
        data=Data(modalities=MODALITIES, derived=derived),
    )
    labels = np.random.default_rng(1).integers(0, 4, (2, 8, 8, 8)).astype(np.uint8)
    image = image_of((2, 8, 8, 8, 2))
    image[:, 5:] = 0  # so that the brain is not everywhere
    model, loss, batches = make_model(settings), make_loss(settings.loss), [{"image": image, "labels": labels}] * 2
    losses, *states = train_on(data, space, model, optax.sgd(1e-2), loss, batches)
    return *(state.params["encoder_0"]["conv_0"]["kernel"] for state in states), losses


def test_each_trains_and_all_alike_on_one_device_and_on_four():
    names = ("brain", "t1c-t1n", "gradient_t1n")
    (before, one, losses), (_, four, split) = two_steps(names), two_steps(names, 2, 2)
    assert before.shape[-2] == 5
    assert (before != one).any(axis=(0, 1, 2, 4)).all()  # every channel's kernel
    assert losses[0] != losses[1]
    np.testing.assert_allclose(split, losses, rtol=1e-4)
    np.testing.assert_allclose(four, one, atol=1e-4)
