import jax
import numpy as np
import optax
import pytest

from jaxbrats.config.settings import from_config
from jaxbrats.train.state import init_state, make_model
from jaxbrats.train.transfer import find_input_kernels, transfer

FIRST = ("params", "encoder_0", "conv_0", "kernel")


def network(channels, seed, norm="batch"):
    """The variables of a network and where the input goes in."""
    model = make_model(from_config({"conv": "direct", "model": {"features": (2, 3), "norm": norm, "dropout": (0.0,)}}))
    variables = jax.device_get(init_state(model, optax.identity(), seed, channels).trained)
    return variables, find_input_kernels(model, channels)


def test_the_input_kernels_of_a_network_with_derived_channels_are_the_same():
    data = {"modalities": ("t1c", "t1n"), "derived": ("brain", "t1c-t1n")}
    model = make_model(from_config({"conv": "direct", "data": data, "model": {"features": (2, 3), "dropout": (0.0,)}}))
    assert find_input_kernels(model, 4) == {FIRST}


def at(variables, key):
    for name in key:
        variables = variables[name]
    return variables


def test_the_input_kernels_are_those_of_the_first_convolution():
    assert network(1, 0)[1] == {FIRST}


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_input_kernels_of_a_residual_network_of_as_many_features(channels):
    settings = {"features": (3, 4), "dropout": (0.0,), "block": "residual", "decoder_block": "single"}
    model = make_model(from_config({"conv": "direct", "model": settings}))
    found = {key[1:-1] for key in find_input_kernels(model, channels)}
    assert found == {("encoder_0", "conv_0")} | ({("encoder_0", "projection")} if channels != 3 else set())


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_the_same_network_has_the_same_parameters(norm):
    (fresh, inputs), (trained, _) = network(2, 0, norm), network(2, 1, norm)
    found = transfer(fresh, trained, ["t1c", "t2w"], ["t1c", "t2w"], inputs)
    jax.tree.map(np.testing.assert_array_equal, found.variables, trained)
    assert not np.array_equal(at(fresh, FIRST), at(trained, FIRST))
    assert found.fresh == {}
    assert found.by_channel == found.unused == []


def test_kernels_follow_their_modality():
    (fresh, inputs), (trained, _) = network(3, 0), network(2, 1)
    found = transfer(fresh, trained, ["t2w", "t1n", "t1c"], ["t1c", "t2w"], inputs)
    kernel, before, there = (at(tree, FIRST) for tree in (found.variables, fresh, trained))
    np.testing.assert_array_equal(kernel[..., 0, :], there[..., 1, :])
    np.testing.assert_array_equal(kernel[..., 1, :], before[..., 1, :])
    np.testing.assert_array_equal(kernel[..., 2, :], there[..., 0, :])
    assert found.by_channel == ["encoder_0/conv_0"]
    assert found.fresh == {}
    deep = ("params", "bottom", "conv_1", "kernel")
    np.testing.assert_array_equal(at(found.variables, deep), at(trained, deep))


def test_the_same_modalities_in_another_order_are_permuted():
    (fresh, inputs), (trained, _) = network(2, 0), network(2, 1)
    found = transfer(fresh, trained, ["t2w", "t1c"], ["t1c", "t2w"], inputs)
    np.testing.assert_array_equal(at(found.variables, FIRST), at(trained, FIRST)[..., ::-1, :])


def test_no_modality_in_common_leaves_the_first_convolution_fresh():
    (fresh, inputs), (trained, _) = network(1, 0), network(2, 1)
    found = transfer(fresh, trained, ["t1n"], ["t1c", "t2w"], inputs)
    assert found.fresh == {"encoder_0/conv_0": "the input channels there are t1c, t2w"}
    np.testing.assert_array_equal(at(found.variables, FIRST), at(fresh, FIRST))


def test_a_module_is_loaded_whole_or_not_at_all():
    """A head of other classes has neither the other's kernel nor its bias; what was trained is not changed."""
    (fresh, inputs), (trained, _) = network(2, 0), network(2, 1)
    trained["params"]["head"] = {"kernel": np.ones((1, 1, 1, 2, 3), np.float32), "bias": np.ones(4, np.float32)}
    del trained["batch_stats"]["encoder_0"]["norm_0"]
    trained["params"]["gate"] = {"kernel": np.ones((1, 1), np.float32)}
    found = transfer(fresh, trained, ["t1c", "t2w"], ["t1c", "t2w"], inputs)
    assert found.fresh["head"] == "bias 4, kernel 1x1x1x2x4, there kernel 1x1x1x2x3, bias 4"
    assert found.fresh["encoder_0/norm_0"].endswith(", there bias 2, scale 2")
    assert len(found.fresh) == 2
    assert found.unused == ["gate"]
    jax.tree.map(np.testing.assert_array_equal, found.variables["params"]["head"], fresh["params"]["head"])
    assert jax.tree.structure(found.variables) == jax.tree.structure(fresh)
