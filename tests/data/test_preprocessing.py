import dataclasses
import functools
import json

import nibabel as nib
import nifti_files
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxbrats.data.boxes import CropBox, crop, paste
from jaxbrats.data.labels import BRATS_2023
from jaxbrats.data.preprocessing import Preprocessing, preprocess_case, preprocess_images
from jaxbrats.data.raw.cases import Case, VolumeFile, find_cases
from jaxbrats.data.raw.geometry import Frame
from jaxbrats.system.errors import InputError

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])
SHAPE = (9, 8, 7)
SMALL = Preprocessing(crop=(4, 4, 4), min_tumour=0)
save = functools.partial(nifti_files.save, affine=AFFINE)


def image(seed, dtype=np.int16, shape=SHAPE):
    """A head: zeros around a box of tissue with values up to 1000."""
    array = np.zeros(shape, dtype)
    tissue = tuple(slice(1, size - 1) for size in shape)
    array[tissue] = np.random.default_rng(seed).integers(1, 1000, array[tissue].shape)
    return array


def labels(shape=SHAPE):
    return np.random.default_rng(9).integers(0, 4, shape).astype(np.uint8)


def make_case(folder, arrays=None, segmentation=None):
    arrays = arrays or {name: image(seed) for seed, name in enumerate(("t1n", "t1c", "t2w", "t2f"))}
    for name, array in arrays.items():
        save(folder / f"c-{name}.nii.gz", array)
    save(folder / "c-seg.nii.gz", labels() if segmentation is None else segmentation)
    (case,) = find_cases(folder).cases
    return case, arrays


@pytest.mark.parametrize(
    ("volume", "size", "origin"),
    [
        ((240, 240, 155), (128, 128, 128), (56, 56, 13)),
        ((96, 96, 80), (128, 128, 128), (-16, -16, -24)),
        ((155, 127, 129), (128, 128, 128), (13, -1, 0)),
    ],
)
def test_the_box_is_about_the_centre(volume, size, origin):
    box = CropBox.about_centre(volume, size)
    assert box == CropBox(origin, size, volume)


def test_240_240_155_is_cut_as_the_notebook_did():
    box = CropBox.about_centre((240, 240, 155), (128, 128, 128))
    assert box.in_volume == (slice(56, 184), slice(56, 184), slice(13, 141))
    assert box.in_box == (slice(0, 128),) * 3


sizes = st.tuples(*[st.integers(1, 9)] * 3)


@given(volume=sizes, size=sizes, channels=st.sampled_from([(), (2,)]))
def test_paste_undoes_crop(volume, size, channels):
    box = CropBox.about_centre(volume, size)
    array = np.random.default_rng(0).integers(1, 100, volume + channels)
    cropped = crop(array, box)
    # Against padding by NumPy and then slicing.
    start = np.add(box.origin, 9)
    padded = np.pad(array, [(9, 9)] * 3 + [(0, 0)] * len(channels))
    window = tuple(slice(first, first + length) for first, length in zip(start, size, strict=True))
    np.testing.assert_array_equal(cropped, padded[window])
    pasted = paste(cropped, box, background=-1)
    assert pasted.shape == array.shape
    inside = np.zeros(array.shape, bool)
    inside[box.in_volume] = True
    np.testing.assert_array_equal(pasted, np.where(inside, array, -1))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_minmax_is_of_the_whole_volume(tmp_path, dtype):
    arrays = {"t1c": image(1, dtype), "t2f": image(2, dtype)}
    arrays["t2f"][0, 0, 0] = 250  # outside the crop
    if dtype != np.uint8:
        arrays["t2f"][-1, -1, -1] = -40
        arrays["t1c"][0, 0, 0] = 5000
    case, _ = make_case(tmp_path, arrays)
    settings = Preprocessing(("t2f", "t1c"), (4, 4, 4), min_tumour=0)
    result, box, header = preprocess_images(case, settings)
    assert (result.dtype, result.shape, result.flags.c_contiguous) == (np.float32, (4, 4, 4, 2), True)
    assert box == CropBox((2, 2, 1), (4, 4, 4), SHAPE)
    np.testing.assert_array_equal(header.get_best_affine(), AFFINE)
    for channel, modality in enumerate(settings.modalities):
        array = arrays[modality].astype(np.float64)
        expected = ((array - array.min()) / (array.max() - array.min()))[2:6, 2:6, 1:5]
        np.testing.assert_allclose(result[..., channel], expected, rtol=0, atol=1e-7)


def test_minmax_spans_zero_to_one_exactly_and_pads_with_its_minimum(tmp_path):
    array = image(1) + np.int16(500)  # background is 500
    case, _ = make_case(tmp_path, {"t2f": array})
    result, box, _ = preprocess_images(case, Preprocessing(("t2f",), (12, 8, 5)))
    assert box.origin == (-2, 0, 1)
    assert (result.min(), result.max()) == (0, 1)
    assert not result[:1].any()
    assert not result[11:].any()
    assert result[1:10].any(axis=(0, 3)).sum() == 6 * 5


def test_large_numbers_keep_their_differences(tmp_path):
    array = image(1).astype(np.int32) + 1_000_000_000
    case, _ = make_case(tmp_path, {"t2f": array})
    result, _, _ = preprocess_images(case, Preprocessing(("t2f",), (4, 4, 4)))
    expected = (array - array.min()) / np.ptp(array)
    np.testing.assert_allclose(result[..., 0], expected[2:6, 2:6, 1:5], rtol=0, atol=1e-7)


def test_zscore_is_of_the_voxels_that_are_not_zero(tmp_path):
    arrays = {"t2f": image(2)}
    arrays["t2f"][4, 4, 4] = 0
    case, _ = make_case(tmp_path, arrays)
    result, box, _ = preprocess_images(case, Preprocessing(("t2f",), (10, 10, 10), "zscore"))
    array = arrays["t2f"].astype(np.float64)
    brain = array != 0
    expected = np.where(brain, (array - array[brain].mean()) / array[brain].std(), 0)
    np.testing.assert_allclose(paste(result[..., 0], box), expected, rtol=0, atol=1e-6)
    assert result[..., 0][~crop(brain, box)].max() == 0
    inside = result[..., 0][crop(brain, box)]
    assert abs(inside.mean()) < 1e-6
    assert abs(inside.std() - 1) < 1e-6


def test_zscore_of_one_value_is_refused(tmp_path):
    case, _ = make_case(tmp_path, {"t2f": (image(1) > 0).astype(np.int16)})
    with pytest.raises(InputError, match="every voxel that is not zero has the value 1"):
        preprocess_images(case, Preprocessing(("t2f",), (4, 4, 4), "zscore"))


def test_channels_of_a_4d_file_are_as_from_files_of_their_own(tmp_path):
    case, arrays = make_case(tmp_path / "single")
    order = ("t2f", "t1n", "t1c", "t2w")
    save(tmp_path / "all.nii.gz", np.stack([arrays[name] for name in order], axis=-1))
    volumes = {name: VolumeFile(tmp_path / "all.nii.gz", channel) for channel, name in enumerate(order)}
    stacked = Case("c", "c", volumes, case.labels, BRATS_2023)
    settings = Preprocessing(("t2w", "t2f", "t1c"), (4, 4, 4))
    one, four = preprocess_images(case, settings), preprocess_images(stacked, settings)
    np.testing.assert_array_equal(one[0], four[0])
    assert one[1] == four[1]


def test_the_record_of_a_kept_case(tmp_path):
    case, arrays = make_case(tmp_path)
    result, mask, record = preprocess_case(case, SMALL)
    np.testing.assert_array_equal(mask, labels()[2:6, 2:6, 1:5])
    np.testing.assert_array_equal(result, preprocess_images(case, SMALL)[0])
    counts = np.bincount(mask.ravel(), minlength=4).tolist()
    outside = [np.count_nonzero(labels() == label) - counts[label] for label in (1, 2, 3)]
    assert json.loads(json.dumps(record)) == {
        "status": "kept",
        "reason": "",
        "shape": [9, 8, 7],
        "affine": AFFINE.tolist(),
        "zooms": [1, 1, 2],
        "file": {"shape": [9, 8, 7], "affine": AFFINE.tolist(), "orientation": "LPS", "spacing_mm": [1, 1, 2]},
        "crop_origin": [2, 2, 1],
        "tumour_fraction": sum(counts[1:]) / 64,
        "label_voxels": counts,
        "label_voxels_outside": [0, *outside],
        "normalization": {name: {"min": 0, "max": int(arrays[name].max())} for name in ("t2f", "t1c", "t2w")},
    }


@pytest.mark.parametrize(("least", "status"), [(0.0625, "kept"), (0.0626, "skipped")])
def test_tumour_is_counted_in_the_crop(tmp_path, least, status):
    segmentation = np.zeros(SHAPE, np.uint8)
    segmentation[0] = 2  # outside the crop
    segmentation[3, 3, 1:5] = 3  # 4 of 64 voxels
    case, _ = make_case(tmp_path, segmentation=segmentation)
    result, mask, record = preprocess_case(case, Preprocessing(crop=(4, 4, 4), min_tumour=least))
    assert record["status"] == status
    assert (result is None, mask is None) == (status == "skipped",) * 2
    assert record["tumour_fraction"] == 0.0625
    assert record["label_voxels"] == [60, 0, 0, 4]
    assert record["label_voxels_outside"] == [0, 0, 8 * 7, 0]
    assert (record["reason"] == "6.250% tumour voxels in the crop, expected at least 6.260%") == (status == "skipped")


def test_a_case_without_segmentation_is_skipped(tmp_path):
    case, _ = make_case(tmp_path)
    (tmp_path / "c-seg.nii.gz").unlink()
    (case,) = find_cases(tmp_path).cases
    assert preprocess_case(case, SMALL) == (None, None, {"status": "skipped", "reason": "no segmentation"})


@pytest.mark.parametrize("modality", ["t2f", "t2w"])
def test_other_geometry_is_refused(tmp_path, modality):
    case, _ = make_case(tmp_path)
    save(tmp_path / f"c-{modality}.nii.gz", image(0, shape=(9, 8, 8)))
    with pytest.raises(
        InputError, match=rf"case c: .*c-{modality}.nii.gz: has 9x8x8 voxels, but .*c-seg.nii.gz has 9x8x7"
    ):
        preprocess_case(case, SMALL)
    with pytest.raises(InputError, match="9x8x8"):
        preprocess_images(case, SMALL)
    save(tmp_path / f"c-{modality}.nii.gz", image(0), affine=AFFINE + np.eye(4) * 0.01)
    with pytest.raises(InputError, match="has the affine"):
        preprocess_images(case, SMALL)


def test_a_missing_modality_is_named(tmp_path):
    case, _ = make_case(tmp_path, {"t2f": image(0)})
    with pytest.raises(InputError, match=r"case c: .*: expected t2f, t1c, t2w, found no t1c and no t2w"):
        preprocess_images(case, SMALL)


def test_settings_survive_json():
    settings = Preprocessing(("t1n", "t2f"), (96, 64, 32), "zscore", 0.5, (1, 1, 2.5))
    assert Preprocessing.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert Preprocessing(["t1n"], np.array([4, 5, 6]), min_tumour=0) == Preprocessing(
        ("t1n",), (4, 5, 6), min_tumour=0.0
    )


@pytest.mark.parametrize(
    "bad",
    [
        {"modalities": ()},
        {"modalities": ("t1c", "t1c")},
        {"modalities": ("t1",)},
        {"crop": (128, 128)},
        {"crop": (128, 128, 0)},
        {"crop": (128, 128, 64.5)},
        {"crop": 128},
        {"normalization": "none"},
        {"min_tumour": -0.1},
        {"min_tumour": float("nan")},
        {"min_tumour": "1%"},
        {"spacing": (1, 1)},
        {"spacing": (1, 1, 0)},
        {"spacing": (1, 1, float("inf"))},
        {"spacing": "thick"},
    ],
)
def test_settings_are_checked(bad):
    (name,) = bad
    with pytest.raises(InputError, match=f"{name}: expected"):
        Preprocessing(**bad)
    with pytest.raises(InputError):
        Preprocessing.from_dict(Preprocessing().to_dict() | bad)


@pytest.mark.parametrize("bad", [None, {}, {"crop": [1, 2, 3]}, Preprocessing().to_dict() | {"flip": True}])
def test_settings_with_other_keys_are_refused(bad):
    with pytest.raises(InputError, match="expected preprocessing settings with the keys crop"):
        Preprocessing.from_dict(bad)


@pytest.mark.parametrize(
    ("region", "volume", "least", "origin", "size"),
    [
        ((10, 20), 40, 6, 10, 10),  # large enough
        ((10, 20), 40, 16, 7, 16),  # grows about its middle
        ((0, 10), 40, 16, 0, 16),  # moved back from the one end
        ((32, 40), 40, 16, 24, 16),  # and from the other
        ((3, 12), 12, 16, -2, 16),  # about the centre of a volume that is too small
    ],
)
def test_a_box_grows_to_what_is_needed(region, volume, least, origin, size):
    box = CropBox.about((slice(*region),) * 3, (volume,) * 3, (least,) * 3)
    assert box == CropBox((origin,) * 3, (size,) * 3, (volume,) * 3)


def test_turned_and_cut_by_choice(tmp_path):
    case, arrays = make_case(tmp_path)
    seen = []

    def choose(volumes):
        seen.extend(volumes)
        return CropBox((1, 2, 3), (4, 3, 2), volumes[0].data.shape)

    result, box, header = preprocess_images(case, SMALL, "RAS", choose)
    # The files are LPS, so the first two axes are reversed; the header stays that of the file.
    np.testing.assert_array_equal(header.get_best_affine(), AFFINE)
    assert box.origin == (1, 2, 3)
    assert [nib.aff2axcodes(volume.affine) for volume in seen] == [("R", "A", "S")] * 3
    for channel, modality in enumerate(SMALL.modalities):
        array = arrays[modality][::-1, ::-1]
        np.testing.assert_array_equal(seen[channel].data, array)
        expected = array[1:5, 2:5, 3:5] / array.max()
        np.testing.assert_allclose(result[..., channel], expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("orientation", [None, "RAS"])
def test_an_affine_without_axes_is_refused(tmp_path, orientation):
    case, _ = make_case(tmp_path)
    flat = np.diag([-1.0, -1.0, 0.0, 1.0])
    made = nib.Nifti1Image(image(0), None)
    made.header.set_sform(flat, 1)
    nib.save(nib.Nifti1Image(image(0), None, made.header), tmp_path / "c-t2f.nii.gz")
    with pytest.raises(InputError, match=r"case c: .*c-t2f.nii.gz: expected an affine with three independent axes"):
        preprocess_images(case, SMALL, orientation)


def test_a_brain_of_one_value_is_refused_whatever_the_rounding_of_its_mean(tmp_path):
    # The mean of these differs from each of them in the last bit, and the deviation from 0.
    constant = np.zeros(SHAPE)
    constant[1:8, 1:7, 1:6] = 0.3
    assert constant[constant != 0].std() > 0
    case, _ = make_case(tmp_path, dict.fromkeys(("t1n", "t1c", "t2w", "t2f"), constant))
    assert preprocess_images(case, SMALL)[0].max() == 1
    with pytest.raises(InputError, match=r"every voxel that is not zero has the value 0.3"):
        preprocess_images(case, dataclasses.replace(SMALL, normalization="zscore"))


def brains():
    """Two heads of different extent, whose brains together are voxels 1-6, 2-5, 1-4 of 9 x 8 x 7."""
    arrays = {name: np.zeros(SHAPE, np.int16) for name in ("t2f", "t1c", "t2w")}
    arrays["t2f"][1:5, 2:6, 1:4] = np.arange(1, 49).reshape(4, 4, 3)
    arrays["t1c"][2:7, 2:5, 2:5] = np.arange(1, 46).reshape(5, 3, 3)
    arrays["t2w"][3:5, 3:5, 2:4] = np.arange(1, 9).reshape(2, 2, 2)
    return arrays


def test_the_box_of_the_brain_is_that_of_all_modalities(tmp_path):
    case, arrays = make_case(tmp_path, brains())
    settings = Preprocessing(crop="brain", normalization="zscore", min_tumour=0)
    image, cut, record = preprocess_case(case, settings)
    box = (slice(1, 7), slice(2, 6), slice(1, 5))
    assert record["crop_origin"] == [1, 2, 1] and record["status"] == "kept"
    np.testing.assert_array_equal(cut, labels()[box])
    for channel, modality in enumerate(settings.modalities):
        array = arrays[modality].astype(float)
        inside = array[array != 0]
        expected = np.where(array != 0, (array - inside.mean()) / inside.std(), 0)[box]
        np.testing.assert_allclose(image[..., channel], expected, rtol=1e-5, atol=1e-6)
    everywhere = np.bincount(labels().ravel(), minlength=4)
    assert np.add(record["label_voxels"], record["label_voxels_outside"])[1:].tolist() == everywhere[1:].tolist()
    # Prediction and training take the same box.
    again, where, _ = preprocess_images(case, settings)
    np.testing.assert_array_equal(again, image)
    assert where == CropBox((1, 2, 1), (6, 4, 4), SHAPE)
    _, _, record = preprocess_case(case, dataclasses.replace(settings, min_tumour=0.99))
    assert record["status"] == "skipped" and "tumour voxels in the crop" in record["reason"]


def test_the_box_of_the_brain_in_another_frame(tmp_path):
    case, _ = make_case(tmp_path, brains())
    settings = Preprocessing(("t2f", "t1c"), "brain", "zscore", 0)
    own, _, _ = preprocess_case(case, settings)
    turned, _, record = preprocess_case(case, settings, Frame("RAS", (1.0, 1.0, 2.0)))
    np.testing.assert_array_equal(turned, own[::-1, ::-1])
    assert record["crop_origin"] == [9 - 7, 8 - 6, 1]
    halved, cut, record = preprocess_case(case, settings, Frame("LPS", (0.5, 0.5, 1.0)))
    assert halved.shape[:3] == cut.shape == (12, 8, 8) and record["crop_origin"] == [2, 4, 2]
    # Where voxels grow, the box is that of all which hold some of the brain: 1-6 of 9 lies in 0-4 of 4.5, so 0-3 of 4.
    coarse, _, record = preprocess_case(case, settings, Frame("LPS", (2.0, 2.0, 2.0)))
    assert coarse.shape[:3] == (4, 2, 4) and record["crop_origin"] == [0, 1, 1]


def test_an_image_without_background_is_all_brain(tmp_path):
    case, _ = make_case(tmp_path, {"t2f": np.arange(1, 505, dtype=np.int16).reshape(SHAPE)})
    image, _, record = preprocess_case(case, Preprocessing(("t2f",), "brain", "minmax", 0))
    assert image.shape == (*SHAPE, 1) and record["crop_origin"] == [0, 0, 0]
