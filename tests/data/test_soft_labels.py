"""Soft labels: what part of a voxel each label covers, from a file's voxels to a batch."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from jaxbrats.data.arrays import read_labels, read_soft_labels
from jaxbrats.data.boxes import CropBox, crop
from jaxbrats.data.cohort import preprocess_cohort
from jaxbrats.data.dataset import read_dataset
from jaxbrats.data.labels import ED, ET, NCR, most_covered
from jaxbrats.data.loader import training_batches, validation_batches
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.data.raw import nifti
from jaxbrats.data.raw.cases import find_cases
from jaxbrats.data.raw.geometry import covered, overlap_weights, resample, resample_labels
from jaxbrats.system.errors import InputError

SETTINGS = Preprocessing(("t2f", "t1c"), "brain", "zscore", 0.0, (16.0, 16.0, 16.0), soft_labels=True)


def test_parts_by_hand():
    labels = np.array([ET, NCR, ED, 0, 0, 0], np.uint8).reshape(6, 1, 1)
    # Two voxels in each of three; and of 1.5 voxels the second lies half in the first and half in the next.
    np.testing.assert_array_equal(covered(labels, (3, 1, 1))[:, 0, 0], [[127, 0, 127], [0, 127, 0], [0, 0, 0]])
    np.testing.assert_array_equal(
        covered(labels, (4, 1, 1))[:, 0, 0], [[85, 0, 170], [85, 170, 0], [0, 0, 0], [0, 0, 0]]
    )
    np.testing.assert_array_equal(covered(labels, (6, 1, 1))[:3, 0, 0], [[0, 0, 255], [255, 0, 0], [0, 255, 0]])
    # Of equals the lowest: background, then NCR, ED, ET.
    parts = np.array([[127, 0, 127], [0, 127, 0], [85, 85, 85], [0, 127, 128], [0, 0, 128]], np.uint8)
    np.testing.assert_array_equal(most_covered(parts), [NCR, 0, NCR, ET, ET])


@given(arrays.arrays(np.uint8, (5, 4, 3), elements=st.integers(0, 3)), st.tuples(*[st.integers(1, 9)] * 3))
def test_no_voxel_has_more_than_its_whole_and_nothing_is_lost(labels, shape):
    soft = covered(labels, shape)
    assert soft.shape == (*shape, 3) and soft.sum(-1, dtype=int).max() <= 255
    for channel, label in enumerate((NCR, ED, ET)):
        assert soft[..., channel].mean() / 255 == pytest.approx(np.mean(labels == label), abs=1 / 255 + 1e-4)
    for old, new in zip(labels.shape, shape, strict=True):
        np.testing.assert_allclose(overlap_weights(old, new).sum(1), 1, rtol=1e-6)


def test_a_rim_thinner_than_a_voxel_survives_there_and_back():
    distance = np.linalg.norm(np.indices((24, 24, 24)) - 11.5, axis=0)
    labels = np.where(distance < 7, NCR, np.where(distance < 8.2, ET, 0)).astype(np.uint8)
    rim, coarse = labels == ET, (8, 8, 8)

    def found(parts):
        back = resample(np.asarray(parts, np.float32), labels.shape) > 0.3
        return 2 * np.sum(back & rim) / (back.sum() + rim.sum())

    assert found(covered(labels, coarse)[..., 2] / 255) > found(resample_labels(labels, coarse) == ET) + 0.05


@pytest.fixture(scope="module")
def soft_data(tiny_cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("soft")
    preprocess_cohort(tiny_cohort, folder, SETTINGS, 0)
    return folder


def test_masks_hold_parts_and_records_count_what_covers_most(soft_data, tiny_cohort):
    dataset = read_dataset(soft_data)
    assert dataset.preprocessing == SETTINGS
    for case, raw in zip(dataset.cases, find_cases(tiny_cohort).cases, strict=True):
        soft, record = read_soft_labels(case), case.record
        whole, _ = nifti.read_labels(raw.labels, raw.name, raw.label_map)
        expected = covered(whole, record["shape"])  # the phantoms' orientation is that of all
        box = CropBox(tuple(record["crop_origin"]), soft.shape[:3], tuple(record["shape"]))
        np.testing.assert_array_equal(soft, crop(expected, box))
        assert np.bincount(read_labels(case).ravel(), minlength=4).tolist() == record["label_voxels"]


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_hold_the_parts(soft_data, workers):
    cases, options = read_dataset(soft_data).cases, {"batch_size": 4, "seed": 3, "patch": (8, 8, 6), "foreground": 1.0}
    with (
        training_batches(cases, **options, soft=True, workers=workers) as soft,
        training_batches(cases, **options) as hard,
    ):
        for _ in range(3):
            parts, labels = next(soft), next(hard)
            assert parts["labels"].shape == (4, 8, 8, 6, 3) and parts["labels"].dtype == np.uint8
            np.testing.assert_array_equal(most_covered(parts["labels"]), labels["labels"])
            np.testing.assert_array_equal(parts["image"], labels["image"])
    assert ((parts["labels"] > 0) & (parts["labels"] < 255)).any()


def test_masks_of_single_labels_are_refused_where_parts_are_asked_for(tiny_data):
    (case, *_) = read_dataset(tiny_data).cases
    with pytest.raises(InputError, match=r"has shape \(16, 16, 16\), expected soft labels \(X, Y, Z, 3\)"):
        read_soft_labels(case)


def test_arrays_of_before_are_of_single_labels_and_made_anew_for_soft_ones(tiny_data, tiny_cohort, tmp_path):
    for folder in ("images", "masks"):
        shutil.copytree(tiny_data / folder, tmp_path / folder)
    manifest = json.loads((tiny_data / "manifest.json").read_text()) | {"raw": str(tiny_cohort)}
    del manifest["settings"]["soft_labels"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    made = read_dataset(tmp_path).preprocessing
    assert made == read_dataset(tiny_data).preprocessing and not made.soft_labels
    masks = sorted((tmp_path / "masks").iterdir())
    before = [path.stat().st_mtime_ns for path in masks]
    preprocess_cohort(tiny_cohort, tmp_path, made, 0)
    assert [path.stat().st_mtime_ns for path in masks] == before
    labels = [np.load(path) for path in masks]
    preprocess_cohort(tiny_cohort, tmp_path, dataclasses.replace(made, soft_labels=True), 0)
    for path, single in zip(masks, labels, strict=True):  # on the files' own voxels each has one label
        np.testing.assert_array_equal(np.load(path), 255 * (single[..., None] == np.array([NCR, ED, ET])))
    # Whole arrays, to train on and to validate on.
    cases = read_dataset(tmp_path).cases
    with (
        training_batches(cases, batch_size=8, seed=0, soft=True) as training,
        validation_batches(cases, batch_size=8) as validation,
    ):
        soft, single = next(training), next(validation)
    assert soft["labels"].shape == (8, 16, 16, 16, 3)
    np.testing.assert_array_equal(single["labels"], labels)
    np.testing.assert_array_equal(most_covered(soft["labels"]), single["labels"][soft["index"]])
