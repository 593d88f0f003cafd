"""2-D and 2.5-D networks: slices and slabs through the same U-Net."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from jaxbrats.config import Data, Model, Settings
from jaxbrats.train.state import make_model, smallest_image

SMALL = {"features": (3, 4), "dropout": (0.0,), "norm": "instance"}


def build(dimensions, patch, **options):
    data = Data(modalities=("t2f", "t1c"), crop=(16, 16, 16), patch=patch)
    model = make_model(Settings(data=data, model=Model(**SMALL | options, dimensions=dimensions)))
    return model, jax.jit(model.init)(jax.random.key(0), smallest_image(model, 2))


def image_of(*shape):
    return np.random.default_rng(0).normal(size=(*shape, 2)).astype(np.float32)


def test_a_slice_does_not_depend_on_its_neighbours():
    model, variables = build("2d", (8, 6, 1), norm="none")
    apply, image = jax.jit(model.apply), image_of(1, 8, 6, 3)
    other = image.copy()
    other[:, :, :, [0, 2]] = 7
    together = np.asarray(apply(variables, image))
    np.testing.assert_array_equal(apply(variables, other)[:, :, :, 1], together[:, :, :, 1])
    assert not np.array_equal(apply(variables, other)[:, :, :, 0], together[:, :, :, 0])


def test_a_slab_is_segmented_together_and_keeps_its_slices():
    model, variables = build("2.5d", (8, 6, 3))
    assert [smallest_image(model, 2).shape, variables["params"]["bottom"]["conv_0"]["kernel"].shape] == [
        (1, 2, 2, 1, 2),
        (3, 3, 3, 3, 4),
    ]
    apply, image = jax.jit(model.clone(conv="direct").apply), image_of(1, 8, 6, 3)
    other = image.copy()
    other[:, :, :, 2] = 7
    assert apply(variables, image).shape == (1, 8, 6, 3, 4)
    assert not np.allclose(apply(variables, other)[:, :, :, 0], apply(variables, image)[:, :, :, 0])


def convolved(x, kernel):
    """`(X, Y, C)` by a kernel `(3, 3, C, O)`, in float64."""
    planes = [
        sum(signal.correlate2d(x[..., i], kernel[..., i, o], "same") for i in range(x.shape[-1]))
        for o in range(kernel.shape[-1])
    ]
    return np.stack(planes, -1)


@pytest.mark.parametrize("conv", ["auto", "direct"])
def test_a_2d_network_is_the_2d_network_written_in_numpy(conv):
    """Two levels: convolution, instance normalisation, ReLU, twice each; maximum of 2x2 pixels, and up again."""
    model, variables = build("2d", (8, 6, 1))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    image = image_of(2, 8, 6, 1)

    def block(x, name):
        for index in range(2):
            x = convolved(x, params[name][f"conv_{index}"]["kernel"][:, :, 0])
            x = (x - x.mean((0, 1))) / np.sqrt(x.var((0, 1)) + 1e-5)
            x = np.maximum(x, 0)
        return x

    def network(x):
        skip = block(x, "encoder_0")
        x = block(skip.reshape(4, 2, 3, 2, 3).max((1, 3)), "bottom")
        up = params["upsample_0"]["kernel"][:, :, 0]
        x = np.einsum("xyi,uvio->xuyvo", x, up).reshape(8, 6, 3)
        x = block(np.concatenate([x, skip], -1), "decoder_0")
        return x @ params["head"]["kernel"][0, 0, 0] + params["head"]["bias"]

    found = jax.jit(model.clone(conv=conv).apply)(variables, jnp.asarray(image))
    expected = np.stack([network(case[:, :, 0].astype(np.float64)) for case in image])
    np.testing.assert_allclose(found[:, :, :, 0], expected, atol=1e-4)
