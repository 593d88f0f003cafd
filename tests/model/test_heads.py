"""What both heads make of logits, probabilities and labels, by hand and against NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxbrats.data.labels import BACKGROUND, ED, ET, NCR, REGIONS
from jaxbrats.model import counts
from jaxbrats.model.heads import LABELS, RegionsHead

REGION_HEAD = RegionsHead()


def as_volume(rows):
    """Voxels `(N, K)` as a batch of one volume `(1, N, 1, 1, K)`."""
    return np.asarray(rows, np.float32).reshape(1, -1, 1, 1, len(rows[0]))


def logits_of(probabilities):
    return jnp.log(probabilities) - jnp.log1p(-probabilities)


def test_targets_of_regions_are_nested():
    labels = jnp.array([BACKGROUND, ED, NCR, ET], jnp.uint8).reshape(1, 4, 1, 1)
    targets = REGION_HEAD.targets(labels)
    assert targets.dtype == jnp.float32
    np.testing.assert_array_equal(targets[0, :, 0, 0], [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]])
    # What the targets say is the label again, for both heads.
    for head in (LABELS, REGION_HEAD):
        np.testing.assert_array_equal(head.labels(np.asarray(head.targets(labels))), labels)
        assert head.targets(labels).shape[-1] == head.channels == len(head.background)
        assert head.labels(head.background) == BACKGROUND


def test_soft_labels_are_what_the_probabilities_should_be():
    shares = np.array([[0, 0, 0], [255, 0, 0], [51, 102, 0], [51, 51, 153]], np.uint8).reshape(1, 4, 1, 1, 3)
    parts = [[0, 0, 0], [1, 1, 0], [0.6, 0.2, 0], [1, 0.8, 0.6]]
    np.testing.assert_allclose(REGION_HEAD.targets(shares)[0, :, 0, 0], parts, atol=1e-6)
    labels = [[1, 0, 0, 0], [0, 1, 0, 0], [0.4, 0.2, 0.4, 0], [0, 0.2, 0.2, 0.6]]
    np.testing.assert_allclose(LABELS.targets(shares)[0, :, 0, 0], labels, atol=1e-6)
    hard = jnp.array([BACKGROUND, NCR, BACKGROUND, ET]).reshape(1, 4, 1, 1)  # of equals the lowest
    for head, wanted in ((REGION_HEAD, parts), (LABELS, labels)):
        logits = as_volume(np.random.default_rng(0).normal(size=(4, head.channels)))
        probability = np.asarray(head.probabilities(logits), np.float64)[0, :, 0, 0]
        found = head.log_likelihood(logits, shares)[0, :, 0, 0]
        if head is LABELS:
            expected = np.sum(wanted * np.log(probability), axis=1, keepdims=True)
        else:
            expected = wanted * np.log(probability) + np.subtract(1, wanted) * np.log(1 - probability)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        for counted, of_hard in zip(head.count(logits, shares), head.count(logits, hard), strict=True):
            np.testing.assert_array_equal(counted, of_hard)
        assert head.weights(shares, range(1, head.channels + 1)).shape[:4] == (1, 4, 1, 1)
    # A voxel lies in a region of which it holds more than half.
    inside = np.where(np.array(parts) > 0.5, 0.25, 0.75)
    np.testing.assert_allclose(REGION_HEAD.focal_alpha(shares, 0.25)[0, :, 0, 0], inside, rtol=1e-6)


@pytest.mark.parametrize("head", [LABELS, REGION_HEAD], ids=["labels", "regions"])
def test_soft_labels_of_whole_voxels_are_labels(head):
    labels = jnp.asarray(np.random.default_rng(0).integers(0, 4, (2, 3, 3, 3)))
    soft = (255 * (labels[..., None] == jnp.array([NCR, ED, ET]))).astype(jnp.uint8)
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 3, 3, head.channels)))
    for of in (head.targets, lambda one: head.log_likelihood(logits, one), lambda one: head.focal_alpha(one, 0.25)):
        np.testing.assert_allclose(of(soft), of(labels), atol=1e-6)


@pytest.mark.parametrize(
    ("probabilities", "label"),
    [
        ((0.5, 0.5, 0.5), BACKGROUND),  # above the threshold, not at it
        ((0.6, 0.5, 0.5), ED),
        ((0.6, 0.6, 0.5), NCR),
        ((0.6, 0.6, 0.6), ET),
        ((0.1, 0.6, 0.1), NCR),  # a core outside the whole tumour overwrites, as in nnU-Net
        ((0.1, 0.1, 0.6), ET),
        ((0.6, 0.1, 0.6), ET),
    ],
)
def test_regions_are_decoded_from_the_outside_in(probabilities, label):
    decoded = REGION_HEAD.labels(as_volume([probabilities]))
    assert (decoded.dtype, decoded.shape) == (np.uint8, (1, 1, 1, 1))
    assert decoded.item() == label


def test_each_region_has_its_threshold():
    probabilities = as_volume([(0.7, 0.45, 0.3), (0.65, 0.3, 0.1), (0.9, 0.41, 0.21)])
    head = RegionsHead((0.69, 0.4, 0.2))
    np.testing.assert_array_equal(head.labels(probabilities).ravel(), [ET, BACKGROUND, ET])
    np.testing.assert_array_equal(REGION_HEAD.labels(probabilities).ravel(), [ED, ED, ED])
    labels = jnp.array([ET, ED, ED]).reshape(1, 3, 1, 1)
    found = head.count(logits_of(probabilities), labels)
    expected = np.zeros((4, 4), int)
    expected[ET, ET] = expected[ED, BACKGROUND] = expected[ED, ET] = 1
    np.testing.assert_array_equal(found.confusion[0], expected)
    # The thresholds of the intersection over union are one half, whatever those of the labels.
    expected = np.zeros((4, 4), int)
    expected[ET, ED], expected[ED, ED] = 1, 2
    np.testing.assert_array_equal(found.confusion_above_half[0], expected)


def test_what_is_counted_are_the_labels_that_are_predicted():
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(2, 5, 4, 3, 3)).astype(np.float32)
    labels = rng.integers(0, 4, (2, 5, 4, 3))
    found = REGION_HEAD.count(jnp.asarray(logits), jnp.asarray(labels))
    predicted = REGION_HEAD.labels(np.asarray(REGION_HEAD.probabilities(jnp.asarray(logits))))
    for case in range(2):
        for name, region in REGIONS.items():
            p, r = np.isin(predicted[case], region), np.isin(labels[case], region)
            expected = 2 * (p & r).sum() / (p.sum() + r.sum())
            dice = counts.region_dice(found.confusion, region)[case]
            np.testing.assert_allclose(dice, expected, rtol=1e-6, err_msg=name)
        for label in range(4):
            p, r = predicted[case] == label, labels[case] == label
            iou = counts.class_iou(found)[case, label]
            np.testing.assert_allclose(iou, (p & r).sum() / (p | r).sum(), rtol=1e-6)


def test_probabilities_and_their_logarithms_keep_what_rounds_away():
    logits = jnp.array([[0.0, -100.0, 100.0]]).reshape(1, 1, 1, 1, 3)
    np.testing.assert_allclose(REGION_HEAD.probabilities(logits).ravel(), [0.5, 0, 1], atol=1e-30)
    edema = jnp.full((1, 1, 1, 1), ED)  # in WT alone
    background = jnp.zeros((1, 1, 1, 1), int)
    np.testing.assert_allclose(REGION_HEAD.log_likelihood(logits, edema).ravel(), [-np.log(2), 0, -100], atol=1e-6)
    np.testing.assert_allclose(REGION_HEAD.log_likelihood(-logits, background).ravel()[1:], [-100, 0], atol=1e-6)
    logits = jnp.array([[0.0, -100.0, 0.0, -100.0]]).reshape(1, 1, 1, 1, 4)
    np.testing.assert_allclose(LABELS.log_likelihood(logits, edema).ravel(), [-np.log(2)], rtol=1e-6)


def test_entropy_is_0_where_certain_and_largest_where_all_is_open():
    for head, largest, open_ in ((LABELS, np.log(4), 0.25), (REGION_HEAD, 3 * np.log(2), 0.5)):
        certain = np.asarray(head.targets(jnp.arange(4)), np.float32)
        np.testing.assert_array_equal(head.entropy(certain), np.zeros(4))
        np.testing.assert_allclose(head.entropy(np.full(head.channels, open_, np.float32)), largest, rtol=1e-6)
    by_hand = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1)) - 2 * (0.2 * np.log(0.2) + 0.8 * np.log(0.8))
    np.testing.assert_allclose(REGION_HEAD.entropy(np.float32([0.9, 0.2, 0.8])), by_hand, rtol=1e-6)
