"""Every term of the loss with every head: by hand, against NumPy in double precision, and at the ends of the range."""

import itertools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxbrats.config.loss import Loss, Term
from jaxbrats.model import losses
from jaxbrats.model.distance import signed_distance
from jaxbrats.model.heads import LABELS, RegionsHead
from jaxbrats.model.losses import TERMS, make_loss

HEADS = {"labels": LABELS, "regions": RegionsHead()}
MEMBERS = np.array([[0, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 1]])  # of WT, TC and ET: background, NCR, ED, ET
PAIRS = [
    (head, term)
    for head, term in itertools.product(HEADS, typing.get_args(Term))
    if (head, term) not in (("regions", "ce"), ("labels", "bce"))
]


def column(values):
    """Voxels `(N, ...)` as a batch of one volume `(1, N, 1, 1, ...)`."""
    values = jnp.asarray(values)
    return values.reshape(1, len(values), 1, 1, *values.shape[1:])


def test_every_term_has_its_function():
    assert tuple(TERMS) == typing.get_args(Term)


# Two cases of one voxel, two channels: case 0 is all right, case 1 is half right.
PREDICTED = jnp.array([[1.0, 0.0], [0.5, 0.5]]).reshape(2, 1, 1, 1, 2)
TRUE = jnp.array([[1.0, 0.0], [0.0, 1.0]]).reshape(2, 1, 1, 1, 2)


def test_dice_by_hand():
    # Together: channel 0: 2 * 1 / (1.5 + 1), channel 1: 2 * 0.5 / (0.5 + 1).
    assert np.isclose(losses.soft_dice_loss(PREDICTED, TRUE, smooth=0), 1 - (0.8 + 2 / 3) / 2)
    # Each case: 1 and (with nothing there) 1; 0 and 2 * 0.5 / (0.5 + 1).
    per_case = losses.soft_dice_loss(PREDICTED, TRUE, smooth=1e-9, per="case")
    assert np.isclose(per_case, 1 - (1 + 1 + 0 + 2 / 3) / 4)
    # Squared: 2 * 1 / (1.25 + 1) and 2 * 0.5 / (0.25 + 1).
    assert np.isclose(losses.soft_dice_loss(PREDICTED, TRUE, smooth=0, squared=True), 1 - (2 / 2.25 + 0.8) / 2)
    assert np.isclose(losses.soft_dice_loss(PREDICTED, TRUE, (1, 3), smooth=0), 1 - (0.8 + 3 * 2 / 3) / 4)


def test_dice_without_the_background():
    logits, labels = column(np.random.default_rng(0).normal(size=(9, 4))), column(np.arange(9) % 4)
    without = make_loss(Loss({"dice": 1.0}, dice_background=False))(logits, labels)
    probabilities, targets = LABELS.probabilities(logits), LABELS.targets(labels)
    assert np.isclose(without, losses.soft_dice_loss(probabilities[..., 1:], targets[..., 1:]), rtol=1e-6)
    assert not np.isclose(without, make_loss(Loss({"dice": 1.0}))(logits, labels), rtol=1e-3)


@pytest.mark.parametrize("of", ["dice", "squared", "tversky"])
def test_of_parts_the_overlap_is_least_wrong_at_the_parts(of):
    """With the product in place of the lesser of both, 1 would cost less than 0.5 where a voxel is half tumour."""
    targets = column([[0.5], [0.0], [1.0], [0.25]])

    @jax.jit
    def loss(probabilities):
        if of == "tversky":
            return losses.tversky_loss(probabilities, targets, None, 0.3, 0.7)
        return losses.soft_dice_loss(probabilities, targets, squared=of == "squared")

    assert np.isclose(loss(targets), 0, atol=1e-6)
    for place, change in itertools.product(range(4), (-0.5, -0.2, -0.05, 0.05, 0.2, 0.5)):
        other = np.array(targets)
        other[0, place] = np.clip(other[0, place] + change, 0, 1)
        if other[0, place] != targets[0, place]:
            assert loss(other) > 5e-4, (place, change)
    # By hand: of 0.5, 0, 1 and 0.25 with 1, 0, 0.5 and 0.25 both have 0.5 + 0.5 + 0.25 of 1.75 each.
    found = loss(column([[1.0], [0.0], [0.5], [0.25]]))
    expected = {"dice": 1 - 1.25 / 1.75, "tversky": 1 - 1.25 / 1.75, "squared": 1 - 2 * 1.0625 / (1.3125 * 2)}
    assert np.isclose(found, expected[of], rtol=1e-4)


def test_tversky_by_hand_and_as_dice():
    # Channel 0: TP 1, FP 0.5, FN 0; channel 1: TP 0.5, FP 0, FN 0.5.
    found = losses.tversky_loss(PREDICTED, TRUE, false_positives=0.2, false_negatives=0.6, smooth=0)
    assert np.isclose(found, 1 - (1 / 1.1 + 0.5 / 0.8) / 2)
    halves = losses.tversky_loss(PREDICTED, TRUE, false_positives=0.5, false_negatives=0.5, smooth=0)
    assert np.isclose(halves, losses.soft_dice_loss(PREDICTED, TRUE, smooth=0))
    per_case = losses.tversky_loss(PREDICTED, TRUE, None, 0.2, 0.6, smooth=1e-9, per="case")
    assert np.isclose(per_case, 1 - (1 + 1 + 0 + 0.5 / 0.8) / 4)


def test_cross_entropy_by_hand():
    # p = (1/2, 1/4, 1/8, 1/8) in voxels of labels 0, 1 and 3.
    logits, labels = column([np.log([4.0, 2.0, 1.0, 1.0])] * 3), column([0, 1, 3])
    assert np.isclose(make_loss(Loss({"ce": 1.0}))(logits, labels), np.log(2) * (1 + 2 + 3) / 3)
    weighted = make_loss(Loss({"ce": 1.0}, class_weights=(1.0, 2.0, 9.0, 5.0)))(logits, labels)
    assert np.isclose(weighted, np.log(2) * (1 + 2 * 2 + 5 * 3) / 8)
    nothing = make_loss(Loss({"ce": 1.0}, class_weights=(0.0, 0.0, 1.0, 0.0)))
    value, gradient = jax.value_and_grad(nothing)(logits, labels)
    assert value == 0
    assert not gradient.any()


def test_binary_cross_entropy_by_hand():
    # p = 1/4 of each region, in a voxel of background and one of edema, which is in WT alone.
    logits, labels = column([[-np.log(3.0)] * 3] * 2), column([0, 2])
    head = HEADS["regions"]
    inside, outside = np.log(4), np.log(4 / 3)
    assert np.isclose(make_loss(Loss({"bce": 1.0}), head)(logits, labels), (5 * outside + inside) / 6)
    weighted = make_loss(Loss({"bce": 1.0}, region_weights=(2.0, 1.0, 1.0)), head)(logits, labels)
    assert np.isclose(weighted, (2 * (inside + outside) + 4 * outside) / 8)
    # Lin's balance: alpha for what is inside, 1 - alpha for the rest.
    focal = make_loss(Loss({"focal": 1.0}, alpha=0.25), head)(logits, labels)
    expected = (0.25 * (3 / 4) ** 2 * inside + 5 * 0.75 * (1 / 4) ** 2 * outside) / 6
    assert np.isclose(focal, expected)


def test_boundary_by_hand():
    # Channel 0: distances 2, 1, 0, -1, 0, 1; channel 1 is nowhere, so that nothing there costs anything.
    targets = jnp.array([[0, 0], [0, 0], [1, 0], [1, 0], [1, 0], [0, 0]]).reshape(1, 6, 1, 1, 2)
    distances = signed_distance(targets > 0)
    np.testing.assert_allclose(distances[0, :, 0, 0], [[2, 0], [1, 0], [0, 0], [-1, 0], [0, 0], [1, 0]])
    probabilities = jnp.array([0.5, 0, 0, 0.25, 1, 0.125])[:, None].repeat(2, 1).reshape(targets.shape)
    expected = (0.5 * 2 - 0.25 + 0.125) / 6
    assert np.isclose(losses.boundary_loss(probabilities, targets), expected / 2)
    assert np.isclose(losses.boundary_loss(probabilities, targets, (3, 1)), expected * 3 / 4)


def test_distances_are_scipys():
    masks = np.random.default_rng(0).random((2, 7, 5, 6, 2)) < 0.1
    found = signed_distance(jnp.asarray(masks))
    for case, channel in itertools.product(range(2), range(2)):
        mask = masks[case, ..., channel]
        expected = np.where(mask, 1 - ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask))
        np.testing.assert_allclose(found[case, ..., channel], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("costs", "share", "expected"),
    [
        ([1.0, 5.0, 3.0, 2.0], 0.5, 4.0),
        ([1.0, 5.0, 3.0, 2.0], 0.01, 5.0),  # one at least
        ([1.0, 5.0, 3.0, 2.0], 1.0, 2.75),
        ([2.0, 2.0, 2.0, 7.0], 0.5, 4.5),
        ([0.0, -0.0, 0.0, 0.0], 0.5, 0.0),
        ([1e-40, 1e30, 3e38, 0.5], 0.25, 3e38),
    ],
)
def test_topk_is_the_mean_of_the_largest(costs, share, expected):
    assert np.isclose(losses.topk_cross_entropy(-jnp.float32(costs), share), expected, rtol=1e-6)


def test_topk_moves_the_largest_alone_and_equals_alike():
    gradient = jax.grad(losses.topk_cross_entropy)(jnp.array([-1.0, -5.0, -2.0, -2.0, -2.0]), 0.4)
    np.testing.assert_allclose(gradient, [0, -1 / 2, -1 / 6, -1 / 6, -1 / 6], rtol=1e-6)
    # Of either sign, 0 is 0.
    gradient = jax.grad(losses.topk_cross_entropy)(jnp.array([0.0, -0.0, -1.0, 0.0]), 0.5)
    np.testing.assert_allclose(gradient, [-1 / 6, -1 / 6, -1 / 2, -1 / 6], rtol=1e-6)


def test_topk_equals_sorting():
    costs = np.random.default_rng(0).exponential(size=(3, 7, 5, 4)).astype(np.float32)
    for share in (0.1, 0.37, 0.9):
        largest = np.sort(costs.ravel())[::-1][: round(share * costs.size)]
        assert np.isclose(losses.topk_cross_entropy(-jnp.asarray(costs), share), largest.mean(), rtol=1e-6)


# The terms again, from their definitions, in NumPy and double precision, without any of the above.


def in_numpy(term, head, logits, labels, settings):
    if head == "labels":
        exponentials = np.exp(logits)
        p, t = exponentials / exponentials.sum(-1, keepdims=True), np.eye(4)[labels]
        weights = np.array(settings.class_weights)
        own, own_weights = (p * t).sum(-1), (t * weights).sum(-1)
        alpha, entries = settings.alpha, labels.size * 4
    else:
        p, t = 1 / (1 + np.exp(-logits)), MEMBERS[labels]
        weights = np.array(settings.region_weights)
        own, own_weights = np.where(t, p, 1 - p), np.broadcast_to(weights, t.shape)
        alpha, entries = np.where(t, settings.alpha, 1 - settings.alpha), t.size
    if term in ("ce", "bce"):
        return -(own_weights * np.log(own)).sum() / own_weights.sum()
    if term == "focal":
        return -(alpha * (1 - own) ** settings.gamma * np.log(own)).sum() / entries
    if term == "topk":
        costs = np.sort(-np.log(own).ravel())
        return costs[-round(settings.topk * costs.size) :].mean()
    if head == "labels" and not settings.dice_background:
        weights = weights * [0, 1, 1, 1]
    if term == "boundary":
        signed = np.zeros(t.shape)
        for case, k in itertools.product(range(len(t)), range(t.shape[-1])):
            mask = t[case, ..., k] > 0
            if 0 < mask.mean() < 1:
                outside, inside = (ndimage.distance_transform_edt(part) for part in (~mask, mask))
                signed[case, ..., k] = np.where(mask, 1 - inside, outside)
        return np.average((p * signed).mean((0, 1, 2, 3)), weights=weights)
    volumes = [(p, t)] if settings.dice_per == "batch" else list(zip(p, t, strict=True))
    scores = []
    for p_, t_ in volumes:
        tp, fp, fn = ((a * b).reshape(-1, a.shape[-1]).sum(0) for a, b in ((p_, t_), (p_, 1 - t_), (1 - p_, t_)))
        if term == "tversky":
            scores.append((tp + 1e-5) / (tp + settings.tversky_fp * fp + settings.tversky_fn * fn + 1e-5))
        else:
            size = (p_**2 if settings.dice_squared else p_).reshape(-1, p_.shape[-1]).sum(0)
            scores.append((2 * tp + 1e-5) / (size + t_.reshape(-1, t_.shape[-1]).sum(0) + 1e-5))
    return 1 - np.mean([np.average(score, weights=weights) for score in scores])


OTHER = {"dice_per": "case", "dice_squared": True, "gamma": 1.5, "alpha": 0.6, "topk": 0.3}
OPTIONS = {
    "labels": OTHER | {"dice_background": False, "class_weights": (1.0, 2.0, 3.0, 4.0)},
    "regions": OTHER | {"region_weights": (1.0, 2.0, 3.0)},
}


@pytest.mark.parametrize(("head", "term"), PAIRS)
@pytest.mark.parametrize("default", [True, False])
def test_values_and_gradients_equal_numpy(head, term, default):
    settings = Loss({term: 1.0}, **({} if default else OPTIONS[head]))
    rng = np.random.default_rng(1)
    logits = 2 * rng.normal(size=(2, 2, 3, 2, HEADS[head].channels))
    labels = rng.integers(0, 4, logits.shape[:-1])
    loss = jax.jit(jax.value_and_grad(make_loss(settings, HEADS[head])))
    value, gradient = loss(jnp.asarray(logits, jnp.float32), jnp.asarray(labels))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, in_numpy(term, head, logits, labels, settings), rtol=1e-5)
    for place in rng.permutation(logits.size)[:12]:
        step = np.zeros(logits.size)
        step[place] = 1e-5
        up, down = (in_numpy(term, head, logits + s * step.reshape(logits.shape), labels, settings) for s in (1, -1))
        np.testing.assert_allclose(gradient.ravel()[place], (up - down) / 2e-5, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("head", HEADS)
def test_finite_at_the_ends_of_the_range(head, dtype):
    terms = [term for name, term in PAIRS if name == head]
    channels = HEADS[head].channels
    for gamma in (0.5, 2.0):
        loss = jax.jit(jax.value_and_grad(make_loss(Loss(dict.fromkeys(terms, 1.0), gamma=gamma), HEADS[head])))
        for scale, label in itertools.product((0.0, 30.0, -30.0, 1e4, -1e4, 1e30, -1e30), range(4)):
            logits = jnp.zeros((1, 2, 2, 2, channels), dtype).at[..., 0].set(scale).at[0, 0, ..., 1].set(-scale)
            value, gradient = loss(logits, jnp.full((1, 2, 2, 2), label))
            assert value.dtype == jnp.float32
            assert np.isfinite(value), (scale, label)
            assert np.isfinite(gradient.astype(jnp.float32)).all(), (scale, label)


@pytest.mark.parametrize(("head", "term"), PAIRS)
def test_the_right_answer_costs_nothing_and_the_wrong_one_much(head, term):
    labels = column([0, 1, 2, 3])
    right = 100.0 * (2 * HEADS[head].targets(labels) - 1)
    loss = make_loss(Loss({term: 1.0}), HEADS[head])
    assert loss(right, labels) < 1e-5
    assert loss(-right, labels) > 0.4
