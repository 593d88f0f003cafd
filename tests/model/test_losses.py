import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbrats.model.losses import categorical_focal_loss, dice_loss, soft_dice_loss

# What segmentation_models_3D computes, written from its definition in NumPy, from probabilities and one-hot masks.


def library_dice(mask, probabilities, class_weights, smooth=1e-5):
    axes = (0, 1, 2, 3)
    true_positive = (mask * probabilities).sum(axes)
    false_positive = probabilities.sum(axes) - true_positive
    false_negative = mask.sum(axes) - true_positive
    score = (2 * true_positive + smooth) / (2 * true_positive + false_negative + false_positive + smooth)
    return 1 - np.mean(score * class_weights)


def library_focal(mask, probabilities, alpha=0.25, gamma=2.0):
    probabilities = np.clip(probabilities, 1e-7, 1 - 1e-7)
    return np.mean(-mask * alpha * (1 - probabilities) ** gamma * np.log(probabilities))


def example(seed=0, classes=4, scale=3.0):
    rng = np.random.default_rng(seed)
    logits = scale * rng.normal(size=(2, 4, 3, 5, classes))
    labels = rng.integers(0, classes, size=logits.shape[:-1])
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return jnp.asarray(logits, jnp.float32), jnp.asarray(labels), probabilities, np.eye(classes)[labels]


@pytest.mark.parametrize("seed", range(3))
def test_they_equal_the_notebooks_library(seed):
    logits, labels, probabilities, mask = example(seed)
    assert abs(dice_loss(logits, labels, (1, 1, 1, 1)) - library_dice(mask, probabilities, 1)) < 1e-5
    assert abs(dice_loss(logits, labels) - library_dice(mask, probabilities, 1)) < 1e-5
    assert abs(categorical_focal_loss(logits, labels) - library_focal(mask, probabilities)) < 1e-5
    assert abs(categorical_focal_loss(logits, labels, 0.5, 1.5) - library_focal(mask, probabilities, 0.5, 1.5)) < 1e-5


def test_by_hand():
    # Two voxels, two classes, p = (3/4, 1/4) in both; labels 0 and 1.
    logits = jnp.log(jnp.array([[3.0, 1.0], [3.0, 1.0]])).reshape(1, 2, 1, 1, 2)
    labels = jnp.array([0, 1]).reshape(1, 2, 1, 1)
    # Class 0: 2 * 3/4 / (3/2 + 1) = 0.6; class 1: 2 * 1/4 / (1/2 + 1) = 1/3.
    assert np.isclose(dice_loss(logits, labels, smooth=0), 1 - (0.6 + 1 / 3) / 2)
    assert np.isclose(dice_loss(logits, labels, (1, 0), smooth=0), 1 - 0.6)
    assert np.isclose(dice_loss(logits, labels, (2, 6), smooth=0), 1 - (0.25 * 0.6 + 0.75 / 3))
    expected = 0.25 * ((1 / 4) ** 2 * -np.log(3 / 4) + (3 / 4) ** 2 * -np.log(1 / 4)) / 4
    assert np.isclose(categorical_focal_loss(logits, labels), expected)


def test_gamma_zero_is_cross_entropy():
    logits, labels, probabilities, mask = example()
    expected = -np.mean(mask * np.log(probabilities))
    assert np.isclose(categorical_focal_loss(logits, labels, alpha=1.0, gamma=0.0), expected, rtol=1e-5)


def test_weights_only_count_by_their_ratio():
    logits, labels, *_ = example()
    assert np.isclose(dice_loss(logits, labels, (0.25,) * 4), dice_loss(logits, labels), rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_finite_with_a_class_absent_and_extreme_logits(gamma):
    def total(logits, labels):
        return dice_loss(logits, labels) + categorical_focal_loss(logits, labels, gamma=gamma)

    labels = jnp.zeros((1, 2, 2, 2), int)
    for scale in (0.0, 1e2, 1e4, 1e30):
        for sign in (1, -1):
            logits = jnp.zeros((1, 2, 2, 2, 4)).at[..., 0].set(sign * scale)
            value, gradient = jax.value_and_grad(total)(logits, labels)
            assert np.isfinite(value), (scale, sign)
            assert np.all(np.isfinite(gradient)), (scale, sign)


def test_a_perfect_prediction_costs_nothing_and_a_class_absent_everywhere_is_right():
    labels = jnp.array([0, 1, 1, 2]).reshape(1, 4, 1, 1)
    logits = 100.0 * jax.nn.one_hot(labels, 4)
    assert dice_loss(logits, labels) < 1e-6
    assert categorical_focal_loss(logits, labels) < 1e-6


def test_half_precision_logits_are_summed_in_single():
    logits, labels, *_ = example()
    half = logits.astype(jnp.bfloat16)
    assert dice_loss(half, labels).dtype == jnp.float32
    assert np.isclose(dice_loss(half, labels), dice_loss(half.astype(jnp.float32), labels), rtol=1e-6)


def test_squared_dice_of_parts_is_least_at_the_truth():
    targets = jnp.full((1, 4, 4, 4, 1), 0.4)

    def loss(p):
        return float(soft_dice_loss(jnp.full_like(targets, p), targets, squared=True))

    assert abs(loss(0.4)) < 1e-6
    # 1 - 2 p t / (p^2 + t^2)
    assert np.isclose(loss(0.6), 1 - 2 * 0.6 * 0.4 / (0.36 + 0.16), atol=1e-5)
