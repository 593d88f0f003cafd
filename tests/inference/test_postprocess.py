import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxbrats.config.inference import Postprocessing
from jaxbrats.data.labels import ED, ET, NCR
from jaxbrats.inference.postprocess import (
    fill_holes,
    postprocess,
    read_postprocessing,
    relabel_cores,
    relabel_enhancing,
    remove_components,
    write_postprocessing,
)
from jaxbrats.system.errors import InputError

MM = (1.0, 1.0, 1.0)
SPACING = (1.0, 2.0, 0.5)


def empty():
    return np.zeros((9, 10, 11), np.uint8)


def test_small_components_go_whatever_their_labels():
    labels = empty()
    labels[1:4, 1:4, 1:4] = ED  # 27 voxels
    labels[2, 2, 2] = ET
    labels[6, 6, 6], labels[6, 6, 7], labels[7, 7, 8] = NCR, ET, ED  # 3 voxels, the last over a corner
    labels[8, 1, 1] = ET
    expected = labels.copy()
    expected[8, 1, 1] = 0
    np.testing.assert_array_equal(remove_components(labels, MM, 3), expected)
    expected[6:, 6:, 6:] = 0
    np.testing.assert_array_equal(remove_components(labels, MM, 3.5), expected)
    np.testing.assert_array_equal(remove_components(labels, SPACING, 3.5), expected)
    assert not remove_components(labels, MM, 28).any()
    assert remove_components(labels, MM, 0) is labels
    assert remove_components(empty(), MM, 5).dtype == np.uint8


def test_small_cores_are_edema_and_others_stay():
    labels = empty()
    labels[1:8, 1:8, 1:8] = ED
    labels[2:4, 2:4, 2:4] = NCR
    labels[4, 4, 4] = ET  # 9 voxels, the last over a corner
    labels[6, 6, 6], labels[6, 6, 7] = ET, NCR
    labels[8, 9, 10] = ET  # without edema around it, which is for `remove_components`
    np.testing.assert_array_equal(relabel_cores(labels, MM, 1), labels)
    expected = labels.copy()
    expected[8, 9, 10] = ED
    np.testing.assert_array_equal(relabel_cores(labels, MM, 2), expected)
    np.testing.assert_array_equal(relabel_cores(labels, (2, 2, 0.5), 4), expected)
    expected[6, 6, 6:8] = ED
    np.testing.assert_array_equal(relabel_cores(labels, MM, 2.5), expected)
    np.testing.assert_array_equal(relabel_cores(labels, MM, 9), expected)
    assert not np.isin(relabel_cores(labels, MM, 9.5), (NCR, ET)).any()
    assert relabel_cores(labels, MM, 0) is labels


def test_little_enhancing_tumour_is_necrosis():
    labels = empty()
    labels[1:4, 1:4, 1:4] = ED
    labels[2, 2, 1:3] = ET
    labels[7, 7, 7] = ET
    np.testing.assert_array_equal(relabel_enhancing(labels, MM, 4), np.where(labels == ET, NCR, labels))
    assert relabel_enhancing(labels, MM, 3) is labels
    assert relabel_enhancing(labels, (2, 2, 1), 12) is labels
    assert relabel_enhancing(labels, (2, 2, 1), 12.5)[7, 7, 7] == NCR
    assert relabel_enhancing(labels, MM, 0) is labels
    without = np.where(labels == ET, 0, labels)
    assert relabel_enhancing(without, MM, 100) is without


def test_holes_get_the_label_around_them():
    labels = empty()
    labels[1:8, 1:8, 1:8] = ED
    labels[2, 2, 2] = 0  # a hole of one voxel
    labels[4:6, 4:6, 4:7] = 0  # one of 12 voxels, mostly in necrosis
    labels[3, 4:6, 4:7] = labels[6, 4:6, 4:7] = labels[4:6, 3, 4:7] = NCR
    filled = fill_holes(labels, MM, 1)
    assert filled[2, 2, 2] == ED
    assert not filled[4:6, 4:6, 4:7].any()
    filled = fill_holes(labels, MM, 12)
    assert (filled[4:6, 4:6, 4:7] == NCR).all()
    untouched = labels > 0
    np.testing.assert_array_equal(filled[untouched], labels[untouched])
    assert filled[0].max() == 0
    assert not fill_holes(labels, (2, 1, 1), 23)[4:6, 4:6, 4:7].any()
    assert fill_holes(labels, MM, 0) is labels


def test_what_is_open_is_no_hole():
    labels = empty()
    labels[1:6, 1:6, 1:6] = ED
    labels[3, 3, 3:6] = 0  # a tunnel to the outside
    np.testing.assert_array_equal(fill_holes(labels, MM, 1e6), labels)
    labels[3, 3, 5] = ED
    labels[2, 2, 5] = 0  # a notch, closed against the hole but for a corner
    filled = fill_holes(labels, MM, 1e6)
    assert (filled[3, 3, 3:5] == ED).all()
    assert filled[2, 2, 5] == 0


def test_background_at_the_border_is_no_hole():
    labels = np.full((4, 4, 4), ET, np.uint8)
    labels[0, 1, 1] = labels[2, 3, 2] = labels[1, 2, 0] = 0
    np.testing.assert_array_equal(fill_holes(labels, MM, 1e6), labels)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 1.5, 4.0, 30.0]))
def test_all_together_in_the_tumour_s_box_alone(seed, volume):
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random((9, 10, 11)) < rng.choice([0.02, 0.3, 0.8]), rng.integers(1, 4, (9, 10, 11)), 0)
    labels = np.pad(labels.astype(np.uint8), 2)
    original = labels.copy()
    settings = Postprocessing(hole_mm3=volume, component_mm3=2 * volume, core_mm3=volume, enhancing_mm3=3 * volume)
    expected = remove_components(fill_holes(labels, SPACING, volume), SPACING, 2 * volume)
    expected = relabel_enhancing(relabel_cores(expected, SPACING, volume), SPACING, 3 * volume)
    result = postprocess(labels, SPACING, settings)
    np.testing.assert_array_equal(result, expected)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(labels, original)


def test_nothing_there_stays_nothing():
    settings = Postprocessing(5, 5, 5, 5)
    assert not postprocess(empty(), MM, settings).any()


@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf")])
def test_settings_are_volumes(bad):
    with pytest.raises(InputError, match=r"postprocessing.component_mm3 is a volume in mm\^3, 0 or more"):
        Postprocessing(component_mm3=bad)


def test_a_run_remembers_what_was_chosen(tmp_path):
    settings = Postprocessing(10, 50, 20, 200.5)
    write_postprocessing(tmp_path, settings, {"metric": "dice"})
    assert read_postprocessing(tmp_path, Postprocessing()) == settings
    assert json.loads((tmp_path / "postprocess.json").read_text()) == {
        "settings": dataclasses.asdict(settings),
        "chosen_by": {"metric": "dice"},
    }
    # Written before a setting was there.
    (tmp_path / "postprocess.json").write_text('{"settings": {"hole_mm3": 3, "component_mm3": 5, "enhancing_mm3": 7}}')
    assert read_postprocessing(tmp_path, Postprocessing()) == Postprocessing(3, 5, 0, 7)
    asked = Postprocessing(enhancing_mm3=7)
    assert read_postprocessing(tmp_path / "untuned", asked) == asked


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"settings": {}}', '{"settings": {"hole_mm3": "3"}}'])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "postprocess.json").write_text(text)
    with pytest.raises(InputError, match=r"postprocess\.json"):
        read_postprocessing(tmp_path, Postprocessing())
