import dataclasses
import errno
import functools

import nibabel as nib
import numpy as np
import pytest
from nifti_files import voxels
from scipy import ndimage

from jaxbrats.config.inference import Postprocessing
from jaxbrats.data.boxes import CropBox, crop, paste
from jaxbrats.data.labels import BACKGROUND, ED, ET, NCR
from jaxbrats.data.names import LONGEST_CASE_NAME
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.data.raw.cases import find_cases
from jaxbrats.data.raw.geometry import Frame
from jaxbrats.inference import network as trained
from jaxbrats.inference import patient as module
from jaxbrats.inference import predict as prediction
from jaxbrats.inference.predict import predict_cases
from jaxbrats.inference.sliding_window import predict_probabilities
from jaxbrats.model.heads import LABELS
from jaxbrats.system.errors import InputError

LPS = np.array([[-1.0, 0, 0, 90], [0, -1.0, 0, 126], [0, 0, 1, -72], [0, 0, 0, 1]])
SETTINGS = Preprocessing(("t2f", "t1c"), (8, 8, 8))
FRAME = Frame("LPS", (1.0, 1.0, 1.0))
SHAPE = (24, 20, 18)


def head(shape=SHAPE, scale=1.0):
    """Two modalities of a smooth head, brightest in a tumour off its middle; zeros around it."""
    place = np.stack(np.meshgrid(*[(np.arange(size) + 0.5) * scale for size in shape], indexing="ij"), axis=-1)
    brain = np.linalg.norm((place - (12, 10, 9)) / (10, 8, 7), axis=-1) < 1
    distance = np.linalg.norm(place - (8, 8, 10), axis=-1)
    t2f = 300 + 700 * np.exp(-((distance / 5) ** 2))
    t1c = 200 + 800 * np.exp(-(((distance - 2.5) / 1.5) ** 2))
    return {"t2f": np.where(brain, t2f, 0).astype(np.int16), "t1c": np.where(brain, t1c, 0).astype(np.int16)}


def write_case(folder, arrays, affine=LPS, name="case", change=lambda header: None, image=nib.Nifti1Image):
    for modality, array in arrays.items():
        made = image(array, affine, dtype=array.dtype)
        change(made.header)
        (folder / name).mkdir(parents=True, exist_ok=True)
        nib.save(made, folder / name / f"{name}-{modality}.nii.gz")
    return folder


def by_brightness(images):
    """Of each voxel alone: the label whose T2f and T1c are nearest."""
    places = np.array([(0.2, 0.15), (1, 0.25), (0.6, 0.25), (0.8, 0.9)])
    logits = -30 * np.square(images[..., None, :] - places).sum(-1)
    exponential = np.exp(logits)
    return exponential / exponential.sum(-1, keepdims=True)


class Network:
    """Counts what it is shown."""

    def __init__(self):
        self.shapes = []

    def __call__(self, image):
        self.shapes.append(image.shape)
        return by_brightness(image).astype(np.float32)


# What is told of a network beside what it predicts.
TRAINED = trained.Network(None, 0, SETTINGS, None, None, SETTINGS.crop, FRAME)


def run(raw, out, predict=by_brightness, mode="window", maps=(), **changes):
    network = dataclasses.replace(TRAINED, **changes)
    return list(predict_cases(find_cases(raw).cases, predict, network, out, mode=mode, maps=maps))


def normalised(arrays):
    return np.stack([arrays[name] / np.float64(arrays[name].max()) for name in SETTINGS.modalities], axis=-1)


def test_the_brain_is_segmented_and_nothing_else(tmp_path):
    arrays = head()
    write_case(tmp_path / "raw", arrays)
    network = Network()
    (result,) = run(tmp_path / "raw", tmp_path / "out", network)
    expected = np.argmax(by_brightness(normalised(arrays)), axis=-1)
    np.testing.assert_array_equal(voxels(result.path), expected)
    assert set(np.unique(expected)) == {0, NCR, ED, ET}
    brain = [np.ptp(index) + 1 for index in np.nonzero(arrays["t2f"])]
    assert network.shapes == [(*brain, 2)]
    assert result.labels.shape == result.patient.image.shape[:3] == tuple(brain)
    corner = [index.min() for index in np.nonzero(arrays["t2f"])]
    np.testing.assert_allclose(result.patient.affine[:3, 3], nib.affines.apply_affine(LPS, corner))


def test_a_small_head_is_given_a_whole_window(tmp_path):
    arrays = {name: np.zeros((12, 7, 20), np.int16) for name in SETTINGS.modalities}
    for array in arrays.values():
        array[0:3, 2:5, 9:11] = np.arange(18).reshape(3, 3, 2) + 1
    write_case(tmp_path / "raw", arrays)
    network = Network()
    (result,) = run(tmp_path / "raw", tmp_path / "out", network)
    assert network.shapes == [(8, 8, 8, 2)]
    np.testing.assert_array_equal(voxels(result.path), np.argmax(by_brightness(normalised(arrays)), axis=-1))


def test_the_crop_is_that_of_training(tmp_path):
    arrays = head()
    write_case(tmp_path / "raw", arrays)
    network = Network()
    (result,) = run(tmp_path / "raw", tmp_path / "out", network, mode="crop")
    assert network.shapes == [(8, 8, 8, 2)]
    box = CropBox.about_centre(SHAPE, (8, 8, 8))
    expected = np.argmax(by_brightness(crop(normalised(arrays), box)), axis=-1)
    np.testing.assert_array_equal(voxels(result.path), paste(expected, box))


def in_space(path):
    """The labels of a file in the order of `LPS`, whatever order it has."""
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(nib.load(path).affine), nib.orientations.axcodes2ornt("LPS")
    )
    return nib.orientations.apply_orientation(voxels(path), turn)


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "SAL", "PIR"])
@pytest.mark.parametrize("mode", ["window", "crop"])
def test_a_patient_stored_otherwise_is_segmented_alike(tmp_path, orientation, mode):
    arrays = {name: array[:23, :19] for name, array in head().items()}  # odd sizes have no voxel at the centre
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(LPS), nib.orientations.axcodes2ornt(orientation)
    )
    turned = {name: nib.orientations.apply_orientation(array, turn) for name, array in arrays.items()}
    affine = LPS @ nib.orientations.inv_ornt_aff(turn, (23, 19, 18))
    write_case(tmp_path / "lps", arrays)
    write_case(tmp_path / "turned", turned, affine)
    # Not pointwise: what a voxel gets depends on its place in the window.
    shift = np.linspace(0, 0.2, 8)[:, None, None, None] + np.linspace(0, 0.1, 8)[:, None, None]
    network = functools.partial(
        predict_probabilities, lambda windows: by_brightness(windows + shift), window=SETTINGS.crop, on_device=False
    )
    (first,) = run(tmp_path / "lps", tmp_path / "a", network, mode=mode)
    (second,) = run(tmp_path / "turned", tmp_path / "b", network, mode=mode)
    written = nib.load(second.path)
    assert "".join(nib.aff2axcodes(written.affine)) == orientation
    np.testing.assert_allclose(written.affine, affine)
    np.testing.assert_array_equal(in_space(second.path), voxels(first.path))
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_allclose(first.patient.affine, second.patient.affine)


def test_without_a_frame_files_are_taken_as_they_are(tmp_path):
    arrays = head()
    write_case(tmp_path / "raw", arrays, np.diag([2.0, 2, 2, 1]))
    network = Network()
    (result,) = run(tmp_path / "raw", tmp_path / "out", network, frame=None)
    np.testing.assert_array_equal(voxels(result.path), np.argmax(by_brightness(normalised(arrays)), axis=-1))


@pytest.mark.parametrize("dtype", ["u1", "i2", ">i2", "u2", "i4", "f4", "f8"])
def test_the_file_s_number_type_does_not_matter(tmp_path, dtype):
    arrays = {name: (array // 5).astype(dtype) for name, array in head().items()}
    write_case(tmp_path / "raw", arrays)
    (result,) = run(tmp_path / "raw", tmp_path / "out")
    assert nib.load(result.path).get_data_dtype() == np.uint8
    np.testing.assert_array_equal(voxels(result.path), np.argmax(by_brightness(normalised(arrays)), axis=-1))


@pytest.mark.parametrize("image", [nib.Nifti1Image, nib.Nifti2Image])
def test_the_header_s_geometry_is_kept(tmp_path, image):
    turn = np.deg2rad(10)
    oblique = np.eye(4)
    oblique[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]

    def change(header):
        header.set_qform(oblique @ LPS, 1)
        header.set_sform(LPS, 4)
        header.set_xyzt_units("micron", "sec")
        header.set_slope_inter(2, 0)
        header["descrip"] = b"a scan"

    write_case(tmp_path / "raw", head(), change=change, image=image)
    (result,) = run(tmp_path / "raw", tmp_path / "out", maps=("probabilities", "entropy"))
    source = nib.load(tmp_path / "raw" / "case" / "case-t2f.nii.gz").header
    for path in (tmp_path / "out").glob("*.nii.gz"):
        header = nib.load(path).header
        assert type(header) is type(source)
        np.testing.assert_array_equal(header.get_sform(), source.get_sform())
        np.testing.assert_array_equal(header.get_qform(), source.get_qform())
        for field in ("sform_code", "qform_code", "xyzt_units"):
            assert header[field] == source[field]
        assert header.get_zooms()[:3] == source.get_zooms()
        assert header.get_slope_inter() in [(None, None), (1, 0)]
    assert result.path.name == "case.nii.gz"


def test_other_voxel_sizes_are_resampled_and_the_result_is_brought_back(tmp_path):
    """The same head at 1 mm and at half that: the network sees the same, the file gets its own voxels."""
    fine = head((48, 40, 36), 0.5)
    small = LPS @ np.diag([0.5, 0.5, 0.5, 1])
    small[:3, 3] = nib.affines.apply_affine(LPS, (-0.25, -0.25, -0.25))
    write_case(tmp_path / "coarse", head())
    write_case(tmp_path / "fine", fine, small)
    coarse_network, fine_network = Network(), Network()
    (coarse,) = run(tmp_path / "coarse", tmp_path / "a", coarse_network)
    (result,) = run(tmp_path / "fine", tmp_path / "b", fine_network)
    np.testing.assert_allclose(fine_network.shapes[0][:3], coarse_network.shapes[0][:3], atol=1)
    labels = voxels(result.path)
    assert labels.shape == (48, 40, 36)
    np.testing.assert_array_equal(nib.load(result.path).affine, small)
    expected = ndimage.zoom(voxels(coarse.path), 2, order=0, grid_mode=True, mode="nearest")
    for label in (NCR, ED, ET):
        dice = 2 * np.count_nonzero((labels == label) & (expected == label))
        dice /= np.count_nonzero(labels == label) + np.count_nonzero(expected == label)
        assert dice > 0.8, label
    assert np.mean(labels == expected) > 0.97
    # As good as on the fine voxels themselves.
    direct = np.argmax(by_brightness(normalised(fine)), axis=-1)
    assert np.mean(labels == direct) > 0.98


def test_the_crop_of_other_voxels_covers_the_same_place(tmp_path):
    coarse = head((12, 10, 9), 2.0)
    write_case(tmp_path / "raw", coarse, LPS @ np.diag([2, 2, 2, 1]))
    network = Network()
    (result,) = run(tmp_path / "raw", tmp_path / "out", network, mode="crop")
    assert network.shapes == [(8, 8, 8, 2)]
    assert result.labels.shape == (4, 4, 4)
    assert not np.delete(voxels(result.path), slice(4, 8), axis=0).any()


def test_nearly_the_spacing_is_the_spacing(tmp_path):
    write_case(tmp_path / "raw", head(), LPS @ np.diag([1.001, 1, 0.9999, 1]))
    (result,) = run(tmp_path / "raw", tmp_path / "out")
    np.testing.assert_array_equal(voxels(result.path), np.argmax(by_brightness(normalised(head())), axis=-1))


def test_maps(tmp_path):
    arrays = head()
    turned = {name: array[::-1] for name, array in arrays.items()}
    affine = LPS @ np.diag([-1, 1, 1, 1])
    write_case(tmp_path / "raw", turned, affine)
    run(tmp_path / "raw", tmp_path / "out", maps=("probabilities", "entropy"))
    expected = by_brightness(normalised(turned))
    brain = np.zeros(SHAPE, bool)
    brain[tuple(slice(index.min(), index.max() + 1) for index in np.nonzero(turned["t2f"]))] = True
    written = nib.load(tmp_path / "out" / "case-probabilities.nii.gz")
    assert written.get_data_dtype() == np.float32
    assert written.shape == (*SHAPE, 4)
    np.testing.assert_allclose(np.asarray(written.dataobj)[brain], expected[brain], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(written.dataobj)[~brain], np.eye(4)[[BACKGROUND] * (~brain).sum()])
    uncertain = voxels(tmp_path / "out" / "case-entropy.nii.gz")
    np.testing.assert_allclose(uncertain[brain], -(expected * np.log(expected)).sum(-1)[brain], rtol=0, atol=1e-5)
    assert not uncertain[~brain].any()


def test_entropy_by_hand():
    probabilities = np.array([[1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0, 0]], np.float32)
    np.testing.assert_allclose(LABELS.entropy(probabilities), [0, np.log(4), np.log(2)], rtol=0, atol=1e-6)
    assert LABELS.entropy(probabilities).dtype == np.float32


def test_postprocessing_in_mm_of_the_file_s_own_voxels(tmp_path):
    write_case(tmp_path / "raw", head(), LPS @ np.diag([0.5, 0.5, 0.5, 1]))
    frame = Frame("LPS", (0.5, 0.5, 0.5))
    (plain,) = run(tmp_path / "raw", tmp_path / "a", frame=frame)
    enhancing = np.count_nonzero(voxels(plain.path) == ET) / 8
    assert enhancing > 1
    kept, gone = Postprocessing(enhancing_mm3=enhancing), Postprocessing(enhancing_mm3=enhancing + 0.01)
    (same,) = run(tmp_path / "raw", tmp_path / "b", frame=frame, postprocessing=kept)
    np.testing.assert_array_equal(voxels(same.path), voxels(plain.path))
    (none,) = run(tmp_path / "raw", tmp_path / "c", frame=frame, postprocessing=gone)
    np.testing.assert_array_equal(voxels(none.path), np.where(voxels(plain.path) == ET, NCR, voxels(plain.path)))


def test_one_case_s_trouble_is_its_own(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        write_case(tmp_path / "raw", head(), name=name)
    (tmp_path / "raw" / "b" / "b-t1c.nii.gz").write_bytes(b"\x1f\x8bnonsense")
    read = module.preprocess_images

    def short_of_memory(case, *rest):
        if case.name == "c":
            raise MemoryError
        return read(case, *rest)

    monkeypatch.setattr(module, "preprocess_images", short_of_memory)
    first, second, third = run(tmp_path / "raw", tmp_path / "out")
    assert first.path.exists()
    assert isinstance(second, InputError)
    assert "b-t1c.nii.gz" in str(second)
    assert str(third) == "case c: does not fit in memory. Use a machine with more"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.nii.gz"]


def test_labels_on_the_file_s_voxels_without_a_file(tmp_path):
    turned = {name: array[::-1] for name, array in head().items()}
    affine = LPS @ np.diag([-1, 1, 1, 1])
    write_case(tmp_path / "raw", turned, affine)
    (written,) = run(tmp_path / "raw", tmp_path / "out")
    (result,) = run(tmp_path / "raw", None)
    assert result.path is None
    np.testing.assert_array_equal(result.file_labels, voxels(written.path))
    np.testing.assert_array_equal(result.patient.header.get_best_affine(), affine)
    assert result.file_labels.any()
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "out"}


def test_a_constant_added_is_warned_of_with_what_it_means(tmp_path):
    write_case(tmp_path / "raw", head(), name="sound")
    write_case(tmp_path / "raw", {name: array + 100 for name, array in head().items()}, name="raised")
    raised, sound = run(tmp_path / "raw", tmp_path / "out")
    assert sound.patient.warnings == ()
    assert [warning.file.name for warning in raised.patient.warnings] == ["raised-t2f.nii.gz", "raised-t1c.nii.gz"]
    text = str(raised.patient.warnings[0])
    assert "case raised" in text and "100% of the voxels at its border are not 0 (their median is 100)" in text
    assert "do not trust this segmentation" in text


@pytest.mark.parametrize(
    ("function", "hint"),
    [
        ("postprocess", "Ask for no maps"),
        ("write_map", "Ask for no maps"),
        ("write_labels", "Ask for no maps"),
        ("predict", "Predict fewer windows at once (--batch)"),
    ],
)
def test_too_little_memory_anywhere_is_one_case_s(tmp_path, monkeypatch, function, hint):
    for name in ("a", "b", "c"):
        write_case(tmp_path / "raw", head(), name=name)
    calls = []

    def short(*arguments, **options):
        calls.append(arguments)
        # Of two maps a case the second of b.
        if len(calls) == (4 if function == "write_map" else 2):
            raise MemoryError
        return original(*arguments, **options)

    original = by_brightness if function == "predict" else getattr(prediction, function)
    if function != "predict":
        monkeypatch.setattr(prediction, function, short)
    predict, maps = short if function == "predict" else by_brightness, ("probabilities", "entropy")
    _, second, _ = run(tmp_path / "raw", tmp_path / "out", predict, maps=maps)
    assert str(second) == f"case b: does not fit in memory. {hint}, or use a machine with more"
    assert second.__traceback__ is None and second.__cause__ is None
    kinds = ("", "-entropy", "-probabilities")
    expected = {f"{case}{kind}.nii.gz" for case in ("a", "c") for kind in kinds}
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected


def test_the_longest_name_has_all_its_maps_and_a_longer_one_is_not_taken(tmp_path):
    arrays, (longest, longer) = head(), ("x" * LONGEST_CASE_NAME, "y" * (LONGEST_CASE_NAME + 1))
    (tmp_path / "raw").mkdir()
    for name in (longest, longer):
        for modality, array in arrays.items():
            nib.save(nib.Nifti1Image(array, LPS), tmp_path / "raw" / f"{name}-{modality}.nii.gz")
    cohort = find_cases(tmp_path / "raw")
    assert [case.name for case in cohort.cases] == [longest]
    assert f"has a name of {LONGEST_CASE_NAME + 1} bytes, at most {LONGEST_CASE_NAME}" in str(cohort.problems[0])
    (result,) = run(tmp_path / "raw", tmp_path / "out", maps=("probabilities", "entropy"))
    assert result.patient.case == longest
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(
        prediction.output_names(longest, prediction.MAPS)
    )


def test_a_name_too_long_for_a_file_system_is_one_case_s(tmp_path, monkeypatch):
    """Some, encrypted ones, take names of 143 bytes only."""
    write_labels = prediction.write_labels

    def refuse(path, *rest):
        if path.name.startswith("long"):
            raise OSError(errno.ENAMETOOLONG, "File name too long")
        write_labels(path, *rest)

    monkeypatch.setattr(prediction, "write_labels", refuse)
    (tmp_path / "raw").mkdir()
    for name in ("a", "long"):
        for modality, array in head().items():
            nib.save(nib.Nifti1Image(array, LPS), tmp_path / "raw" / f"{name}-{modality}.nii.gz")
    first, second = run(tmp_path / "raw", tmp_path / "out", maps=("probabilities", "entropy"))
    assert first.patient.case == "a"
    assert "its name is too long for the files to write" in str(second)
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(prediction.output_names("a", prediction.MAPS))


def test_a_full_disk_ends_it(tmp_path, monkeypatch):
    write_case(tmp_path / "raw", head())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prediction, "write_labels", full)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path / "raw", tmp_path / "out")


def test_probabilities_that_are_not_numbers_are_no_segmentation(tmp_path):
    write_case(tmp_path / "raw", head())
    (result,) = run(
        tmp_path / "raw", tmp_path / "out", lambda image: np.full((*image.shape[:3], 4), np.nan, np.float32)
    )
    assert "probabilities that are not numbers" in str(result)
    assert not (tmp_path / "out").exists()


def test_no_cases_are_no_segmentations(tmp_path):
    assert list(predict_cases([], by_brightness, TRAINED, tmp_path)) == []
