"""What identifies arrays, and reading them: every valid form, and every kind of damage."""

import dataclasses
import io
import os
import pathlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manifests import record_of

from jaxbrats.data.arrays import (
    ArrayCase,
    CaseContent,
    channels_present,
    identified,
    identify,
    read_image,
    read_labels,
)
from jaxbrats.data.manifest import checksum
from jaxbrats.data.npy import write_npy
from jaxbrats.system.errors import InputError

SHAPE = (3, 4, 5)
RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.random((*SHAPE, 2), np.float32)
LABELS = RANDOM.integers(0, 4, SHAPE, np.uint8)
ONE_HOT = np.eye(4, dtype=np.float32)[LABELS]


def save(path: pathlib.Path, array: np.ndarray, **arguments) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array, **arguments)
    return path


def a_case(folder: pathlib.Path, image=IMAGE, mask=LABELS) -> ArrayCase:
    """A case of two files, each given as an array or as bytes."""
    paths = folder / "image.npy", folder / "mask.npy"
    for path, content in zip(paths, (image, mask), strict=True):
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.save(path, content)
    return ArrayCase("BraTS-1", "BraTS-1", *paths)


def as_bytes(array: np.ndarray, version=None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=version)
    return file.getvalue()


class TestIdentity:
    """A file as preprocessing left it is taken at its word; any other is what it holds."""

    @pytest.fixture
    def case(self, tmp_path) -> ArrayCase:
        """With the record that preprocessing would have left."""
        case = a_case(tmp_path)
        stat = {
            part: {"size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns}
            for part, path in (("image", case.image), ("mask", case.mask))
        }
        sums = {"image": checksum(IMAGE), "mask": checksum(LABELS)}
        return dataclasses.replace(case, record=record_of("BraTS-1", checksum=sums, stat=stat))

    def test_content_of_arrays_without_a_manifest(self, tmp_path):
        case = identify(a_case(tmp_path))
        assert case.content == CaseContent("BraTS-1", "BraTS-1", checksum(IMAGE), checksum(LABELS))
        assert checksum(np.frombuffer(b"123456789", np.uint8)) == "crc32:cbf43926"  # the check value of CRC-32

    def test_the_order_of_the_axes_on_disk_is_no_content(self, tmp_path):
        case = a_case(tmp_path, np.asfortranarray(IMAGE), np.asfortranarray(LABELS))
        assert identify(case).content[2:] == (checksum(IMAGE), checksum(LABELS))

    def test_files_as_written_are_not_read(self, case):
        time = case.image.stat().st_mtime_ns
        case.image.write_bytes(bytes(case.image.stat().st_size))
        os.utime(case.image, ns=(time, time))
        assert identify(case).content.image == checksum(IMAGE)

    def test_touched_or_copied_files_are_read_and_are_the_same(self, case):
        for path in (case.image, case.mask):
            os.utime(path, ns=(5, 5))
        (same,) = identified([case])
        assert same.content[2:] == (checksum(IMAGE), checksum(LABELS))
        assert [identity.mtime_ns for identity in same.identity] == [5, 5]
        np.testing.assert_array_equal(read_image(same), IMAGE)

    @pytest.mark.parametrize("part", ["image", "mask"])
    def test_other_values_than_preprocessing_wrote_are_refused(self, case, part):
        array = (1 - IMAGE) if part == "image" else (3 - LABELS)
        path = save(getattr(case, part), array)
        with pytest.raises(InputError) as caught:
            identified([case])
        assert str(caught.value).startswith(f"case BraTS-1: {path}: holds other values than preprocessing wrote")
        assert f"checksum {checksum(array)}, expected {case.record['checksum'][part]}" in str(caught.value)

    @pytest.mark.parametrize(("part", "read"), [("image", read_image), ("mask", read_labels)])
    def test_reading_refuses_what_was_written_since(self, case, part, read):
        case = identify(case)
        read(case)
        path = getattr(case, part)
        os.utime(path, ns=(7, 7))
        with pytest.raises(InputError, match=rf"{part}.npy: was written by something else while it was in use"):
            read(case)
        path.unlink()
        with pytest.raises(InputError, match=rf"case BraTS-1: .*{part}.npy: cannot be read"):
            read(case)


class TestReading:
    @pytest.mark.parametrize(
        "image",
        [
            IMAGE,
            np.asfortranarray(IMAGE),
            IMAGE.astype(">f4"),
            IMAGE.astype(np.float64),
            np.asfortranarray(IMAGE.astype(">f8")),
            as_bytes(IMAGE, version=(2, 0)),
        ],
        ids=["plain", "fortran", "big-endian", "double", "fortran big-endian double", "format 2.0"],
    )
    def test_image_in_any_valid_form(self, tmp_path, image):
        case = a_case(tmp_path, image=image)
        new = read_image(case)
        assert new.dtype == np.float32
        assert new.flags.c_contiguous
        np.testing.assert_array_equal(new, IMAGE)
        batch = np.full((2, *IMAGE.shape), -1, np.float32)
        read_image(case, batch[1])
        np.testing.assert_array_equal(batch[1], IMAGE)
        np.testing.assert_array_equal(batch[0], -1)

    def test_half_precision_is_widened(self, tmp_path):
        half = IMAGE.astype(np.float16)
        np.testing.assert_array_equal(read_image(a_case(tmp_path, image=half)), half.astype(np.float32))

    @pytest.mark.parametrize(
        "mask",
        [
            LABELS,
            np.asfortranarray(LABELS),
            LABELS.astype(np.float64),
            LABELS.astype(">i2"),
            ONE_HOT,
            ONE_HOT.astype(bool),
            np.asfortranarray(ONE_HOT.astype(np.uint8)),
            ONE_HOT.astype(">f8"),
        ],
    )
    def test_labels_in_any_valid_form(self, tmp_path, mask):
        case = a_case(tmp_path, mask=mask)
        new = read_labels(case)
        assert new.dtype == np.uint8
        assert new.flags.c_contiguous
        np.testing.assert_array_equal(new, LABELS)
        batch = np.full((2, *SHAPE), 9, np.uint8)
        read_labels(case, batch[0])
        np.testing.assert_array_equal(batch[0], LABELS)
        np.testing.assert_array_equal(batch[1], 9)

    def test_large_but_finite_values_whose_sum_overflows(self, tmp_path):
        image = np.full(IMAGE.shape, 3e38, np.float32)
        np.testing.assert_array_equal(read_image(a_case(tmp_path, image=image)), image)


def changed(array: np.ndarray, place: tuple[int, ...], value: float) -> np.ndarray:
    array = array.copy()
    array[place] = value
    return array


# Damage of every other kind is in the corpus of malformed files.
BAD_IMAGES = {
    "no data": (as_bytes(IMAGE)[:128], "is truncated: float32 of shape (3, 4, 5, 2) is 480 bytes, 0 follow"),
    "records": (np.zeros(IMAGE.shape, [("a", "<f4")]), "is not an array in NumPy"),
    "NaN": (
        changed(IMAGE, (1, 2, 3, 0), np.nan),
        "holds 1 values that are NaN, infinite or beyond float32, first at (1, 2, 3, 0)",
    ),
    "beyond float32": (changed(IMAGE.astype(np.float64), (0, 0, 0, 0), 1e300), "first at (0, 0, 0, 0)"),
}
BAD_MASKS = {
    "label 255": (changed(LABELS, (0, 0, 0), 255), "expected whole labels 0 to 3, found values from 0 to 255"),
    "label 256 would wrap to 0": (changed(LABELS.astype(np.int32), (0, 0, 0), 256), "to 256"),
    "negative": (changed(LABELS.astype(np.int8), (0, 0, 0), -1), "from -1"),
    "NaN": (changed(LABELS.astype(np.float32), (0, 0, 0), np.nan), "expected whole labels"),
    "two classes": (ONE_HOT[..., :2], "expected labels (X, Y, Z), one-hot (X, Y, Z, 4) or soft (X, Y, Z, 3)"),
    "soft of floats": (ONE_HOT[..., :3].astype(np.float32), "has dtype float32, expected uint8"),
    "more than a voxel": (np.full((*LABELS.shape, 3), 100, np.uint8), "cover 255 parts of a voxel at most, found 300"),
    "complex": (LABELS.astype(np.complex64), "has dtype complex64, expected uint8"),
    "no class": (ONE_HOT * (LABELS > 0)[..., None], "expected one-hot"),
    "probabilities": (ONE_HOT * np.float32(0.5), "expected one-hot"),
    "one-hot NaN": (np.where(ONE_HOT, np.nan, 0), "expected one-hot"),
}


@pytest.mark.parametrize(("content", "message"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_bad_image_is_refused_in_a_line(tmp_path, content, message):
    case = a_case(tmp_path, image=content)
    with pytest.raises(InputError) as caught:
        read_image(case)
    text = str(caught.value)
    assert text.startswith(f"case BraTS-1: {case.image}: ")
    assert message in text
    assert "jaxbrats preprocess" in text
    assert text.isprintable()


@pytest.mark.parametrize(("content", "message"), BAD_MASKS.values(), ids=BAD_MASKS)
def test_bad_mask_is_refused_in_a_line(tmp_path, content, message):
    case = a_case(tmp_path, mask=content)
    with pytest.raises(InputError) as caught:
        read_labels(case)
    assert str(caught.value).startswith(f"case BraTS-1: {case.mask}: ")
    assert message in str(caught.value)


def test_no_file_and_a_folder(tmp_path):
    case = a_case(tmp_path)
    case.image.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        read_image(case)
    case.image.mkdir()
    with pytest.raises(InputError, match=r"cannot be read|not a regular file"):
        read_image(case)


def test_wrong_shape_for_the_batch(tmp_path):
    case = a_case(tmp_path)
    with pytest.raises(InputError, match=r"image.npy: has shape \(3, 4, 5, 2\), expected \(3, 4, 5, 3\)"):
        read_image(case, np.empty((3, 4, 5, 3), np.float32))
    with pytest.raises(InputError, match=r"mask.npy: has shape \(3, 4, 5\), expected \(3, 4, 6\)"):
        read_labels(case, np.empty((3, 4, 6), np.uint8))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flips=st.lists(st.tuples(st.integers(0, 191), st.integers(0, 255)), max_size=4),
    length=st.one_of(st.none(), st.integers(0, 188)),
)
def test_any_damage_is_refused_or_harmless(tmp_path, flips, length):
    content = bytearray(as_bytes(LABELS))
    for place, value in flips:
        content[place % len(content)] = value
    case = a_case(tmp_path, mask=bytes(content[:length]))
    try:
        labels = read_labels(case)
    except InputError as error:
        assert str(case.mask) in str(error)
    else:
        assert labels.dtype == np.uint8
        assert labels.max() <= 3


@pytest.mark.parametrize("array", [IMAGE, LABELS, IMAGE[::2, :, 1:], np.asfortranarray(LABELS)], ids=range(4))
def test_arrays_are_written_as_numpy_does(tmp_path, array):
    write_npy(tmp_path / "ours.npy", array)
    np.save(tmp_path / "theirs.npy", np.ascontiguousarray(array))
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()


def test_channels_that_are_there():
    image = np.zeros((2, 2, 2, 3))
    assert channels_present(image) == channels_present(image[0]) == [0]
    image[1, 0, 1, 1:] = -1, 2
    assert channels_present(image) == [1, 2]
    assert channels_present(image[0]) == [0]
