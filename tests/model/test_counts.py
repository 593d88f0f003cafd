import jax.numpy as jnp
import numpy as np

from jaxbrats.model import counts
from jaxbrats.model.heads import LABELS, LabelsHead


def logits_of(probabilities):
    return jnp.log(jnp.asarray(probabilities, jnp.float32)).reshape(1, -1, 1, 1, len(probabilities[0]))


def test_counts_by_hand():
    probabilities = [[0.6, 0.3, 0.1], [0.4, 0.3, 0.3], [0.1, 0.8, 0.1], [0.1, 0.45, 0.45001]]
    labels = jnp.array([0, 1, 1, 2]).reshape(1, 4, 1, 1)
    found = LabelsHead(3).count(logits_of(probabilities), labels)
    np.testing.assert_array_equal(found.confusion[0], [[1, 0, 0], [1, 1, 0], [0, 0, 1]])
    # Only the first and the third voxel have a class above one half.
    np.testing.assert_array_equal(found.confusion_above_half[0], [[1, 0, 0], [0, 1, 0], [0, 0, 0]])
    np.testing.assert_allclose(counts.class_dice(found.confusion)[0], [2 / 3, 2 / 3, 1])
    np.testing.assert_allclose(counts.class_iou(found)[0], [1, 1 / 2, 0])
    assert counts.accuracy(found.confusion) == 0.75


def test_scores_equal_masks():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 5, 4, 3, 4)).astype(np.float32)
    labels = rng.integers(0, 4, (2, 5, 4, 3))
    found = LABELS.count(jnp.asarray(logits), jnp.asarray(labels))
    predicted = logits.argmax(-1)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for case in range(2):
        for name, region in (("WT", (1, 2, 3)), ("TC", (1, 3)), ("ET", (3,))):
            p, r = np.isin(predicted[case], region), np.isin(labels[case], region)
            expected = 2 * (p & r).sum() / (p.sum() + r.sum())
            np.testing.assert_allclose(
                counts.region_dice(found.confusion, region)[case], expected, rtol=1e-6, err_msg=name
            )
        for label in range(4):
            p, r = probabilities[case, ..., label] > 0.5, labels[case] == label
            expected = (p & r).sum() / (p | r).sum()
            np.testing.assert_allclose(counts.class_iou(found)[case, label], expected, rtol=1e-6)


def test_empty_on_both_sides_is_right():
    confusion = jnp.array([[[5, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]])
    assert counts.region_dice(confusion, (1, 2, 3))[0] == 1
    np.testing.assert_array_equal(counts.class_dice(confusion)[0], [1, 1, 1, 1])
    # A voxel of tumour that is not there makes it 0.
    assert counts.region_dice(confusion.at[0, 0, 3].set(1), (3,))[0] == 0


def test_scores_of_more_voxels_than_integers_can_double():
    confusion = np.diag([1_200_000_000, 10, 20, 30]).astype(np.int32)
    confusion[0, 3] = 10
    np.testing.assert_allclose(counts.class_dice(confusion), [1, 1, 1, 60 / 70], rtol=1e-6)
    np.testing.assert_allclose(counts.region_dice(confusion, (0, 1)), 1, rtol=1e-6)
    np.testing.assert_allclose(counts.class_iou(counts.Counts(confusion, confusion))[3], 30 / 40, rtol=1e-6)
    np.testing.assert_allclose(counts.accuracy(confusion), 1, rtol=1e-6)
