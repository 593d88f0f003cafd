"""The small picture of a case: grey, and labels in their colours."""

import numpy as np

from jaxbrats.data.labels import ED, ET
from jaxbrats.report import slices
from jaxbrats.report.slices import draw_case, draw_slice

BLUE, AMBER = np.array([0x1F, 0xA8, 0xF5]), np.array([0xF7, 0xB5, 0x00])


def test_labels_are_filled_and_edged_in_their_colours():
    image = np.full((7, 5), 2.0, np.float32)
    image[:, 0], image[0, 1:] = 0, -3.0
    truth, prediction = np.zeros((2, 7, 5), np.uint8)
    truth[1:6, 1:4] = ED
    prediction[6, 4] = ET
    picture = draw_slice(image, [truth, prediction])
    assert picture.shape == (5, 7 * 3, 3)
    assert picture.dtype == np.uint8
    plain, under_truth, under_prediction = (picture[:, 7 * number :][:, :7].swapaxes(0, 1) for number in range(3))
    assert (plain[:, 0] == 0).all()  # around the brain
    assert (plain[0, 1:] == 0).all()  # the darkest of it
    assert (plain[1:, 1:] == 255).all()
    fill = np.zeros((7, 5), bool)
    fill[2:5, 2] = True
    edge = (truth > 0) & ~fill
    np.testing.assert_array_equal(np.unique(under_truth[edge], axis=0), [BLUE])
    np.testing.assert_array_equal(np.unique(under_truth[fill], axis=0), [np.rint(0.6 * 255 + 0.4 * BLUE)])
    np.testing.assert_array_equal(under_truth[truth == 0], plain[truth == 0])
    np.testing.assert_array_equal(under_prediction[6, 4], AMBER)
    assert (under_prediction != plain).any(axis=2).sum() == 1


def test_an_image_of_one_value_or_none():
    labels = np.zeros((3, 3), np.uint8)
    assert not draw_slice(np.zeros((3, 3), np.float32), [labels]).any()
    assert not draw_slice(np.full((3, 3), 0.5, np.float32), [labels]).any()


def test_the_first_modality_that_a_case_has_is_drawn(monkeypatch):
    image, labels = np.zeros((3, 3, 3, 2), np.float32), np.zeros((3, 3, 3), np.uint8)
    image[..., 1], labels[0, 0, 1] = np.arange(1, 4)[:, None, None], ED
    monkeypatch.setattr(slices, "read_image", lambda case: image)
    monkeypatch.setattr(slices, "read_labels", lambda case: labels)
    assert (draw_case(None, labels[:, :, 1])[:, 2] == 255).all()
