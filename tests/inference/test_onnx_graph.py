"""Functions of JAX as ONNX graphs: every option of the network, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest

from jaxbrats.inference.onnx_graph import to_onnx
from jaxbrats.model.heads import LABELS, RegionsHead
from jaxbrats.model.unet import UNet3D
from jaxbrats.system.errors import InputError

NETWORKS = {
    "plain": {"attention_gates": True, "squeeze_excitation": True, "activation": "gelu", "norm": "group"},
    "residual": {
        "features": (2, 4, 4, 4),
        "block": "residual",
        "blocks_per_level": (1, 2, 1, 1),
        "decoder_block": "single",
        "stem": True,
        "downsample": "conv",
        "norm": "instance",
        "activation": "leaky_relu",
        "deep_supervision": True,
        "stochastic_depth": 0.1,
        "remat": True,
    },
    "derived": {"derived": ("brain", "gradient_t1c", "t1c-t1n"), "modalities": ("t1n", "t1c"), "norm": "batch"},
    "flat": {
        "strides": ((2, 2, 1),),
        "kernels": ((3, 3, 1),),
        "activation": "silu",
        "block": "residual",
        "dropout": 0.1,
    },
}


def run(function, images):
    """By onnxruntime, without the transformations that would only take time."""
    content = to_onnx(function, images.shape[1:], metadata={"why": "a test"}).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == {"why": "a test"}
    assert session.get_inputs()[0].shape == ["batch", *images.shape[1:]]
    (all_at_once,) = session.run(None, {"image": images})
    one_by_one = [session.run(None, {"image": image[None]})[0] for image in images]
    np.testing.assert_allclose(all_at_once, np.concatenate(one_by_one), rtol=0, atol=1e-5)
    return all_at_once


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_the_same_probabilities(name):
    """Kernels, biases and statistics drawn anew: those of a fresh network are partly 0."""
    random = np.random.default_rng(0)
    options = {"features": (2, 4)} | NETWORKS[name]
    head = RegionsHead() if name == "residual" else LABELS
    images = random.standard_normal((3, 16, 8, 1 if name == "flat" else 8, 2), np.float32)
    images[:, :2] = 0
    model = UNet3D(num_classes=head.channels, conv="direct", **options)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = jax.tree.map(lambda leaf: random.uniform(0.1, 1, leaf.shape).astype(np.float32), shapes)
    variables["params"] = jax.tree.map(lambda leaf: random.normal(0, 0.4, leaf.shape), shapes["params"])
    variables = jax.tree.map(jnp.float32, variables)

    def probabilities(image):
        return head.probabilities(model.apply(variables, image))

    # Compiled in a quarter of the time.
    expected = np.asarray(jax.jit(probabilities, compiler_options={"xla_backend_optimization_level": 0})(images))
    assert expected.std() > 0.05
    np.testing.assert_allclose(run(probabilities, images), expected, rtol=0, atol=1e-5)


def test_what_blocks_may_be_made_of():
    """Operators that no network of today has, those of channels apart and of arrays as large as the batch."""
    images = np.random.default_rng(0).standard_normal((2, 4, 6), np.float32)
    kernel = np.random.default_rng(1).standard_normal((3, 1, 6), np.float32)
    matrix = np.arange(24, dtype=np.float32).reshape(6, 4) / 24

    def function(x):
        first, second = jnp.split(x, 2, axis=-1)
        y = jnp.concatenate([second, jnp.pad(first, ((0, 0), (0, 0), (1, -1 + 1)))[..., 1:]], axis=-1)
        y = jax.lax.conv_general_dilated(
            y, kernel, (2,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=6
        )
        mean = jnp.broadcast_to(y.mean(axis=(1, 2), keepdims=True), y.shape)
        y = jnp.concatenate([y, mean], axis=1)
        # A matrix on the left, and on the right.
        y = jnp.einsum("ck,bxk->bcx", matrix.T, y) @ matrix.T
        return jnp.where(y > 0, y**3, jnp.clip(y, -1, 0)) * jnp.minimum(x[:, :1], 1)

    np.testing.assert_allclose(run(function, images), jax.jit(function)(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (lambda x: jnp.sort(x, axis=-1), "JAX's sort"),
        (lambda x: jnp.einsum("bxc,byc->bxy", x, x), "JAX's dot_general of two arrays that both depend on the image"),
        (lambda x: x[1:], "a slice of the batch"),
        (lambda x: x.mean(axis=0) + x, "the size of the batch as a number"),
    ],
)
def test_what_is_not_translated_is_named(function, what):
    with pytest.raises(InputError, match=rf"the network has {what}.*Export with --format=stablehlo"):
        to_onnx(function, (4, 6), metadata={})
