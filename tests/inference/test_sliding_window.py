import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxbrats.inference import sliding_window
from jaxbrats.inference.sliding_window import gaussian_weights, predict_probabilities, window_starts

WINDOW = (8, 6, 4)
# Smaller than a window, exactly one, larger, and each along another axis.
SHAPES = [(8, 6, 4), (5, 3, 2), (20, 13, 9), (7, 17, 3)]


def image_of(shape, channels=3, seed=0):
    return np.random.default_rng(seed).standard_normal((*shape, channels)).astype(np.float32)


@jax.jit
def pointwise(windows):
    """What a voxel gets depends on this voxel alone."""
    return jax.nn.softmax(jnp.concatenate([windows, windows[..., :1] ** 2], axis=-1))


@jax.jit
def by_place(windows):
    """What a voxel gets depends on the window's other voxels and on its place in it."""
    ramp = jnp.arange(windows.shape[1])[:, None, None, None] / windows.shape[1]
    mean = windows.mean((1, 2, 3), keepdims=True)
    return jax.nn.softmax(jnp.concatenate([windows - mean, windows[..., :1] + ramp], axis=-1))


@pytest.mark.parametrize(
    ("length", "window", "overlap", "starts"),
    [
        (128, 128, 0.5, (0,)),
        (100, 128, 0.5, (0,)),
        (129, 128, 0.5, (0, 1)),
        (155, 128, 0.5, (0, 27)),
        (240, 128, 0.5, (0, 64, 112)),
        (256, 128, 0.5, (0, 64, 128)),
        (257, 128, 0.5, (0, 64, 128, 129)),
        (10, 4, 0, (0, 4, 6)),
        (12, 4, 0, (0, 4, 8)),
        (10, 4, 0.75, (0, 1, 2, 3, 4, 5, 6)),
        (3, 1, 0.5, (0, 1, 2)),
    ],
)
def test_windows_by_hand(length, window, overlap, starts):
    assert window_starts(length, window, overlap) == starts


@given(st.integers(1, 300), st.integers(1, 64), st.floats(0, 0.9))
def test_windows_cover_an_axis_with_the_overlap_asked_for(length, window, overlap):
    starts = window_starts(length, window, overlap)
    assert starts[0] == 0
    assert starts[-1] == max(length - window, 0)
    *steps, last = [*np.diff(starts)] or [1]
    assert set(steps) <= {max(int(window * (1 - overlap)), 1)}
    assert 1 <= last <= max(int(window * (1 - overlap)), 1)


def test_the_weights_are_a_gaussian_one_eighth_of_a_window_wide():
    weights = gaussian_weights((128, 64, 4))
    assert weights.shape == (128, 64, 4)
    middle = np.exp(-0.5 * ((0.5 / 16) ** 2 + (0.5 / 8) ** 2 + (0.5 / 0.5) ** 2))
    assert weights[63, 32, 1] == weights[64, 31, 2] == pytest.approx(middle)
    assert weights[63 + 16, 32, 1] / weights[63, 32, 1] == pytest.approx(np.exp(-0.5 * (15.5**2 - 0.5**2) / 256))
    assert weights.min() == weights[0, 0, 0] == np.float32(1e-3)
    np.testing.assert_array_equal(weights, weights[::-1, ::-1, ::-1])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("on_device", [True, False])
@pytest.mark.parametrize(("overlap", "batch"), [(0.5, 1), (0.25, 3)])
def test_a_pointwise_network_gives_its_own_output(shape, on_device, overlap, batch):
    image = image_of(shape)
    result = predict_probabilities(pointwise, image, WINDOW, overlap, batch, on_device)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, pointwise(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize("on_device", [True, False])
def test_windows_of_one_slice_give_each_slice_its_own_prediction(on_device):
    image = image_of((8, 6, 5))
    result = predict_probabilities(by_place, image, (8, 6, 1), 0.5, 2, on_device)
    expected = np.concatenate([by_place(image[None, :, :, at : at + 1])[0] for at in range(5)], axis=2)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)


def by_the_book(apply, image, window, overlap):
    """Weighted sum over sum of weights, in float64."""
    sides = [
        (max(size - length, 0) // 2, max(size - length, 0)) for length, size in zip(image.shape, window, strict=False)
    ]
    padded = np.pad(image, [*((before, both - before) for before, both in sides), (0, 0)])
    grids = np.meshgrid(*[np.arange(size) - (size - 1) / 2 for size in window], indexing="ij")
    weight = np.exp(-sum(grid**2 / (2 * (size / 8) ** 2) for grid, size in zip(grids, window, strict=True)))
    weight = np.maximum(weight, 1e-3)
    total, weights = np.zeros((*padded.shape[:3], 4)), np.zeros(padded.shape[:3])
    axes = [window_starts(length, size, overlap) for length, size in zip(padded.shape, window, strict=False)]
    for start in itertools.product(*axes):
        box = tuple(slice(first, first + size) for first, size in zip(start, window, strict=True))
        total[box] += np.asarray(apply(padded[box][None]))[0] * weight[..., None]
        weights[box] += weight
    inside = tuple(slice(before, before + length) for (before, _), length in zip(sides, image.shape, strict=False))
    return (total / weights[..., None])[inside]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("on_device", [True, False])
def test_against_an_independent_implementation(shape, on_device):
    image = image_of(shape, seed=1)
    result = predict_probabilities(by_place, image, WINDOW, 0.5, 2, on_device)
    np.testing.assert_allclose(result, by_the_book(by_place, image, WINDOW, 0.5), rtol=0, atol=2e-6)
    np.testing.assert_allclose(result.sum(-1), 1, rtol=0, atol=1e-5)


@pytest.mark.parametrize("on_device", [True, False])
def test_the_order_of_the_windows_does_not_matter(on_device, monkeypatch):
    image = image_of((20, 13, 9))
    expected = predict_probabilities(by_place, image, WINDOW, on_device=on_device)
    in_order = sliding_window._batches

    def shuffled(starts, size):
        return in_order(np.random.default_rng(0).permutation(starts), size)

    monkeypatch.setattr(sliding_window, "_batches", shuffled)
    result = predict_probabilities(by_place, image, WINDOW, batch=5, on_device=on_device)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("on_device", [True, False])
def test_volumes_of_all_sizes_share_one_program(on_device):
    traced = []

    @jax.jit
    def network(windows):
        traced.append(windows.shape)
        return jax.nn.softmax(jnp.concatenate([windows, windows], axis=-1))

    for shape in [*SHAPES, (31, 6, 5), (8, 25, 11)]:
        predict_probabilities(network, image_of(shape, 2), WINDOW, batch=3, on_device=on_device)
    assert traced == [(3, *WINDOW, 2)]


def test_volumes_on_the_device_have_few_sizes():
    sizes = {sliding_window.padded_shape((length, 100, 300), (128, 128, 128)) for length in range(1, 193)}
    assert sizes == {(128, 128, 320), (192, 128, 320)}
    assert sliding_window.padded_shape((9, 9, 9), (7, 7, 7)) == (12, 12, 12)


@pytest.mark.parametrize(
    ("memory", "fits"),
    [(None, False), ({"bytes_limit": 4000}, True), ({"bytes_limit": 3999}, False), ({"bytes_in_use": 1}, False)],
)
def test_a_quarter_of_the_device_is_for_the_volume(memory, fits, monkeypatch):
    device = types.SimpleNamespace(memory_stats=lambda: memory)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert sliding_window._fits_on_device(1000) is fits


def test_the_memory_is_chosen_by_what_fits(monkeypatch):
    asked = []
    monkeypatch.setattr(sliding_window, "_fits_on_device", lambda size: asked.append(size) or True)
    image = image_of((20, 13, 9))
    result = predict_probabilities(pointwise, image, WINDOW)
    assert asked == [20 * 15 * 10 * (3 + 4) * 4]
    np.testing.assert_array_equal(result, predict_probabilities(pointwise, image, WINDOW, on_device=True))


@pytest.mark.parametrize(("message", "kind"), [("RESOURCE_EXHAUSTED: 9 GiB", MemoryError), ("INTERNAL", RuntimeError)])
def test_a_full_device_is_a_memory_error(message, kind):
    def network(windows):
        raise jax.errors.JaxRuntimeError(message)

    with pytest.raises(kind, match=message):
        predict_probabilities(network, image_of((8, 6, 4)), WINDOW)
