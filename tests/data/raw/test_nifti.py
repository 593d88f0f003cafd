import gzip

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxbrats.data.labels import BRATS_2021, BRATS_2023, DECATHLON
from jaxbrats.data.raw import nifti
from jaxbrats.data.raw.cases import VolumeFile
from jaxbrats.system.errors import InputError

AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1.5, 0, 239], [0, 0, 2, -7], [0, 0, 0, 1]])
SHAPE = (5, 6, 7)


def voxels(dtype=np.int16, shape=SHAPE):
    return np.random.default_rng(0).integers(0, 100, shape).astype(dtype)


def save(path, array, image=nib.Nifti1Image):
    nib.save(image(array, AFFINE, dtype=array.dtype), path)
    return VolumeFile(path)


def read(file):
    (volume,) = nifti.read_channels(file.path, (file.channel,), "case")
    return volume


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("image", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", ">i2", "u2", "i4", ">f4", "f8", "i8"])
def test_reads_what_nibabel_reads(tmp_path, name, image, dtype):
    array = voxels(dtype)
    file = save(tmp_path / name, array, image)
    volume = read(file)
    assert volume.data.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(volume.data, nib.load(file.path).get_fdata())
    np.testing.assert_array_equal(volume.affine, AFFINE)
    assert (volume.minimum, volume.maximum) == (array.min(), array.max())


@pytest.mark.parametrize(
    ("labels", "convention", "hint"),
    [
        ((0, 1, 2, 4), BRATS_2023, "Write the enhancing tumour as 3, .* where 4 is the resection cavity of BraTS 2024"),
        ((0, 1, 2, 3, 4), BRATS_2023, "4 is the resection cavity of BraTS 2024, .* leave the case out"),
        ((0, 1, 2, 3), BRATS_2021, "Write the enhancing tumour as 4"),
        ((0, 1, 7), BRATS_2023, "Is this the segmentation"),
    ],
)
def test_labels_of_another_convention_are_told(tmp_path, labels, convention, hint):
    file = save(tmp_path / "a.nii", np.resize(np.array(labels, np.uint8), SHAPE))
    with pytest.raises(InputError, match=f"found {', '.join(map(str, labels))}. {hint}"):
        nifti.read_labels(file, "case", convention)


def test_the_header_scales(tmp_path):
    path = tmp_path / "a.nii.gz"
    made = nib.Nifti1Image(voxels(), AFFINE)
    made.header.set_slope_inter(0.25, -3)
    made.to_filename(path)
    volume = read(VolumeFile(path))
    assert volume.data.dtype == np.float32
    np.testing.assert_allclose(volume.data, nib.load(path).get_fdata(), rtol=0, atol=1e-5)


def test_one_channel_of_a_4d_file_and_several_in_one_reading(tmp_path):
    array = voxels(shape=(*SHAPE, 4))
    for name in ("a.nii", "a.nii.gz"):
        file = save(tmp_path / name, array)
        one = read(VolumeFile(file.path, 2)).data
        np.testing.assert_array_equal(one, array[..., 2])
        several = [volume.data for volume in nifti.read_channels(file.path, (0, 1, 3), "case")]
        np.testing.assert_array_equal(several, np.moveaxis(array, -1, 0)[[0, 1, 3]])
        with pytest.raises(InputError, match="expected a 3-D volume, found 4-D with 4 volumes"):
            read(file)
        with pytest.raises(InputError, match="expected at least 5 channels, found 4"):
            read(VolumeFile(file.path, 4))


def test_4d_with_one_volume_is_3d(tmp_path):
    array = voxels(shape=(*SHAPE, 1))
    np.testing.assert_array_equal(read(save(tmp_path / "a.nii.gz", array)).data, array[..., 0])


def test_compression_is_told_by_content_and_extensions_are_skipped(tmp_path):
    image = nib.Nifti1Image(voxels(), AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 1000))
    image.to_filename(tmp_path / "a.nii")
    (tmp_path / "b.nii").write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes()))
    (tmp_path / "c.nii.gz").write_bytes((tmp_path / "a.nii").read_bytes())
    for name in ("a.nii", "b.nii", "c.nii.gz"):
        np.testing.assert_array_equal(read(VolumeFile(tmp_path / name)).data, voxels())


def test_what_does_not_fit_in_memory_is_refused(tmp_path, monkeypatch):
    file = save(tmp_path / "a.nii.gz", voxels())
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PAGE_SIZE": 4, "SC_PHYS_PAGES": 100}[name])
    with pytest.raises(InputError, match="5x6x7 voxels do not fit"):
        read(file)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "pointer.nii.gz").write_text("version https://git-lfs.github.com/spec/v1\n" * 20)
    with pytest.raises(InputError, match="is not a NIfTI file: it begins with b'vers'"):
        read(VolumeFile(tmp_path / "pointer.nii.gz"))
    with pytest.raises(InputError, match="cannot be read"):
        read(VolumeFile(tmp_path / "none.nii.gz"))
    with pytest.raises(InputError, match="expected a file"):
        read(VolumeFile(tmp_path))
    nib.save(nib.Nifti1Pair(voxels(), AFFINE), tmp_path / "pair.img")
    with pytest.raises(InputError, match="half of a"):
        read(VolumeFile(tmp_path / "pair.hdr"))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_damage_of_the_header_gives_a_volume_or_an_input_error(tmp_path, changes):
    content = bytearray(nib.Nifti1Image(voxels(), AFFINE).to_bytes())
    for position, value in changes:
        content[position] = value
    path = tmp_path / "a.nii"
    path.write_bytes(content)
    try:
        data = read(VolumeFile(path)).data
    except InputError:
        return
    assert data.ndim == 3
    assert np.isfinite(data).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize(
    ("label_map", "stored", "expected"),
    [
        (BRATS_2023, [0, 1, 2, 3], [0, 1, 2, 3]),
        (BRATS_2021, [0, 1, 2, 4], [0, 1, 2, 3]),
        (DECATHLON, [0, 1, 2, 3], [0, 2, 1, 3]),
        ({0: 0, 1: 2, 2: 3, 3: 1}, [0, 1, 2, 3], [0, 2, 3, 1]),
    ],
)
def test_labels_are_mapped(tmp_path, dtype, label_map, stored, expected):
    index = np.random.default_rng(1).integers(0, 4, SHAPE)
    file = save(tmp_path / "seg.nii.gz", np.array(stored, dtype)[index])
    labels, affine = nifti.read_labels(file, "case", label_map)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, np.array(expected)[index])
    np.testing.assert_array_equal(affine, AFFINE)


def test_geometry_tells_both_files_and_both_values(tmp_path):
    first = nifti.Grid(tmp_path / "a.nii", (240, 240, 155), AFFINE)
    nifti.check_geometry("case", first, nifti.Grid(tmp_path / "b.nii", (240, 240, 155), AFFINE + 9e-4))
    with pytest.raises(InputError) as caught:
        nifti.check_geometry("case", first, nifti.Grid(tmp_path / "b.nii", (240, 240, 154), AFFINE))
    expected = f"{tmp_path}/b.nii: has 240x240x154 voxels, but {tmp_path}/a.nii has 240x240x155"
    assert expected in str(caught.value)
    moved = AFFINE.copy()
    moved[1, 3] += 2e-3
    with pytest.raises(InputError) as caught:
        nifti.check_geometry("case", first, nifti.Grid(tmp_path / "b.nii", (240, 240, 155), moved))
    assert "0 -1.5 0 239.002" in str(caught.value)
    assert "0 -1.5 0 239;" in str(caught.value)


@pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(("convention", "enhancing"), [("2023", 3), ("2021", 4)])
def test_written_labels_keep_the_geometry_of_the_input(tmp_path, image_class, convention, enhancing):
    image = image_class(voxels(), AFFINE)
    # A qform that differs from the sform, codes and units of their own, and settings that spoke of the image's values.
    image.set_sform(AFFINE, code=4)
    image.set_qform(AFFINE + np.diag([0, 0, 0.5, 0]), code=1)
    image.header.set_xyzt_units("micron", "msec")
    image.header.set_slope_inter(2, 5)
    image.header.set_intent("t test", (3,), name="t")
    image.header["cal_max"] = 1000
    image.to_filename(tmp_path / "in.nii.gz")
    like = read(VolumeFile(tmp_path / "in.nii.gz")).header
    before = like.binaryblock
    labels = np.random.default_rng(2).integers(0, 4, SHAPE)
    path = tmp_path / "new" / "out.nii.gz"
    nifti.write_labels(path, labels, like, convention)
    out = nib.load(path)
    assert type(out) is image_class
    assert out.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asanyarray(out.dataobj), np.where(labels == 3, enhancing, labels))
    for form in ("get_sform", "get_qform"):
        (matrix, code), (expected_matrix, expected_code) = (getattr(x, form)(coded=True) for x in (out.header, like))
        np.testing.assert_array_equal(matrix, expected_matrix)
        assert code == expected_code
    assert out.header.get_zooms() == like.get_zooms()
    assert out.header.get_xyzt_units() == ("micron", "msec")
    assert out.header.get_intent() == ("none", (), "")
    assert out.header["cal_max"] == 0
    assert out.header.get_slope_inter() in ((None, None), (1, 0))
    assert like.binaryblock == before
    assert [file.name for file in path.parent.iterdir()] == ["out.nii.gz"]
    back, _ = nifti.read_labels(VolumeFile(path), "case", BRATS_2023 if convention == "2023" else BRATS_2021)
    np.testing.assert_array_equal(back, labels)


def test_labels_are_written_for_one_channel_of_a_4d_input(tmp_path):
    like = read(VolumeFile(save(tmp_path / "in.nii.gz", voxels(shape=(*SHAPE, 4))).path, 1)).header
    nifti.write_labels(tmp_path / "out.nii", np.zeros(SHAPE, int), like)
    assert nib.load(tmp_path / "out.nii").shape == SHAPE


def test_only_labels_of_the_grid_are_written(tmp_path):
    like = nib.Nifti1Image(voxels(), AFFINE).header
    with pytest.raises(ValueError, match="shape"):
        nifti.write_labels(tmp_path / "out.nii", np.zeros((5, 6, 8), int), like)
    with pytest.raises(ValueError, match="0 to 4"):
        nifti.write_labels(tmp_path / "out.nii", np.arange(210).reshape(SHAPE) % 5, like)
    assert list(tmp_path.iterdir()) == []
