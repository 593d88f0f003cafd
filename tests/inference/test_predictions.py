"""Predictions of preprocessed cases as NIfTI on the source's voxels, and back."""

import nibabel as nib
import numpy as np
import pytest

from jaxbrats.inference.predictions import as_written, read_prediction, write_prediction
from jaxbrats.system.errors import InputError


def record(shape, origin, affine):
    lies = {"shape": list(shape), "affine": affine.tolist()}
    return lies | {"crop_origin": list(origin), "file": lies}


LPS = np.array([[-1.0, 0, 0, 0], [0, -1.0, 0, 239], [0, 0, 1.5, 7], [0, 0, 0, 1]])


def test_the_crop_lies_where_it_was_cut_out(tmp_path):
    labels = np.random.default_rng(0).integers(0, 4, (4, 5, 6)).astype(np.uint8)
    place = record((10, 12, 9), (3, 4, 2), LPS)
    write_prediction(tmp_path / "a.nii.gz", labels, place)
    image = nib.load(tmp_path / "a.nii.gz")
    voxels = np.asarray(image.dataobj)
    assert voxels.shape == (10, 12, 9) and image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(voxels[3:7, 4:9, 2:8], labels)
    assert np.count_nonzero(voxels) == np.count_nonzero(labels)
    np.testing.assert_allclose(image.get_sform(coded=True)[0], LPS)
    np.testing.assert_allclose(image.get_qform(coded=True)[0], LPS, atol=1e-5)
    assert image.header.get_zooms() == (1.0, 1.0, 1.5)
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_array_equal(read_prediction(tmp_path / "a.nii.gz", "a", labels.shape, place), labels)


def test_a_crop_larger_than_its_source_loses_only_what_lies_outside(tmp_path):
    labels = np.full((6, 4, 8), 3, np.uint8)
    place = record((6, 4, 4), (0, 0, -2), LPS)
    write_prediction(tmp_path / "a.nii.gz", labels, place)
    assert (np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj) == 3).all()
    found = read_prediction(tmp_path / "a.nii.gz", "a", labels.shape, place)
    expected = np.zeros_like(labels)
    expected[:, :, 2:6] = 3
    np.testing.assert_array_equal(found, expected)


def test_finer_arrays_lose_what_the_file_has_no_voxels_for(tmp_path):
    labels = np.random.default_rng(0).integers(0, 4, (8, 8, 8)).astype(np.uint8)
    file = {"shape": [4, 4, 4], "affine": np.diag([2.0, 2, 2, 1]).tolist()}
    place = record((8, 8, 8), (0, 0, 0), np.diag([1.0, 1, 1, 1])) | {"file": file}
    write_prediction(tmp_path / "a.nii.gz", labels, place)
    found = read_prediction(tmp_path / "a.nii.gz", "a", labels.shape, place)
    assert (found != labels).mean() > 0.2
    np.testing.assert_array_equal(as_written(labels, place), found)
    np.testing.assert_array_equal(as_written(labels, record((8, 8, 8), (0, 0, 0), LPS)), labels)


def test_arrays_without_a_manifest_are_their_own_source(tmp_path):
    labels = np.arange(24).reshape(2, 3, 4).astype(np.uint8) % 4
    write_prediction(tmp_path / "a.nii.gz", labels, None)
    np.testing.assert_array_equal(nib.load(tmp_path / "a.nii.gz").affine, np.eye(4))
    np.testing.assert_array_equal(read_prediction(tmp_path / "a.nii.gz", "a", (2, 3, 4), None), labels)


def test_an_affine_that_is_sheared_has_no_qform(tmp_path):
    sheared = np.array([[1.0, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    write_prediction(tmp_path / "a.nii.gz", np.zeros((2, 3, 4), np.uint8), record((2, 3, 4), (0, 0, 0), sheared))
    image = nib.load(tmp_path / "a.nii.gz")
    assert image.get_qform(coded=True)[0] is None
    np.testing.assert_allclose(image.affine, sheared, atol=1e-6)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (record((5, 5, 6), (0, 0, 0), LPS), "expected 5x5x6 voxels with the affine of the case's source, found 4x5x6"),
        (record((4, 5, 6), (0, 0, 0), np.eye(4)), "found 4x5x6 with another affine"),
    ],
)
def test_a_prediction_on_other_voxels_is_refused(tmp_path, place, message):
    path = tmp_path / "a.nii.gz"
    write_prediction(path, np.zeros((4, 5, 6), np.uint8), record((4, 5, 6), (0, 0, 0), LPS))
    with pytest.raises(InputError, match=message) as refused:
        read_prediction(path, "a", (4, 5, 6), place)
    assert refused.value.file == path and refused.value.case == "a"


def test_a_turned_case_is_laid_on_the_voxels_of_its_file(tmp_path):
    labels = np.random.default_rng(0).integers(0, 4, (6, 7, 8)).astype(np.uint8)
    turned, affine = (
        labels.transpose(2, 0, 1)[::-1],
        LPS @ np.array([[0, 1, 0, 0], [0, 0, 1, 0], [-1, 0, 0, 7], [0, 0, 0, 1]]),
    )
    place = record((6, 7, 8), (0, 0, 0), LPS) | {"file": {"shape": [8, 6, 7], "affine": affine.tolist()}}
    write_prediction(tmp_path / "a.nii.gz", labels, place)
    written = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), turned)
    np.testing.assert_allclose(written.affine, affine)
    np.testing.assert_array_equal(read_prediction(tmp_path / "a.nii.gz", "a", labels.shape, place), labels)
