"""Augmentation as a whole: what a batch becomes, by which key, how often, on which device."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from jaxbrats.config import Augment, default, from_config
from jaxbrats.config.augment import NNUNET, PROBABILITIES
from jaxbrats.model.augment import make_augmentation
from jaxbrats.model.augment.intensity import TRANSFORMS, Transform, change_intensities, draw
from jaxbrats.model.augment.spatial import draw_deformation
from jaxbrats.model.losses import categorical_focal_loss
from jaxbrats.model.unet import UNet3D
from jaxbrats.system.errors import InputError
from jaxbrats.train.mesh import make_mesh, put_batch, replicate
from jaxbrats.train.state import init_state
from jaxbrats.train.step import jit_train_step

ALWAYS = Augment(**dict.fromkeys(PROBABILITIES, 1.0))
# Every transform computed, none of which changes anything.
STILL = dataclasses.replace(
    ALWAYS,
    mirror=0.0,
    modality_dropout=0.0,
    rotation_degrees=(0.0, 0.0),
    scaling_range=(1.0, 1.0),
    elastic_displacement=(0.0, 0.0),
    bias_field_strength=(0.0, 0.0),
    noise_sd=(0.0, 0.0),
    blur_sigma=(0.0, 0.0),
    brightness_range=(1.0, 1.0),
    contrast_range=(1.0, 1.0),
    low_resolution_zoom=(1.0, 1.0),
    gamma_range=(1.0, 1.0),
)


@functools.cache
def compiled(settings):
    return jax.jit(make_augmentation(settings))


def keys(seed, cases):
    return jax.random.split(jax.random.key(seed), cases)


def batch_of(cases=2, shape=(8, 6, 10), channels=3):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(cases, *shape, channels)).astype(np.float32)
    image[:, :2] = 0  # outside the brain
    return image, rng.integers(0, 4, image.shape[:-1]).astype(np.uint8)


def test_nothing_is_traced_by_default():
    assert make_augmentation(Augment()) is None
    assert from_config(default()).augment == Augment()


def test_nnunets_set_is_a_line_in_a_config_file():
    settings = default()
    settings.augment.update(NNUNET)
    augment = from_config(settings).augment
    assert augment == Augment(**NNUNET)
    assert (augment.mirror, augment.low_resolution, augment.elastic) == (0.5, 0.25, 0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gamma": 1.5}, r"augment\.gamma lies between 0 and 1; it is 1\.5"),
        ({"scaling_range": (1.4, 0.7)}, r"augment\.scaling_range needs two numbers in order from 0\.1 to 10; it is"),
        ({"gamma_range": (1.1, 1.5)}, r"from 0\.05 to 10, with 1 among them or between them; it is \(1\.1, 1\.5\)"),
        ({"elastic_displacement": (0.0, 0.2)}, r"needs two numbers in order from 0 to 0\.1; it is"),
        ({"noise_sd": (0.0, float("nan"))}, r"augment\.noise_sd needs two numbers"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        Augment(**changes)


def test_strength_zero_is_the_identity():
    image, labels = batch_of()
    same_image, same_labels = compiled(STILL)(keys(0, 2), image, labels)
    np.testing.assert_array_equal(same_image, image)
    np.testing.assert_array_equal(same_labels, labels)


def test_a_key_decides_and_each_case_has_its_own():
    image, labels = (np.repeat(array[:1], 3, 0) for array in batch_of())
    first, second, other = (compiled(ALWAYS)(keys(seed, 3), image, labels) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    cases = np.concatenate([first[0], other[0]])
    assert all(not np.allclose(cases[i], cases[j]) for i in range(6) for j in range(i))
    alone = compiled(ALWAYS)(keys(0, 3)[np.array([1, 1, 1])], image, labels)
    np.testing.assert_array_equal(alone[0][0], first[0][1])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_all_numbers_stay_finite(dtype):
    image, labels = batch_of(4)
    image[1], image[2], image[3, ..., 1] = 0, 3, -5  # an empty case, a constant one, a constant channel
    for seed in range(3):
        changed, of_labels = compiled(ALWAYS)(keys(seed, 4), image.astype(dtype), labels)
        assert changed.dtype == dtype and of_labels.dtype == np.uint8
        assert np.isfinite(np.asarray(changed, np.float32)).all()
        assert not np.asarray(changed[1], np.float32).any()
        assert set(np.unique(of_labels)) <= {0, 1, 2, 3}


def test_background_stays_zero():
    image, labels = batch_of()
    settings = Augment(noise=1.0, blur=1.0, gamma=1.0, bias_field=1.0)
    changed, same = compiled(settings)(keys(0, 2), image, labels)
    assert not np.asarray(changed)[:, :2].any() and (np.asarray(changed)[:, 2:] != image[:, 2:]).mean() > 0.99
    np.testing.assert_array_equal(same, labels)


def draws_of(settings, many):
    """What is drawn for three channels, by transform, for each of many keys."""
    each = lambda key: {name: draw(settings, name, jax.random.split(key, 6))[:2] for name in TRANSFORMS}  # noqa: E731
    return jax.jit(jax.vmap(each))(many)


def test_each_transform_comes_as_often_as_its_probability_says():
    """Over 4000 keys, 3 channels; within four standard deviations of a share."""
    many = keys(5, 4000)

    def share(values, expected, count=4000):
        assert abs(np.mean(values) - expected) < 4 * np.sqrt(expected * (1 - expected) / count)

    settings = Augment(**NNUNET | {"elastic": 0.3, "bias_field": 0.4, "modality_dropout": 0.6})
    flags = draws_of(settings, many)
    for name, transform in TRANSFORMS.items():
        applied = flags[name][0]
        probability = getattr(settings, name)
        share(applied.any(1), probability * (1 - (1 - transform.share) ** 3))
        share(np.asarray(applied)[np.asarray(applied).any(1)], {1.0: 1 - 1e-9, 0.5: 4 / 7}[transform.share], 400)
    drawn = jax.jit(jax.vmap(lambda key: draw_deformation(settings, jax.random.split(key, 4), (9, 9, 3))))(many)
    share(drawn.drawn, 1 - 0.8 * 0.8 * 0.7)
    share((drawn.angles != 0).all(1), 0.2)
    share((drawn.scale != 1).all(1), 0.2)
    share((drawn.displacement != 0).all(1), 0.3)


def test_strengths_are_distributed_as_the_ranges_say():
    many = keys(6, 1000)
    draws = draws_of(ALWAYS, many)

    def strengths(name):
        return np.asarray(draws[name][1])

    def uniform(values, low, high):
        assert stats.kstest(values.ravel(), stats.uniform(low, high - low).cdf).pvalue > 1e-3

    uniform(strengths("noise")[:, 0], 0, 0.1)
    assert (strengths("noise") == strengths("noise")[:, :1]).all()  # one for all channels
    uniform(strengths("blur"), 0.5, 1)
    uniform(strengths("brightness"), 0.75, 1.25)
    uniform(strengths("contrast"), 0.75, 1.25)
    uniform(strengths("low_resolution"), 0.5, 1)
    exponents = strengths("gamma")
    assert abs((exponents < 1).mean() - 0.5) < 0.04
    uniform(exponents[exponents < 1], 0.7, 1)
    uniform(exponents[exponents > 1], 1, 1.5)
    assert abs(np.corrcoef(exponents.T)[0, 1]) < 0.15  # each channel its own
    lost = strengths("modality_dropout").sum(1)
    assert set(lost) == {1, 2} and abs((lost == 1).mean() - 0.5) < 0.07
    drawn = jax.jit(jax.vmap(lambda key: draw_deformation(ALWAYS, jax.random.split(key, 4), (9, 9, 3))))(many)
    uniform(np.rad2deg(drawn.angles), -30, 30)
    uniform(np.asarray(drawn.scale)[:, 0], 0.7, 1.4)
    uniform(np.asarray(drawn.displacement)[:, 0], 0, 0.1)


@pytest.mark.parametrize("shape", [(10, 12, 1), (1, 10, 12), (16, 16, 5)])
def test_slices_and_slabs_are_changed_in_plane_only(shape):
    """Each slice as any other, and none mixed with its neighbours; those without a brain stay empty, all finite."""
    thin = shape.index(min(shape))
    rng = np.random.default_rng(0)
    plane = np.delete(np.array(shape), thin)
    image = np.repeat(np.expand_dims(rng.normal(size=(*plane, 2)), thin), shape[thin], thin).astype(np.float32)
    labels = np.repeat(np.expand_dims(rng.integers(1, 4, plane), thin), shape[thin], thin).astype(np.uint8)
    image, labels = np.stack([image, 0 * image]), np.stack([labels, 0 * labels])
    settings = Augment(rotation=1.0, scaling=1.0, elastic=1.0, low_resolution=1.0, gamma=1.0, mirror=0.5)
    # Scales below 1, so that nothing beyond the slice comes in: an elastic shift or a turn across it would.
    settings = dataclasses.replace(settings, scaling_range=(0.4, 0.5), rotation_degrees=(-180.0, 180.0))
    (changed, empty), (turned, none) = jax.device_get(compiled(settings)(keys(3, 2), image, labels))
    assert np.isfinite(changed).all() and not np.array_equal(changed, image[0])
    assert not empty.any() and not none.any()
    for volume in (changed, turned):
        np.testing.assert_allclose(volume, np.repeat(volume.take([0], thin), shape[thin], thin), atol=1e-5)
    assert (turned > 0).mean() > 0.95


def test_the_blur_of_a_slice_is_in_plane_and_a_constant_slice_stays():
    image = np.full((1, 8, 8, 1, 2), 3.0, np.float32)
    labels = np.ones(image.shape[:-1], np.uint8)
    settings = Augment(blur=1.0, contrast=1.0, gamma=1.0, gamma_inverted=1.0, low_resolution=1.0, mirror=1.0)
    changed, same = compiled(settings)(keys(1, 1), image, labels)
    np.testing.assert_allclose(changed, image, rtol=1e-5)
    np.testing.assert_array_equal(same, labels)


def test_a_missing_modality_stays_missing_and_what_is_there_is_never_lost_altogether():
    image, labels = batch_of()
    image[0, ..., 0] = 0
    image[1, ..., 1:] = 0
    settings = Augment(noise=1.0, modality_dropout=1.0)
    there = []
    for seed in range(10):
        changed, _ = compiled(settings)(keys(seed, 2), image, labels)
        there.append(np.asarray(changed).any((1, 2, 3)).tolist())
        np.testing.assert_array_equal(changed[:, :2], 0)
    # What is lost holds no noise either. Where all that is there was drawn, nothing is lost.
    first, second = zip(*there, strict=True)
    assert {tuple(case) for case in first} == {(False, True, False), (False, False, True), (False, True, True)}
    assert {tuple(case) for case in second} == {(True, False, False)}


def test_transforms_come_in_the_order_of_their_table(monkeypatch):
    names = ("noise", "blur", "contrast", "gamma_inverted", "gamma")
    for digit, name in enumerate(names, 1):
        made = Transform(lambda *_: jnp.zeros(1), lambda key, volume, strength, digit=digit: 10 * volume + digit)
        monkeypatch.setitem(TRANSFORMS, name, made)
    image = np.ones((1, 1, 1, 1), np.float32)
    changed = change_intensities(Augment(**dict.fromkeys(names, 1.0)), jax.random.key(0), image)
    assert changed.item() == 112345


def test_a_single_channel_is_never_lost():
    lost = jax.jit(jax.vmap(lambda key: draw(ALWAYS, "modality_dropout", jax.random.split(key, 4))[1]))(keys(0, 50))
    assert not lost.any()


# What depends on place: flips, resampling, noise.
SOME = Augment(mirror=0.5, rotation=1.0, noise=1.0)
GRADIENT = optax.sgd(1.0)
NETWORK = UNet3D(features=(4,), norm="instance", conv="direct")


@functools.cache
def training_step(data, space, accumulate):
    mesh = make_mesh(data, space, 4, accumulate)
    return mesh, jit_train_step(
        mesh, NETWORK, GRADIENT, categorical_focal_loss, accumulate, augment=make_augmentation(SOME)
    )


def losses_on(data, space, accumulate=1, start=None, steps=2):
    """The losses of some steps, and the last state."""
    mesh, step = training_step(data, space, accumulate)
    state = replicate(mesh, jax.tree.map(np.asarray, start or init_state(NETWORK, GRADIENT, 0, 3)))
    image, labels = batch_of(4, (8, 8, 8))
    losses = []
    for _ in range(steps):
        batch = put_batch(mesh, {"image": image, "labels": labels})
        state, metrics = step(state, batch, replicate(mesh, jax.random.key(0)))
        losses.append(float(metrics.loss))
    return losses, jax.device_get(state)


@pytest.mark.slow
def test_a_batch_becomes_the_same_on_several_devices_and_in_micro_batches():
    expected, state = losses_on(1, 1)
    assert abs(expected[0] - expected[1]) > 1e-4
    losses, other = losses_on(2, 2, accumulate=2)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for one, two in zip(jax.tree.leaves(state.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_allclose(two, one, rtol=0, atol=1e-5)


def test_a_step_that_is_resumed_sees_the_same_cases():
    losses, state = losses_on(1, 1)
    first, half_way = losses_on(1, 1, steps=1)
    second, resumed = losses_on(1, 1, start=half_way, steps=1)
    assert [*first, *second] == losses
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(other, one)
